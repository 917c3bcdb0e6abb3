package agent

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// claimed returns the open Migration that the container's pod has claimed for this
// node and is to be restored by, nil where there is none, and why the container must
// not be created now, or "". The runtime's word alone is never enough, and no cache's:
// what the API says now decides. Where parks says so of the Migration, it is too early.
// Pod is the container's, nil where the API has not said, which is then one that it has
// said before is no clone.
func (a *Agent) claimed(ctx context.Context, c client.Container, pod *corev1.Pod) (m *v1alpha1.Migration, refused string) {
	var list, known v1alpha1.MigrationList
	// A container of a pod that the API has said is ours may start again without an
	// answer; but what has a checkpoint waiting must not start without it.
	waiting := a.cache.List(ctx, &known, inNamespace(c.Namespace)) == nil && findClaim(known.Items, c.PodUID, a.cfg.NodeName) != nil
	attempt := once
	if waiting {
		attempt = patiently
	}
	if err := attempt(ctx, func(ctx context.Context) error { return a.api.List(ctx, &list, inNamespace(c.Namespace)) }); err != nil {
		a.log.Error("look for the migration of a pod", "pod", c.Namespace+"/"+c.PodName, "err", err)
		if waiting || isClone(pod) {
			return nil, "the API does not say whether its checkpoint may still be restored"
		}
		return nil, ""
	}
	if why := moving(list.Items, c.PodUID); why != "" {
		return nil, why
	}
	m = findClaim(list.Items, c.PodUID, a.cfg.NodeName)
	switch {
	case m == nil:
		return nil, cmp.Or(withdrawn(list.Items, c.PodUID), notYetCloned(list.Items, pod, c.Name, a.hasGenerations(pod)))
	case m.Clones():
		if !m.ClonedBy(pod) {
			return nil, fmt.Sprintf("migration %s makes another pod of this name", m.Name)
		}
		if m.Withdrawing() {
			return nil, fmt.Sprintf("migration %s, by which its pod was to start, is given up: %s", m.Name, m.Status.Message)
		}
		return m, "" // no other copy has to be gone
	case m.Spec.Strategy == v1alpha1.StrategyApplication && !m.Staged() || m.Spec.Strategy == v1alpha1.StrategyReplace:
		return nil, "" // the pod starts as any other
	case parks(m):
		return m, ""
	}
	source, err := a.sourceFence(ctx, m)
	if err != nil {
		a.log.Error("look at the fence of a lost node", "pod", c.Namespace+"/"+c.PodName, "err", err)
		return nil, fmt.Sprintf("the API does not say whether node %s is fenced", m.Spec.SourceNode)
	}
	if why := mayNotRestore(m, list.Items, source); why != "" {
		return nil, why
	}
	if m.Staged() {
		return nil, "" // it starts as any other, and has the state imported then
	}
	return m, ""
}

// stopping says why a container that is no part of its pod's state must not be created, or
// "": the pod is stopped for good. Where the API does not answer, the cache does.
func (a *Agent) stopping(ctx context.Context, c client.Container) string {
	var list v1alpha1.MigrationList
	err := once(ctx, func(ctx context.Context) error { return a.api.List(ctx, &list, inNamespace(c.Namespace)) })
	if err != nil {
		err = a.cache.List(ctx, &list, inNamespace(c.Namespace))
	}
	if err != nil {
		return fmt.Sprintf("look whether its pod is moved: %v", err)
	}
	return moving(list.Items, c.PodUID)
}

// sourceFence returns the fence of a Migration's source, nil when there is none. A
// fence's epoch never falls, so that the cache can be believed when it is enough.
func (a *Agent) sourceFence(ctx context.Context, m *v1alpha1.Migration) (*v1alpha1.Fence, error) {
	fence, key := &v1alpha1.Fence{}, ctrlclient.ObjectKey{Name: m.Spec.SourceNode}
	if err := a.cache.Get(ctx, key, fence); err == nil && fence.Spec.Epoch >= m.Spec.FenceEpoch {
		return fence, nil
	}
	err := patiently(ctx, func(ctx context.Context) error { return a.api.Get(ctx, key, fence) })
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return fence, err
}

// findClaim returns the open Migration that a pod has claimed for a node, or nil.
func findClaim(migrations []v1alpha1.Migration, podUID, node string) *v1alpha1.Migration {
	for i := range migrations {
		m := &migrations[i]
		if claim := m.Status.Claim; m.Open() && claim != nil && string(claim.PodUID) == podUID && claim.NodeName == node {
			return m
		}
	}
	return nil
}

