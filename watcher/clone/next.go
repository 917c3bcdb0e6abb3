package clone

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Limit is how many clones are started at a time in the cluster. Each reads a whole
// checkpoint from a node that other pods may need it of.
const Limit = 4

const (
	lookWhileHeld = time.Second
	// claimGrace is how long the watcher's view of a Migration may be behind that of the
	// pod which has claimed it.
	claimGrace = 5 * time.Second
	// placeTime is how long a clone waits for a node that could restore it, where all
	// that there are cannot.
	placeTime = time.Minute
)

// A View is what is known when the next step of a clone is decided.
type View struct {
	Migration *v1alpha1.Migration
	// Pod is the pod of the clone's name, nil while there is none.
	Pod *corev1.Pod
	// TargetFenced says that the node of the claim is fenced.
	TargetFenced bool
	// Judged is what came of the clone's containers, of one that is Ready and has claimed
	// the Migration.
	Judged Judgement

	// What follows is known only until the clone is made.

	// Source is the pod that is cloned, nil when it is gone.
	Source *corev1.Pod
	// Held is the generation that is to be restored, nil where no node has it, and Known are
	// those that nodes have.
	Held  *v1alpha1.HeldCheckpoint
	Known []int64
	// Adopters are the owners, as "ReplicaSet web", that would take the clone for theirs.
	Adopters []string
	// Target is the Node object of spec.targetNode, nil when there is none, and TargetUsable
	// says that its Fence lets it run pods.
	Target       *corev1.Node
	TargetUsable bool
	// Others is how many clones are being started that come first.
	Others int

	Now time.Time
}

// Judgement is what came of the containers of a clone that is Ready.
type Judgement struct {
	// Restored says that all of them came back; Undecided that it is not known yet.
	Restored, Undecided bool
	Reason, Message     string
	// Look is when to judge again if nothing changes before.
	Look time.Time
}

// Do is what is to be done next.
type Do string

// What may be done next. All of it may be done again.
const (
	Wait   Do = "Wait"   // for somebody else, or for Look
	Hold   Do = "Hold"   // note in the Migration why the clone waits
	Accept Do = "Accept" // note which generation there is, and stamp Accepted
	Make   Do = "Make"   // create the pod
	GiveUp Do = "GiveUp" // note why, delete the pod, and close the Migration with Result
	Close  Do = "Close"  // close the Migration as Restored
)

// A Step is what is next.
type Step struct {
	Do Do
	// Held is why the clone waits, of Hold.
	Held v1alpha1.HeldReason
	// Result is the Migration's, of GiveUp. Reason and Message are its status's, and the
	// message is that of Hold and Close, too.
	Result          v1alpha1.Result
	Reason, Message string
	// Look is when to look again if nothing changes before; zero is only after a change.
	Look time.Time
}

// Next says what is next for a clone whose Migration is open.
func Next(v *View) Step {
	m := v.Migration
	if m.Withdrawing() {
		return giveUp(m, m.Status.Reason, m.Status.Message)
	}
	made := m.Reached(v1alpha1.PhaseCreated)
	if made {
		if step := follow(v); step.Do != Wait {
			return step
		}
	}
	if why, ok := m.Annotations[v1alpha1.AnnotationCancel]; ok {
		if why == "" {
			why = "it was asked for"
		}
		return giveUp(m, v1alpha1.ReasonCanceled, why)
	}
	if deadline := deadline(m); !v.Now.Before(deadline) {
		return giveUp(m, v1alpha1.ReasonDeadlineExceeded, fmt.Sprintf("the clone was not Ready within %s: %s", deadline.Sub(m.CreationTimestamp.Time), stands(v)))
	}
	if made {
		step := follow(v)
		step.Look = soonest(step.Look, deadline(m))
		return step
	}
	if why := notAllowed(v); why != "" {
		return giveUp(m, v1alpha1.ReasonNotAllowed, why)
	}
	if m.Reached(v1alpha1.PhaseAccepted) {
		return Step{Do: Make}
	}
	if v.Held == nil {
		return giveUp(m, v1alpha1.ReasonNoCheckpoint, noCheckpoint(v))
	}
	if v.Others >= Limit {
		return Step{Do: Hold, Held: v1alpha1.HeldMoveLimit, Look: v.Now.Add(lookWhileHeld),
			Message: fmt.Sprintf("%d clones are being started in the cluster, which is as many as may at a time", v.Others)}
	}
	return Step{Do: Accept}
}

