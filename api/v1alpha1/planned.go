package v1alpha1

import (
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A planned move has these steps. The watcher writes each; who does it is in brackets.
//
//	Accepted   limits and budgets allow it                               [watcher]
//	Prepared   the newest generation is on the way's other end (Live)    [source]
//	Parked     the successor waits in create (Live, where it may exist
//	           beside the old pod; Created and Scheduled come before)    [target]
//	Stopping   the source is told to stop the pod for good               [watcher]
//	Stopped    its last generation is durable and its processes have
//	           ended; it stands for Fenced, for this one pod             [source]
//	Deleted    and on, as after a loss; Created and Scheduled first
//	           where the successor exists already
//
// Until Stopping the move can be withdrawn, and the pod has noticed nothing, and for as
// long as the source has not noted SourceStatus.BeganAt. After it the source says how it ended: with SourceStatus.StoppedAt, or with an Error, and then
// the pod runs on there. Nobody may restore before StoppedAt is written.
//
// Replace and Application have Accepted, Created, Scheduled, Ready of the successor
// while the old pod still runs, then Stopping, when the old pod is asked to end with its
// grace period, and Deleted. Where the new pod cannot exist beside the old one, Replace
// has Accepted, Stopping, Deleted, and then the successor's. Application has Accepted,
// Stopping, Stopped, Deleted, Created, Scheduled there, and Ready when the successor has
// taken over the state: see Migration.Staged.
//
// A Migration that is being withdrawn has a Reason, and no Result yet: it comes when the
// pod has its labels back and the successor that waited is deleted.
const (
	PhaseAccepted Phase = "Accepted"
	PhasePrepared Phase = "Prepared"
	PhaseParked   Phase = "Parked"
	PhaseStopping Phase = "Stopping"
	PhaseStopped  Phase = "Stopped"
)

// AnnotationCancel on a planned Migration asks for it to be given up. Its value says
// why. After Stopping it comes too late, and is ignored.
const AnnotationCancel = "lifeboat.dev/cancel"

// AnnotationPodLabels on a planned Migration has the moved pod's labels as they were
// before it was released, as JSON. They are noted before, and put back by a withdrawal.
const AnnotationPodLabels = "lifeboat.dev/pod-labels"

// AnnotationHoldPorts on a planned Migration has the TCP ports of the moved pod for which
// the node that its successor waits on is to hold connections, as "80,8080". The watcher
// writes it; without it none are held.
const AnnotationHoldPorts = "lifeboat.dev/hold-ports"

// ConditionHoldingConnections is True on a planned Migration while EndpointSlices of
// Lifeboat's exist for it, by which connections wait for the moved pod; and False when
// they are gone again. Where it is missing there were none.
const ConditionHoldingConnections = "HoldingConnections"

// Reasons of ConditionHoldingConnections.
const (
	ReasonHolding  = "Holding"  // connections are led to where they can wait, or are about to be
	ReasonNotHeld  = "NotHeld"  // they cannot wait, or not any more; the message says why
	ReasonReleased = "Released" // the pod's own endpoints are in use again
)

// Reasons of a planned move that was withdrawn or failed, in MigrationStatus.Reason.
const (
	ReasonCanceled         = "Canceled"         // somebody asked for it to be given up
	ReasonDeadlineExceeded = "DeadlineExceeded" // it took longer than its spec allows
	ReasonNotAllowed       = "NotAllowed"       // the pod cannot be moved so; the message says why
	ReasonBudget           = "DisruptionBudget" // a PodDisruptionBudget does not allow it
	ReasonSourceFailed     = "SourceFailed"     // the source could not checkpoint the pod
	ReasonSourceLost       = "SourceLost"       // the source was lost meanwhile; a failover goes on
	ReasonTargetFailed     = "TargetFailed"     // the successor did not get as far as Parked, or Ready
	ReasonImportFailed     = "ImportFailed"     // the state could not be taken over
)

// SourceStatus is what the checkpointer on a planned move's source node did.
type SourceStatus struct {
	// PreparedAt is when PreparedGeneration was durable: the last stop will take only
	// what the pod writes after it.
	// +optional
	PreparedAt *metav1.MicroTime `json:"preparedAt,omitempty"`
	// +optional
	PreparedGeneration int64 `json:"preparedGeneration,omitempty"`
	// BeganAt is when it began to stop the pod. It is written before, and only while the
	// move is not being given up: until then the pod runs, and the move can be.
	// +optional
	BeganAt *metav1.MicroTime `json:"beganAt,omitempty"`
	// PausedAt is when the pod's processes were frozen for the last time.
	// +optional
	PausedAt *metav1.MicroTime `json:"pausedAt,omitempty"`
	// StoppedAt is when its last generation, or its application's state, was durable on the
	// source, and the last of its processes had ended. It is never written while one of
	// them may run again.
	// +optional
	StoppedAt *metav1.MicroTime `json:"stoppedAt,omitempty"`
	// Checkpoint is the last generation. Its holders are the source, and who else
	// took a copy before StoppedAt. Of a state that is staged it tells the same: that is kept
	// as a generation of its own, see Migration.StateUID.
	// +optional
	Checkpoint *HeldCheckpoint `json:"checkpoint,omitempty"`
	// BytesSent is what was copied to other nodes for the move.
	// +optional
	BytesSent int64 `json:"bytesSent,omitempty"`
	// Error says why the source could not stop the pod. The pod runs on there.
	// +optional
	Error string `json:"error,omitempty"`
	// Reason is NotAllowed where Error is for the pod's owner to mend.
	// +optional
	Reason string `json:"reason,omitempty"`
	// KeptAddress is the pod's address, where established connections are part of the last
	// generation: the source keeps it for them, and sends on what comes for it.
	// +optional
	KeptAddress string `json:"keptAddress,omitempty"`
	// Hooks are those that were called in the pod.
	// +optional
	Hooks []HookResult `json:"hooks,omitempty"`
}

// KeptConnections tells what became of the connections that were to outlive a move.
type KeptConnections struct {
	// Address is the former address of the pod, which it has beside its own for them.
	Address string `json:"address"`
	// OpenedAt is when they could go on.
	// +optional
	OpenedAt *metav1.MicroTime `json:"openedAt,omitempty"`
	// EndedAt is when the address was taken away: the last of them had ended, or the pod
	// had, or they were not kept.
	// +optional
	EndedAt *metav1.MicroTime `json:"endedAt,omitempty"`
	// Message says why they were not kept.
	// +optional
	Message string `json:"message,omitempty"`
}

// Holding is where connections wait for a pod that is not there yet.
type Holding struct {
	// PodIPs are the pod's addresses as the container runtime tells them. The pod's own
	// status has them only later.
	PodIPs []string `json:"podIPs"`
	// Ports are where they wait, by the pod's own ports.
	// +listType=map
	// +listMapKey=port
	Ports []HoldPort `json:"ports"`
}

// HoldPort is where connections to one TCP port of a pod wait for it.
type HoldPort struct {
	// Port is the pod's own port.
	Port int32 `json:"port"`
	// HoldPort is the port, at the same addresses, at which they wait.
	HoldPort int32 `json:"holdPort"`
}

// At is the port at which connections to a port of the pod wait, 0 where they do not.
func (h *Holding) At(port int32) int32 {
	if h != nil {
		for _, p := range h.Ports {
			if p.Port == port {
				return p.HoldPort
			}
		}
	}
	return 0
}

// PortsToHold are the ports of AnnotationHoldPorts, nil where it is missing or is none.
func (m *Migration) PortsToHold() []int32 {
	var ports []int32
	for word := range strings.SplitSeq(m.Annotations[AnnotationHoldPorts], ",") {
		port, err := strconv.ParseUint(word, 10, 16)
		if err != nil || port == 0 {
			return nil
		}
		ports = append(ports, int32(port))
	}
	return ports
}

// HookResult is what came of calling one hook.
type HookResult struct {
	// Name is the annotation's, without its prefix: "pre-checkpoint".
	Name      string `json:"name"`
	Container string `json:"container"`
	Succeeded bool   `json:"succeeded"`
	// Output is the end of what it printed, or of the answer's body.
	// +optional
	Output  string  `json:"output,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Planned says whether the Migration was asked for: a planned move, or a clone.
func (m *Migration) Planned() bool { return m.Spec.Strategy != StrategyFailover }

// Released says whether the moved pod was, or is about to be, released by its owner, so
// that its successor exists beside it.
func (m *Migration) Released() bool { return m.Annotations[AnnotationPodLabels] != "" }

// Withdrawing says whether a planned move is being given up.
func (m *Migration) Withdrawing() bool { return m.Planned() && m.Open() && m.Status.Reason != "" }

// Staged says whether the state that an application moves by its own endpoints is kept
// between its export and its import: the new pod cannot be beside the old one, which is
// stopped first. It is known from Stopping on.
func (m *Migration) Staged() bool {
	return m.Spec.Strategy == StrategyApplication && m.Reached(PhaseStopping) && !m.Released()
}

// StateUID stands for the moved pod's UID where the nodes keep a state that is staged: it
// is none of the pod's generations, and must never be restored as one.
func (m *Migration) StateUID() types.UID { return m.Spec.Pod.UID + "-state" }

// AwaitsImport says whether a pod is to take over an application's state, and has not yet:
// what it has in memory is worth nothing.
func (m *Migration) AwaitsImport(pod types.UID) bool {
	if m.Spec.Strategy != StrategyApplication || !m.Open() || !m.ClaimedBy(pod) {
		return false
	}
	if m.Staged() {
		return !m.RestoreCommitted()
	}
	restore := m.Status.Restore
	return restore == nil || restore.PodUID != pod || len(restore.Hooks) == 0
}

// SourceStopped says whether the old copy runs no more, and never will again: its
// node is fenced or, of a planned move, its source has said so itself.
func (m *Migration) SourceStopped() bool {
	return m.Reached(PhaseFenced) || m.Planned() && m.Status.Source != nil && m.Status.Source.StoppedAt != nil
}

// TooLateToCancel says whether the source may have stopped the pod already.
func (m *Migration) TooLateToCancel() bool {
	return m.Reached(PhaseStopping) || m.Reached(PhaseDeleted)
}
