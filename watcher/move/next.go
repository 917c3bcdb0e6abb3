package move

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// lookAtPod is how often a pod is looked at that the watcher does not hear of: of
	// one that is not protected, or whose end something delays.
	lookAtPod = time.Second
	// sourceSilent is how long the source may take to begin the stop, and how long it is
	// waited for once the pod is gone: there is nothing left that it could say.
	sourceSilent = 2 * time.Minute
	// stopSilent is how long a source that has begun to stop the pod may take: it gives up
	// by itself after five minutes, and has a minute to say so.
	stopSilent = 6 * time.Minute
	// readyDeadline is how long after the old pod's deletion its replacement may take
	// to become Ready.
	readyDeadline = 10 * time.Minute
)

// Next is the next step of a planned move that is open.
func Next(v *View) Step {
	m := v.Migration
	switch {
	case m.Withdrawing():
		result := v1alpha1.ResultWithdrawn
		if m.Status.Reason == v1alpha1.ReasonSourceLost {
			result = v1alpha1.ResultFailed
		}
		return Step{Do: Withdraw, Result: result, Reason: m.Status.Reason, Message: m.Status.Message}
	case sourceLost(v):
		return Step{Do: Withdraw, Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonSourceLost,
			Message: fmt.Sprintf("node %s was lost before the pod was stopped there; what follows is another migration's matter", m.Spec.SourceNode)}
	case !m.Reached(v1alpha1.PhaseAccepted):
		return admit(v)
	case !m.Reached(v1alpha1.PhaseStopping):
		return beforeStop(v)
	case StoppedBySource(m):
		return afterStop(v)
	default:
		return replaced(v)
	}
}

// withdraw gives a move up: the pod runs on where it is.
func withdraw(reason, message string) Step {
	return Step{Do: Withdraw, Result: v1alpha1.ResultWithdrawn, Reason: reason, Message: message}
}

// sourceLost says whether the source was lost with the pod: before it said that the pod
// is stopped or, where no state is moved by it, before the pod was no longer needed.
func sourceLost(v *View) bool {
	m := v.Migration
	if v.Superseded && !m.Reached(v1alpha1.PhaseStopped) && !m.Reached(v1alpha1.PhaseDeleted) {
		return true
	}
	if !v.SourceFenced || m.SourceStopped() || m.Reached(v1alpha1.PhaseDeleted) {
		return false
	}
	return StoppedBySource(m) || !m.Reached(v1alpha1.PhaseStopping)
}

// beforeStop is what is next of a move that can still be given up.
func beforeStop(v *View) Step {
	m := v.Migration
	if step, ok := giveUp(v); ok {
		return step
	}
	first := v.Beside && m.Spec.Strategy != v1alpha1.StrategyCold && m.Spec.Strategy != v1alpha1.StrategyWarm
	switch {
	case unknown(m):
		return Step{Do: Keep}
	case first && (!m.Released() || v.Pod.Labels[labelHash] != hash(m)):
		return Step{Do: Release}
	case askToHold(v):
		return Step{Do: AskToHold}
	case m.Spec.Strategy == v1alpha1.StrategyLive && !m.Reached(v1alpha1.PhasePrepared):
		return Step{Do: Wait, Look: Deadline(m)}
	case !first:
		return Step{Do: Stop}
	}
	if step, ok := awaitSuccessor(v); !ok {
		return step
	}
	if step, ok := holdBeforeStop(v); ok {
		return step
	}
	if len(v.Selected) > 0 {
		return Step{Do: LeaveServices}
	}
	return Step{Do: Stop}
}

func hash(m *v1alpha1.Migration) string {
	_, value := HashLabel(m)
	return value
}

// Annotations of a Migration, for the watcher itself.
const (
	// AnnotationManifest keeps a bare pod until its successor exists: between the
	// deletion of the one and the creation of the other nothing else has it.
	AnnotationManifest = "lifeboat.dev/pod-manifest"
	// AnnotationSiblings has the UIDs of the owner's pods that there are before the moved
	// one's successor is created, as JSON. No scheduler claims a move by replacement, so
	// that nothing else tells the successor from them.
	AnnotationSiblings = "lifeboat.dev/siblings"
)

// unknown says whether the successor could not be made, or not be told from other pods,
// once the pod is gone.
func unknown(m *v1alpha1.Migration) bool {
	switch owner := m.Spec.Pod; {
	case owner.OwnerUID == "":
		return m.Annotations[AnnotationManifest] == ""
	case m.Spec.Strategy == v1alpha1.StrategyReplace && owner.OwnerKind != "StatefulSet":
		return m.Annotations[AnnotationSiblings] == ""
	}
	return false
}