// giveUp ends a clone. It has failed once it was begun and nobody asked for its end.
func giveUp(m *v1alpha1.Migration, reason, message string) Step {
	result := v1alpha1.ResultFailed
	if reason == v1alpha1.ReasonCanceled || !m.Reached(v1alpha1.PhaseAccepted) {
		result = v1alpha1.ResultWithdrawn
	}
	return Step{Do: GiveUp, Result: result, Reason: reason, Message: message}
}

// follow looks how far the pod has come.
func follow(v *View) Step {
	m, pod, claim := v.Migration, v.Pod, v.Migration.Status.Claim
	switch {
	case v.TargetFenced:
		return giveUp(m, v1alpha1.ReasonTargetFailed, fmt.Sprintf("node %s was lost while the clone was being restored there", claim.NodeName))
	case !m.ClonedBy(pod) || claim != nil && pod.UID != claim.PodUID:
		return giveUp(m, v1alpha1.ReasonPodReplaced, fmt.Sprintf("pod %s was deleted before it was Ready", m.Spec.Pod.Name))
	case pod.DeletionTimestamp != nil:
		return giveUp(m, v1alpha1.ReasonPodReplaced, fmt.Sprintf("pod %s is being deleted", pod.Name))
	case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
		return giveUp(m, v1alpha1.ReasonNotReady, fmt.Sprintf("pod %s ended before it was Ready: %s", pod.Name, pod.Status.Phase))
	}
	if claim == nil {
		return unclaimed(v)
	}
	if restore := m.Status.Restore; restore != nil && restore.PodUID == pod.UID {
		for _, c := range restore.Containers {
			if c.Result == v1alpha1.ResultFailed || c.Result == v1alpha1.ResultColdStarted {
				return giveUp(m, c.Reason, fmt.Sprintf("container %s could not be restored: %s", c.Name, c.Message))
			}
			if ended := endedAgain(pod, c.Name, restore.Attempts); ended {
				return giveUp(m, v1alpha1.ReasonRestoreFailed, fmt.Sprintf("container %s came back from generation %d, and ended", c.Name, restore.Generation))
			}
		}
	}
	switch {
	case !v1alpha1.PodReady(pod) || v.Judged.Undecided:
		return Step{Do: Wait, Look: v.Judged.Look}
	case v.Judged.Restored:
		return Step{Do: Close, Result: v1alpha1.ResultRestored, Message: v.Judged.Message}
	}
	return giveUp(m, v.Judged.Reason, v.Judged.Message)
}

// unclaimed looks at a clone that no scheduler has placed by its Migration yet.
func unclaimed(v *View) Step {
	m, pod := v.Migration, v.Pod
	placed := v1alpha1.PodConditionOf(pod, corev1.PodScheduled)
	if pod.Spec.NodeName != "" {
		until := v.Now.Add(claimGrace)
		if placed != nil {
			until = placed.LastTransitionTime.Add(claimGrace)
		}
		if v.Now.Before(until) {
			return Step{Do: Wait, Look: until}
		}
		return giveUp(m, v1alpha1.ReasonNotAsked, fmt.Sprintf("pod %s was placed by %s, which knows nothing of this migration", pod.Name, pod.Spec.SchedulerName))
	}
	if placed == nil || placed.Status != corev1.ConditionFalse || !strings.Contains(placed.Message, "node cannot restore the pod") {
		return Step{Do: Wait}
	}
	until := placed.LastTransitionTime.Add(placeTime)
	if v.Now.Before(until) {
		return Step{Do: Wait, Look: until}
	}
	return giveUp(m, v1alpha1.ReasonNoCompatibleNode, fmt.Sprintf("no node could take the restore for %s: %s", placeTime, placed.Message))
}