// moving says why no container of a pod may be created on its node, or "": the node
// was fenced with the pod on it, or is to stop it for a planned move, and the pod is
// being had elsewhere. That the API still has the pod here shows only that its deletion
// is under way.
func moving(migrations []v1alpha1.Migration, podUID string) string {
	for i := range migrations {
		m := &migrations[i]
		switch {
		case string(m.LostPod()) != podUID || !m.Open():
		case m.Reached(v1alpha1.PhaseFenced):
			return fmt.Sprintf("migration %s moves its pod away: node %s was fenced", m.Name, m.Spec.SourceNode)
		case m.Planned() && m.Reached(v1alpha1.PhaseStopping) && (m.Status.Source == nil || m.Status.Source.Error == ""):
			return fmt.Sprintf("migration %s moves its pod away: it is stopped here for good", m.Name)
		}
	}
	return ""
}

// withdrawn says why no container of a pod may be created that was to take the place
// of another one, which runs on or was lost, or "". Whoever gave the move up deletes the pod.
func withdrawn(migrations []v1alpha1.Migration, podUID string) string {
	for i := range migrations {
		m := &migrations[i]
		claim, result := m.Status.Claim, m.Status.Result
		stopped := m.Status.Source != nil && m.Status.Source.StoppedAt != nil
		if m.Planned() && claim != nil && string(claim.PodUID) == podUID && !stopped &&
			(result == v1alpha1.ResultWithdrawn || result == v1alpha1.ResultFailed) {
			return fmt.Sprintf("migration %s, by which its pod was to take the place of pod %s, was given up", m.Name, m.Spec.Pod.Name)
		}
	}
	return ""
}

// parks says whether the claim's pod is to wait until its source has stopped: it was
// made beside the old pod, which runs meanwhile.
func parks(m *v1alpha1.Migration) bool {
	return m.Spec.Strategy == v1alpha1.StrategyLive && m.Open() && m.Released() && m.Reached(v1alpha1.PhaseAccepted) &&
		!m.SourceStopped() && m.Status.Reason == ""
}

// parked says whether the claim's pod has waited so.
func parked(m *v1alpha1.Migration) bool {
	claim, restore := m.Status.Claim, m.Status.Restore
	return m.Spec.Strategy == v1alpha1.StrategyLive && claim != nil && restore != nil && restore.PodUID == claim.PodUID && restore.ParkedAt != nil
}

// mayNotRestore says why the checkpoint of a claimed Migration must not be restored
// now, or "". Source is the fence of its source, nil when there is none. Each reason
// is one that the watcher and the plugin should have excluded; whoever brings
// processes to life looks again.
func mayNotRestore(m *v1alpha1.Migration, all []v1alpha1.Migration, source *v1alpha1.Fence) string {
	switch {
	case !m.SourceStopped(), !m.Reached(v1alpha1.PhaseDeleted) && !m.Released():
		// Its old copy may still run.
		return fmt.Sprintf("migration %s has got no further than %s: the old pod must be gone first", m.Name, m.Status.Phase)
	case source != nil && source.Spec.Epoch < m.Spec.FenceEpoch:
		return fmt.Sprintf("node %s is not fenced: its Fence is in epoch %d, and migration %s needs %d",
			m.Spec.SourceNode, source.Spec.Epoch, m.Name, m.Spec.FenceEpoch)
	}
	for i := range all {
		// A newer Migration of another pod of the same name is none of the same pod:
		// a successor that was bound to the lost node too never ran, and left nothing.
		newer := &all[i]
		if newer.Spec.Pod.UID == m.Spec.Pod.UID && newer.Spec.Epoch > m.Spec.Epoch && newer.SourceStopped() {
			// What the pod did after this Migration has a later state.
			return fmt.Sprintf("migration %s of the same pod is newer than %s", newer.Name, m.Name)
		}
	}
	return ""
}

// consumed says whether a container of the claim's pod has had its restore: a
// container is restored once, and starts anew after that.
func consumed(m *v1alpha1.Migration, container string) bool {
	r := m.Status.Restore
	if r == nil || r.PodUID != m.Status.Claim.PodUID {
		return false
	}
	for _, c := range r.Containers {
		if c.Name == container {
			return true
		}
	}
	return false
}

// moved says whether a pod was moved away from wherever it ran: a Migration of it
// has got as far as Deleted. What its old copy does then is no part of its history. A
// source that has stopped the pod itself adds nothing but its last generation, of which
// copies are taken as long as the move is under way.
func moved(migrations []v1alpha1.Migration, podUID string) bool {
	for i := range migrations {
		m := &migrations[i]
		if m.Planned() && m.Open() && m.Status.Source != nil && m.Status.Source.StoppedAt != nil {
			continue
		}
		if (string(m.LostPod()) == podUID || string(m.Spec.Pod.UID) == podUID) && m.Reached(v1alpha1.PhaseDeleted) {
			return true
		}
	}
	return false
}