// awaitSuccessor says whether the successor beside the old pod is where it has to be
// before the old one goes, and else what to wait for.
func awaitSuccessor(v *View) (Step, bool) {
	m := v.Migration
	wait := Step{Do: Wait, Look: Deadline(m)}
	if m.Spec.Strategy == v1alpha1.StrategyLive {
		return wait, m.Reached(v1alpha1.PhaseParked)
	}
	if m.Spec.Strategy == v1alpha1.StrategyReplace {
		wait.Look = v.Now.Add(lookAtPod)
		if v.Successor != nil && v.Successor.Spec.NodeName != "" && m.Status.Claim == nil {
			return Step{Do: Claim}, false
		}
	}
	if v.Successor == nil || m.Status.Claim == nil || !m.Reached(v1alpha1.PhaseReady) || !v1alpha1.PodReady(v.Successor) {
		return wait, false
	}
	if m.Spec.Strategy == v1alpha1.StrategyApplication {
		switch done, why := imported(m); {
		case why != "":
			return withdraw(v1alpha1.ReasonImportFailed, why), false
		case !done:
			return wait, false
		}
	}
	return Step{}, true
}

// The hooks between which an application hands over its state, as in HookResult.
const (
	hookExport = "state-export"
	hookImport = "state-import"
)

// imported says whether the claim's pod has taken over the state, and else why it never
// will, empty while it may.
func imported(m *v1alpha1.Migration) (done bool, why string) {
	restore := m.Status.Restore
	if restore == nil || m.Status.Claim == nil || restore.PodUID != m.Status.Claim.PodUID {
		return false, ""
	}
	succeeded := map[string]bool{}
	for _, hook := range restore.Hooks {
		if hook.Name != hookExport && hook.Name != hookImport {
			continue
		}
		if !hook.Succeeded {
			return false, fmt.Sprintf("hook %s in container %s failed: %s", hook.Name, hook.Container, hook.Output)
		}
		succeeded[hook.Name] = true
	}
	return succeeded[hookExport] && succeeded[hookImport], ""
}

// giveUp is the withdrawal of a move that cannot go on, or is to go on no longer.
func giveUp(v *View) (Step, bool) {
	m, claim := v.Migration, v.Migration.Status.Claim
	switch why := asked(m); {
	case why != "":
		return withdraw(v1alpha1.ReasonCanceled, why), true
	case isDeleted(v):
		return withdraw(v1alpha1.ReasonNotAllowed, fmt.Sprintf("somebody has deleted pod %s before it was stopped", m.Spec.Pod.Name)), true
	case v.Pod.Status.Phase == corev1.PodSucceeded, v.Pod.Status.Phase == corev1.PodFailed:
		return withdraw(v1alpha1.ReasonNotAllowed, fmt.Sprintf("pod %s has ended: it is %s", m.Spec.Pod.Name, v.Pod.Status.Phase)), true
	case m.Status.Source != nil && m.Status.Source.Error != "":
		return withdraw(cmp.Or(m.Status.Source.Reason, v1alpha1.ReasonSourceFailed), m.Status.Source.Error), true
	case v.TargetFenced:
		return withdraw(v1alpha1.ReasonTargetFailed, fmt.Sprintf("node %s, to which the pod was to go, was lost", claim.NodeName)), true
	case claim != nil && (v.Successor == nil || v.Successor.DeletionTimestamp != nil):
		return withdraw(v1alpha1.ReasonTargetFailed, fmt.Sprintf("pod %s on node %s, which was to take over, was deleted", claim.PodName, claim.NodeName)), true
	case claim != nil && v.Successor.Status.Phase == corev1.PodFailed:
		return withdraw(v1alpha1.ReasonTargetFailed, fmt.Sprintf("pod %s on node %s, which was to take over, failed: %s", claim.PodName, claim.NodeName, v.Successor.Status.Message)), true
	case !v.Now.Before(Deadline(m)):
		return withdraw(v1alpha1.ReasonDeadlineExceeded, fmt.Sprintf("the pod was not stopped by the deadline: %s", waitsFor(v))), true
	}
	return Step{}, false
}

// waitsFor says in words what a move waits for before it stops the pod.
func waitsFor(v *View) string {
	m := v.Migration
	switch {
	case m.Spec.Strategy == v1alpha1.StrategyLive && !m.Reached(v1alpha1.PhasePrepared):
		return fmt.Sprintf("the checkpointer on node %s has not prepared it", m.Spec.SourceNode)
	case v.Successor == nil:
		return "no pod was created to take its place"
	case v.Successor.Spec.NodeName == "":
		for _, c := range v.Successor.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Message != "" {
				return fmt.Sprintf("pod %s cannot be placed: %s", v.Successor.Name, c.Message)
			}
		}
		return fmt.Sprintf("pod %s has not been placed on a node", v.Successor.Name)
	case m.Spec.Strategy == v1alpha1.StrategyLive:
		return fmt.Sprintf("pod %s on node %s is not ready to take over", v.Successor.Name, v.Successor.Spec.NodeName)
	case m.Reached(v1alpha1.PhaseReady):
		return fmt.Sprintf("pod %s on node %s has not taken over the state", v.Successor.Name, v.Successor.Spec.NodeName)
	}
	return fmt.Sprintf("pod %s on node %s is not Ready", v.Successor.Name, v.Successor.Spec.NodeName)
}

