package plugin

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Match returns the open Migration that the pod may claim, or nil when there is
// none. A Migration that the pod has claimed already comes first: the scheduler
// may have stopped between the claim and the binding. Then comes the one that
// moves a pod of the same name, then the oldest.
func Match(pod *corev1.Pod, migrations []*v1alpha1.Migration) *v1alpha1.Migration {
	var best *v1alpha1.Migration
	for _, m := range migrations {
		if !claimable(pod, m) {
			continue
		}
		if best == nil || before(pod, m, best) {
			best = m
		}
	}
	return best
}

// claimable says whether the Migration is one that the pod may claim, if only
// once it is prepared.
func claimable(pod *corev1.Pod, m *v1alpha1.Migration) bool {
	return m.Open() && m.DeletionTimestamp == nil && m.Status.Held == nil && awaitsSuccessor(m) &&
		m.SucceededBy(pod) && (m.Status.Claim == nil || m.ClaimedBy(pod.UID))
}

// takesBack says whether the pod succeeds the moved one of a Migration whose claim is
// another pod's that has nothing of the state yet. Should that one end, the watcher
// takes the claim from it, and the pod may have it.
func takesBack(pod *corev1.Pod, m *v1alpha1.Migration) bool {
	return m.Open() && m.DeletionTimestamp == nil && m.Status.Claim != nil && !m.ClaimedBy(pod.UID) && !m.RestoreCommitted() &&
		m.Spec.Pod.OwnerUID != "" && m.SucceededBy(pod) &&
		(!m.Planned() || m.Reached(v1alpha1.PhaseStopping) && m.Spec.Strategy != v1alpha1.StrategyReplace && (m.Spec.Strategy != v1alpha1.StrategyApplication || m.Staged()))
}

// awaitsSuccessor says whether there can be a pod that takes the moved one's place. While
// its node is not fenced a lost pod may still run and has no successor: its Migration is
// nobody's then. Of a planned move there is one when the pod is released, so that another
// one is made beside it, or stopped; a move that is given up has none. What is only
// replaced has nothing to claim.
func awaitsSuccessor(m *v1alpha1.Migration) bool {
	if !m.Planned() {
		return m.Status.Phase != v1alpha1.PhaseDetected
	}
	if m.Clones() {
		return !m.Withdrawing() && m.Reached(v1alpha1.PhaseAccepted)
	}
	return m.Spec.Strategy != v1alpha1.StrategyReplace && !m.Withdrawing() && m.Reached(v1alpha1.PhaseAccepted) &&
		(m.Released() || m.Reached(v1alpha1.PhaseStopped))
}

// fenced says whether the lost pod's node is known to be fenced or, of a planned move,
// that its successor may come.
func fenced(m *v1alpha1.Migration) bool {
	return m.Status.Phase != "" && m.Status.Held == nil && awaitsSuccessor(m)
}

// prepared says whether the watcher has written what there is to restore, and the
// lost pod is gone. Until then its node may come back with it. The successor of a pod
// that was released is placed while that still runs, and waits on its node.
func prepared(m *v1alpha1.Migration) bool {
	if m.Planned() {
		return fenced(m) && (m.Clones() || m.Released() || m.Reached(v1alpha1.PhaseDeleted))
	}
	return fenced(m) && m.Status.Phase != v1alpha1.PhaseFenced
}

// before says whether the pod claims a rather than b.
func before(pod *corev1.Pod, a, b *v1alpha1.Migration) bool {
	if own := a.ClaimedBy(pod.UID); own != b.ClaimedBy(pod.UID) {
		return own
	}
	if same := a.Spec.Pod.Name == pod.Name; same != (b.Spec.Pod.Name == pod.Name) {
		return same
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}
