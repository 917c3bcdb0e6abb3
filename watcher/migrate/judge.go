package migrate

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// readyDeadline is how long after the old pod's deletion its successor may
	// take to become Ready. It is generous: an image may have to be pulled.
	readyDeadline = 10 * time.Minute
	// reportGrace is how long after the successor is Ready the checkpointer may
	// still report what became of a container.
	reportGrace = 10 * time.Second
	// placeDeadline is how long a successor may wait for a node that can restore
	// it, before it may start anew on any.
	placeDeadline = time.Minute
)

// Verdict is what follows for a Migration from what is known of the successor.
type Verdict struct {
	// Result is empty while the Migration stays open.
	Result v1alpha1.Result
	// Reason and Message say why, as in MigrationStatus.
	Reason  string
	Message string
	// Look is when to judge again if nothing changes before; zero means that
	// only a change matters.
	Look time.Time
}

// Judge says what became of a Migration whose old pod is gone. The pod is its
// successor: the pod that claimed it, or, while it is not claimed, the pod that
// takes the moved pod's place; nil when there is none. Judge says Restored only
// when every container of the pod that claimed the Migration was reported as
// restored with all of its memory, none of them has been started again since, and
// the pod is Ready. Of a state that is staged see judgeImport.
func Judge(m *v1alpha1.Migration, pod *corev1.Pod, now time.Time) Verdict {
	deadline := deletedAt(m).Add(readyDeadline)
	claim := m.Status.Claim
	switch {
	case claim != nil && (pod == nil || pod.UID != claim.PodUID):
		return Verdict{Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonPodReplaced,
			Message: fmt.Sprintf("pod %s, which was to be restored on node %s, was deleted before it was Ready", claim.PodName, claim.NodeName)}
	case pod == nil:
		return overdue(deadline, now, "no pod has taken the place of the lost one")
	case pod.Status.Phase == corev1.PodFailed:
		return Verdict{Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonNotReady,
			Message: strings.TrimSuffix(fmt.Sprintf("pod %s failed before it was Ready: %s", pod.Name, pod.Status.Message), ": ")}
	case claim == nil && pod.Spec.NodeName == "":
		return unplaced(m, pod, deadline, now)
	case !ready(pod):
		return overdue(deadline, now, notReady(pod))
	case claim == nil:
		return Verdict{Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonNotAsked,
			Message: fmt.Sprintf("pod %s was placed by %s without claiming this migration, and started anew", pod.Name, schedulerOf(pod))}
	}
	if m.Staged() {
		return judgeImport(m, pod, now)
	}
	return judgeContainers(m, pod, now)
}

// judgeContainers judges the Ready pod that claimed the Migration.
func judgeContainers(m *v1alpha1.Migration, pod *corev1.Pod, now time.Time) Verdict {
	restore := m.Status.Restore
	reports := map[string]v1alpha1.ContainerRestore{}
	if restore != nil && restore.PodUID == pod.UID {
		for _, report := range restore.Containers {
			reports[report.Name] = report
		}
	}
	var missing, filling []string
	for _, name := range v1alpha1.LastingContainers(pod) {
		switch report, ok := reports[name]; {
		case !ok:
			missing = append(missing, name)
		case report.Result != v1alpha1.ResultRestored:
			return cold(m, report.Reason, fmt.Sprintf("container %s started anew: %s", name, report.Message))
		case restarts(pod, name) > max(restore.Attempts, 1)-1:
			return cold(m, v1alpha1.ReasonRestoreFailed,
				fmt.Sprintf("container %s came back from generation %d, but ended and was started anew", name, restore.Generation))
		case report.Filling:
			filling = append(filling, name)
		}
	}
	if len(missing) > 0 {
		if until := readyAt(m, now).Add(reportGrace); now.Before(until) {
			return Verdict{Look: until}
		}
		return cold(m, v1alpha1.ReasonNotAsked,
			fmt.Sprintf("pod %s is Ready, but of container %s nobody asked for the checkpoint", pod.Name, strings.Join(missing, ", ")))
	}
	if len(filling) > 0 {
		return Verdict{} // it answers, but its memory may yet turn out to be damaged
	}
	if restore.Generation == 0 || restore.TakenAt == nil {
		return cold(m, v1alpha1.ReasonNotAsked, "the containers were reported as restored, but from no generation")
	}
	message := fmt.Sprintf("generation %d was restored", restore.Generation)
	return Verdict{Result: v1alpha1.ResultRestored, Message: skipped(m) + message}
}

