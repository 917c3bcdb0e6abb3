package migrate

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// endedUnrestored says whether the pod that has claimed a Migration is deleted, or gone, or
// failed for good, as one that its kubelet does not admit, before anything of the state is
// its, while an owner makes another pod that can have it. Until a planned move stops the
// old pod, its state is that one's, and the move is withdrawn. Pod is the claim's, nil when
// it is gone.
func endedUnrestored(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	switch {
	case m.Status.Claim == nil, m.Spec.Pod.OwnerUID == "", m.Withdrawing(), m.RestoreCommitted():
		return false
	case m.Planned() && (!move.StoppedBySource(m) || !m.Reached(v1alpha1.PhaseStopping)):
		return false
	}
	return pod == nil || !m.ClaimedBy(pod.UID) || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed
}

// unclaim takes the claim from a pod that ends before it has anything of the state, so that the owner's next pod takes over, and says whether it has. The write of m
// fails where the pod's node has committed the restore meanwhile; and a node does not
// commit one whose claim is taken. A pod that was lost with its node has a Migration of
// its own, which has the same state.
func (d *Driver) unclaim(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (bool, error) {
	if !endedUnrestored(m, pod) {
		return false, nil
	}
	var known v1alpha1.MigrationList
	if err := d.Reader.List(ctx, &known, client.InNamespace(m.Namespace)); err != nil {
		return false, fmt.Errorf("list migrations in %s: %w", m.Namespace, err)
	}
	for i := range known.Items {
		if other := &known.Items[i]; !other.Planned() && other.LostPod() == m.Status.Claim.PodUID {
			return false, nil
		}
	}
	m.Status.Claim = nil
	if m.Staged() {
		forgetSuccessor(m)
	}
	return true, nil
}

// tellUnclaimed tells that a claim was taken from a pod that ended.
func (d *Driver) tellUnclaimed(before, m *v1alpha1.Migration) {
	claim := before.Status.Claim
	if claim == nil || m.Status.Claim != nil {
		return
	}
	d.Events.Eventf(m, nil, corev1.EventTypeWarning, "SuccessorEnded", "Recover",
		"Pod %s on node %s, which was to have the state of pod %s, failed or is deleted, before it had any of it. The next pod of %s %s takes over.",
		claim.PodName, claim.NodeName, m.Spec.Pod.Name, m.Spec.Pod.OwnerKind, m.Spec.Pod.OwnerName)
	d.Log.Info("a pod that was to take over failed or is deleted; the next one does", "migration", m.Namespace+"/"+m.Name, "pod", claim.PodName, "node", claim.NodeName)
}
