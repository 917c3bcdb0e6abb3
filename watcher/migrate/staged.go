package migrate

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// What is different where an application's state is staged: its successor starts as any
// other pod and is worth nothing until it has taken over the state, which nodes keep.

// hookImport is the hook by which the state is taken over, as in HookResult.
const hookImport = "state-import"

// judgeImport judges the Ready pod that is to take over a state that is staged.
func judgeImport(m *v1alpha1.Migration, pod *corev1.Pod, now time.Time) Verdict {
	restore := m.Status.Restore
	if !m.RestoreCommitted() {
		until := deletedAt(m).Add(readyDeadline)
		if now.Before(until) {
			return Verdict{Look: until}
		}
		return cold(m, v1alpha1.ReasonImportFailed, fmt.Sprintf("for %s pod %s has not taken over the state that pod %s exported: %s",
			readyDeadline, pod.Name, m.Spec.Pod.Name, importAnswer(m)))
	}
	for _, report := range restore.Containers {
		return cold(m, report.Reason, fmt.Sprintf("container %s did not take over the state: %s", report.Name, report.Message))
	}
	if restore.CommittedAt == nil || !imported(m) {
		return cold(m, v1alpha1.ReasonImportFailed, "nobody says that the state was taken over: "+importAnswer(m))
	}
	for _, status := range pod.Status.ContainerStatuses {
		// Times of containers have whole seconds.
		if running := status.State.Running; isImported(m, status.Name) && running != nil && running.StartedAt.Unix() > restore.StartedAt.Unix() {
			return cold(m, v1alpha1.ReasonImportFailed, fmt.Sprintf("container %s took over the state, but ended and was started anew", status.Name))
		}
	}
	return Verdict{Result: v1alpha1.ResultImported,
		Message: fmt.Sprintf("pod %s on node %s has taken the state over", m.Status.Claim.PodName, m.Status.Claim.NodeName)}
}

// imported says whether the claim's pod has taken over the state, as far as was told.
func imported(m *v1alpha1.Migration) bool {
	return m.Status.Restore != nil && m.ClaimedBy(m.Status.Restore.PodUID) &&
		slices.ContainsFunc(m.Status.Restore.Hooks, func(r v1alpha1.HookResult) bool { return r.Name == hookImport && r.Succeeded })
}

// isImported says whether it was this container that did.
func isImported(m *v1alpha1.Migration, container string) bool {
	return slices.ContainsFunc(m.Status.Restore.Hooks, func(r v1alpha1.HookResult) bool {
		return r.Name == hookImport && r.Succeeded && r.Container == container
	})
}

// importAnswer is what the application last said of the state.
func importAnswer(m *v1alpha1.Migration) string {
	if restore := m.Status.Restore; restore != nil {
		for _, r := range slices.Backward(restore.Hooks) {
			if r.Name == hookImport {
				return r.Output
			}
		}
	}
	return "it has not answered yet"
}

// losesSuccessor says whether the loss of a pod's node is no loss of state: the pod was to
// take over one that is staged, and has not. Of pods that have their name from their owner
// it shows also when the claim was taken from it already.
func losesSuccessor(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	if !m.Open() || !m.Staged() {
		return false
	}
	freed := m.Status.Claim == nil && m.SucceededBy(pod) && (pod.Name == m.Spec.Pod.Name || waitedIn(m, pod))
	return freed || m.AwaitsImport(pod.UID)
}

// forgetSuccessor takes back what was noted of a pod that is removed, so that another one
// is made, also where nobody but the watcher makes it.
func forgetSuccessor(m *v1alpha1.Migration) {
	m.Status.Phases = slices.DeleteFunc(m.Status.Phases, func(p v1alpha1.PhaseTime) bool {
		return p.Phase == v1alpha1.PhaseCreated || p.Phase == v1alpha1.PhaseScheduled || p.Phase == v1alpha1.PhaseReady
	})
	m.Status.Phase = v1alpha1.PhaseDeleted
}

// isLost says whether a pod is on a fenced node, and about to be removed.
func (d *Driver) isLost(ctx context.Context, pod *corev1.Pod) (bool, error) {
	if pod == nil || pod.Spec.NodeName == "" {
		return false, nil
	}
	return d.isFenced(ctx, pod.Spec.NodeName)
}