func cold(m *v1alpha1.Migration, reason, message string) Verdict {
	if reason == "" {
		reason = v1alpha1.ReasonRestoreFailed
	}
	return Verdict{Result: v1alpha1.ResultColdStarted, Reason: reason, Message: skipped(m) + message}
}

// skipped names the generations that were passed over for good, as
// "generation 7 was damaged (…); ".
func skipped(m *v1alpha1.Migration) string {
	var text strings.Builder
	if m.Status.Restore != nil {
		for _, s := range m.Status.Restore.Skipped {
			if s.Generation == m.Status.Restore.Generation {
				continue // it could be had in the end
			}
			fmt.Fprintf(&text, "generation %d was damaged (%s); ", s.Generation, s.Reason)
		}
	}
	return text.String()
}

// unplaced judges a successor that waits for a node.
func unplaced(m *v1alpha1.Migration, pod *corev1.Pod, deadline, now time.Time) Verdict {
	condition := v1alpha1.PodConditionOf(pod, corev1.PodScheduled)
	if condition == nil || condition.Status != corev1.ConditionFalse {
		return overdue(deadline, now, "pod "+pod.Name+" has not been placed on a node")
	}
	if m.Status.Checkpoint == nil || !refusedRestore(condition.Message) {
		return overdue(deadline, now, "pod "+pod.Name+" cannot be placed: "+condition.Message)
	}
	until := condition.LastTransitionTime.Add(placeDeadline)
	if now.Before(until) {
		return Verdict{Look: until}
	}
	return Verdict{Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonNoCompatibleNode,
		Message: fmt.Sprintf("no node could take the restore for %s, so pod %s may now start anew on any: %s", placeDeadline, pod.Name, condition.Message)}
}

// refusedRestore says whether the scheduler's message tells that nodes were
// passed over because they cannot restore the pod, as opposed to, say, full
// ones: for those it is worth waiting. The words are the plugin's.
func refusedRestore(message string) bool {
	return strings.Contains(message, "node cannot restore the pod") ||
		strings.Contains(message, "node has no fence record")
}

// overdue fails a Migration that has been open for too long.
func overdue(deadline, now time.Time, why string) Verdict {
	if now.Before(deadline) {
		return Verdict{Look: deadline}
	}
	return Verdict{Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonNotReady,
		Message: fmt.Sprintf("after %s %s", readyDeadline, why)}
}

func notReady(pod *corev1.Pod) string {
	for _, status := range pod.Status.ContainerStatuses {
		if w := status.State.Waiting; w != nil && w.Reason != "" {
			return fmt.Sprintf("pod %s on node %s is not Ready: container %s: %s", pod.Name, pod.Spec.NodeName, status.Name, w.Reason)
		}
	}
	return fmt.Sprintf("pod %s on node %s is not Ready", pod.Name, pod.Spec.NodeName)
}

// ready says whether the pod answers, or has run to its good end already.
func ready(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || v1alpha1.PodReady(pod)
}

func restarts(pod *corev1.Pod, container string) int32 {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for _, status := range statuses {
			if status.Name == container {
				return status.RestartCount
			}
		}
	}
	return 0
}

func schedulerOf(pod *corev1.Pod) string {
	if pod.Spec.SchedulerName == "" {
		return corev1.DefaultSchedulerName
	}
	return pod.Spec.SchedulerName
}