// notAllowed is why the clone cannot be made, or "".
func notAllowed(v *View) string {
	m, source := v.Migration, v.Source
	from := m.Spec.Clone.Pod
	switch {
	case source == nil || source.UID != from.UID:
		return fmt.Sprintf("pod %s with the UID %s does not exist any more", from.Name, from.UID)
	case source.DeletionTimestamp != nil:
		return fmt.Sprintf("pod %s is being deleted", source.Name)
	case v1alpha1.IdentityOf(source) != from:
		return fmt.Sprintf("the owner of pod %s is not the one that spec.clone.pod names", source.Name)
	}
	if why := v1alpha1.NotCloned(source); why != "" {
		return why
	}
	if why := imageChanged(source); why != "" {
		return why
	}
	switch {
	case v.Pod != nil && !m.ClonedBy(v.Pod):
		return fmt.Sprintf("there is a pod %s already; choose another name", v.Pod.Name)
	case len(v.Adopters) > 0:
		return fmt.Sprintf("with the labels %s the clone would be taken for a pod of %s, which might delete another one for it; leave some of them out",
			text(m.Spec.Clone.Labels), strings.Join(v.Adopters, ", "))
	}
	return targetNotAllowed(v)
}

func targetNotAllowed(v *View) string {
	target, node := v.Migration.Spec.TargetNode, v.Target
	switch {
	case target == "":
		return ""
	case node == nil:
		return fmt.Sprintf("node %s does not exist", target)
	case node.Spec.Unschedulable:
		return fmt.Sprintf("node %s is cordoned", target)
	case !v.TargetUsable:
		return fmt.Sprintf("node %s may not run protected pods: it has no Fence that says Running", target)
	}
	return ""
}

// noCheckpoint says that there is nothing to restore, and what there would be.
func noCheckpoint(v *View) string {
	asked := v.Migration.Spec.Clone
	if asked.Generation == 0 || len(v.Known) == 0 {
		return fmt.Sprintf("no node that is alive holds a generation of pod %s", asked.Pod.Name)
	}
	known := slices.Clone(v.Known)
	slices.Sort(known)
	numbers := make([]string, len(known))
	for i, n := range known {
		numbers[i] = fmt.Sprint(n)
	}
	return fmt.Sprintf("no node that is alive holds generation %d of pod %s; there are %s", asked.Generation, asked.Pod.Name, strings.Join(numbers, ", "))
}

// deadline is when a clone that is not Ready by then is given up.
func deadline(m *v1alpha1.Migration) time.Time {
	limit := time.Duration(m.Spec.DeadlineSeconds) * time.Second
	if limit <= 0 {
		limit = v1alpha1.DefaultDeadline
	}
	return m.CreationTimestamp.Add(limit)
}

// stands says how far the clone has come, for one that takes too long.
func stands(v *View) string {
	m, pod := v.Migration, v.Pod
	switch {
	case m.Status.Held != nil:
		return m.Status.Held.Message
	case pod == nil:
		return "it has not been made"
	case pod.Spec.NodeName == "":
		if placed := v1alpha1.PodConditionOf(pod, corev1.PodScheduled); placed != nil && placed.Message != "" {
			return "it cannot be placed: " + placed.Message
		}
		return "it has not been placed on a node"
	}
	for _, status := range pod.Status.ContainerStatuses {
		if w := status.State.Waiting; w != nil && w.Reason != "" {
			return fmt.Sprintf("container %s on node %s: %s: %s", status.Name, pod.Spec.NodeName, w.Reason, w.Message)
		}
	}
	return "its containers on node " + pod.Spec.NodeName + " are not Ready"
}

// endedAgain says whether a container that was restored has ended since. It ends by
// itself once for each further attempt, when the memory that it had turned out to be damaged.
func endedAgain(pod *corev1.Pod, container string, attempts int32) bool {
	if attempts > 1 {
		return false // left to the judgement of a pod that is Ready
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range statuses {
			if s.Name == container && (s.State.Terminated != nil || s.LastTerminationState.Terminated != nil) {
				return true
			}
		}
	}
	return false
}

// soonest is the earlier of two moments, of which zero is none.
func soonest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
