package move

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Limits bound how many pods are moved on purpose at a time.
type Limits struct {
	// PerNode bounds the moves away from, and to, one node.
	PerNode int
	// Cluster bounds them all.
	Cluster int
}

// DefaultLimits are the limits where nobody sets others.
var DefaultLimits = Limits{PerNode: 2, Cluster: 8}

// A View is what is known when the next step of a planned move is decided.
type View struct {
	Migration *v1alpha1.Migration
	// Pod is the pod that is to move, nil when it is gone. Beside says whether its
	// successor can exist beside it, which is no matter once it is released.
	Pod    *corev1.Pod
	Beside bool
	// Selected are the keys of Pod's labels by which Services select it now. They are
	// known only when the pod is about to be stopped.
	Selected []string
	// Holding is what is known of connections that are to wait while Pod is stopped, nil
	// where none are to, or where that does not matter yet.
	Holding *Holding
	// Successor is the pod that takes Pod's place, nil while there is none.
	Successor *corev1.Pod
	// SourceFenced says that the source node is fenced, and TargetFenced that the node of
	// the claim is. Superseded says that a failover of the same pod has begun.
	SourceFenced, TargetFenced, Superseded bool

	// What follows is known only while the move is not accepted yet.

	// Others are the cluster's open Migrations but this one.
	Others []v1alpha1.Migration
	// Budgets are the PodDisruptionBudgets that select the pod.
	Budgets []Budget
	// Target is the Node object of spec.targetNode, nil when there is none, and
	// TargetUsable says that its Fence lets it run pods.
	Target       *corev1.Node
	TargetUsable bool
	// Checkpoint is the pod's, nil when it has none.
	Checkpoint *v1alpha1.Checkpoint
	Limits     Limits

	Now time.Time
}

// Budget is a PodDisruptionBudget that selects the pod.
type Budget struct {
	Name string
	// Allowed is how many more pods may be disrupted, less those that are being moved.
	Allowed int32
}

// Do is what is to be done next.
type Do string

// What may be done next. All of it may be done again.
const (
	Wait          Do = "Wait"          // for somebody else, or for Look
	Hold          Do = "Hold"          // note in the Migration why the move waits
	Accept        Do = "Accept"        // stamp Accepted
	Release       Do = "Release"       // note the pod's labels in the Migration, and change the one its owner selects it by
	Keep          Do = "Keep"          // note a bare pod's manifest, or the pod's siblings, in the Migration
	Claim         Do = "Claim"         // note the successor in a Migration that no scheduler claims
	AskToHold     Do = "AskToHold"     // note in the Migration to which ports connections are to be held
	BeginHolding  Do = "BeginHolding"  // note in the Migration that own EndpointSlices are about to exist
	ShowOld       Do = "ShowOld"       // have them lead to the pod
	ShowNew       Do = "ShowNew"       // have them lead to where connections wait for its successor
	StopHolding   Do = "StopHolding"   // note in the Migration why connections do not wait
	EndHolding    Do = "EndHolding"    // remove the own EndpointSlices, and note that they are gone
	LeaveServices Do = "LeaveServices" // take away the labels by which Services select the pod
	Stop          Do = "Stop"          // stamp Stopping
	NoteStopped   Do = "NoteStopped"   // stamp Stopped, and take over what the source says of the last generation
	Remove        Do = "Remove"        // delete the pod at once: its processes have ended
	Delete        Do = "Delete"        // delete the pod with its grace period, and stamp Deleted once it is gone
	Recreate      Do = "Recreate"      // make a bare pod again
	Tell          Do = "Tell"          // say in the Migration what it waits for
	Follow        Do = "Follow"        // go on as after a loss
	Withdraw      Do = "Withdraw"      // note why, put the labels back, delete the successor, and close the Migration
	Close         Do = "Close"         // close the Migration
)

// A Step is what is next.
type Step struct {
	Do Do
	// Held is why the move waits, of Hold.
	Held v1alpha1.HeldReason
	// Result is the Migration's, of Withdraw and Close. Reason and Message are
	// its status's, and the message is that of Hold, too.
	Result          v1alpha1.Result
	Reason, Message string
	// Look is when to look again if nothing changes before; zero is only after a change.
	Look time.Time
}

// labelHash is the label by which a Deployment's ReplicaSet selects its pods, and no
// Service does.
const labelHash = "pod-template-hash"

// HashLabel is the label whose change releases a pod, and its value then.
func HashLabel(m *v1alpha1.Migration) (key, value string) {
	return labelHash, "moved-by-" + string(m.UID)
}

// MayBeReleased says whether a pod's owner makes another one at once when the pod is
// released. Whether volumes allow it is another matter.
func MayBeReleased(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOfNoCopy(pod)
	return owner != nil && owner.Kind == "ReplicaSet" && pod.Labels[labelHash] != ""
}

// Stateful says whether a strategy moves the state of the pod's processes.
func Stateful(strategy v1alpha1.Strategy) bool {
	return strategy == v1alpha1.StrategyCold || strategy == v1alpha1.StrategyWarm || strategy == v1alpha1.StrategyLive
}

// StoppedBySource says whether the source stops the pod and says so, as it does where state
// goes on from there: in a checkpoint, or in one that the application has exported.
func StoppedBySource(m *v1alpha1.Migration) bool { return Stateful(m.Spec.Strategy) || m.Staged() }

// Deadline is when a move that has not stopped the pod by then is given up.
func Deadline(m *v1alpha1.Migration) time.Time {
	limit := time.Duration(m.Spec.DeadlineSeconds) * time.Second
	if limit <= 0 {
		limit = v1alpha1.DefaultDeadline
	}
	return m.CreationTimestamp.Add(limit)
}

// phaseAt is the moment of a step, zero while it is not completed.
func phaseAt(m *v1alpha1.Migration, phase v1alpha1.Phase) time.Time {
	at, _ := m.PhaseAt(phase)
	return at
}

// isDeleted says whether the pod that is to move is gone, or about to be.
func isDeleted(v *View) bool { return !is(v.Pod, v.Migration) || v.Pod.DeletionTimestamp != nil }

// is says whether the pod that the API has is still the one that is to move.
func is(pod *corev1.Pod, m *v1alpha1.Migration) bool { return pod != nil && pod.UID == m.LostPod() }