// afterStop is what is next once the source was told to stop the pod, or has.
func afterStop(v *View) Step {
	m, source := v.Migration, v.Migration.Status.Source
	switch {
	case m.Reached(v1alpha1.PhaseDeleted):
		return Step{Do: Follow}
	case m.Reached(v1alpha1.PhaseStopped):
		return Step{Do: Remove}
	case source != nil && source.StoppedAt != nil:
		return Step{Do: NoteStopped}
	case source != nil && source.Error != "" && isDeleted(v):
		return withdraw(v1alpha1.ReasonNotAllowed, fmt.Sprintf("somebody has deleted pod %s while it was being stopped, and that failed: %s", m.Spec.Pod.Name, source.Error))
	case source != nil && source.Error != "":
		return withdraw(v1alpha1.ReasonSourceFailed, source.Error)
	case is(v.Pod, m):
		return silent(v)
	}
	until := phaseAt(m, v1alpha1.PhaseStopping).Add(sourceSilent)
	if v.Now.Before(until) {
		return Step{Do: Wait, Look: until}
	}
	return withdraw(v1alpha1.ReasonSourceFailed, fmt.Sprintf("pod %s was deleted while it was being stopped, and node %s does not say what became of its state",
		m.Spec.Pod.Name, m.Spec.SourceNode))
}

// silent is what is next while the source has not said how the stop ended. One that has
// not begun has left the pod as it is. Of one that has, only it knows, or the loss of its
// node: the pod may stand still, or have been ended.
func silent(v *View) Step {
	m, source := v.Migration, v.Migration.Status.Source
	if source == nil || source.BeganAt == nil {
		until := phaseAt(m, v1alpha1.PhaseStopping).Add(sourceSilent)
		if v.Now.Before(until) {
			return Step{Do: Wait, Look: until}
		}
		return withdraw(v1alpha1.ReasonSourceFailed, fmt.Sprintf("the checkpointer on node %s has not begun to stop the pod for %s; see whether it runs there", m.Spec.SourceNode, sourceSilent))
	}
	until := source.BeganAt.Add(stopSilent)
	if v.Now.Before(until) {
		return Step{Do: Wait, Look: until}
	}
	return Step{Do: Tell, Message: fmt.Sprintf("node %s began to stop the pod and has not said for %s how that ended, so the pod may stand still; "+
		"restart the checkpointer there or, if it cannot be had back, power the node off: the newest generation is restored elsewhere then", m.Spec.SourceNode, stopSilent)}
}

// replaced is what is next once the old pod is to end with its grace period.
func replaced(v *View) Step {
	m := v.Migration
	if !m.Reached(v1alpha1.PhaseDeleted) {
		return Step{Do: Delete, Look: v.Now.Add(lookAtPod)}
	}
	if m.Released() {
		return finished(m)
	}
	if v.Successor == nil && m.Annotations[AnnotationManifest] != "" && !m.Reached(v1alpha1.PhaseCreated) {
		return Step{Do: Recreate}
	}
	if v.Successor != nil && v.Successor.Spec.NodeName != "" && m.Status.Claim == nil {
		return Step{Do: Claim}
	}
	if m.Reached(v1alpha1.PhaseReady) {
		return finished(m)
	}
	deadline := phaseAt(m, v1alpha1.PhaseDeleted).Add(readyDeadline)
	if v.Now.Before(deadline) {
		return Step{Do: Wait, Look: v.Now.Add(lookAtPod)}
	}
	return Step{Do: Close, Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonNotReady,
		Message: fmt.Sprintf("after %s no pod in the old one's place is Ready: %s", readyDeadline, waitsFor(v))}
}

func finished(m *v1alpha1.Migration) Step {
	by := "the new pod"
	if m.Status.Claim != nil {
		by = fmt.Sprintf("pod %s on node %s", m.Status.Claim.PodName, m.Status.Claim.NodeName)
	}
	if m.Spec.Strategy == v1alpha1.StrategyApplication {
		return Step{Do: Close, Result: v1alpha1.ResultImported, Message: by + " has taken the state over"}
	}
	return Step{Do: Close, Result: v1alpha1.ResultReplaced, Message: by + " has taken the pod's place"}
}
