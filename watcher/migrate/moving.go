package migrate

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// What the loss of a node means for the planned moves that are under way. Until the old
// pod is stopped, its state is on the source alone: the loss of that is a failover's
// matter, and a successor that waits on a lost target has nothing to be recovered.

// outlives says whether a planned move goes on when its source is lost: the pod was
// stopped and its last generation is durable, or its successor serves in its place.
func outlives(m *v1alpha1.Migration) bool {
	if move.Stateful(m.Spec.Strategy) {
		return m.SourceStopped()
	}
	return m.Reached(v1alpha1.PhaseStopping)
}

// readMovesOf replaces, among the known Migrations, the open planned ones of a pod by
// what the API server has: the cache may not show that their source has just stopped.
func (d *Driver) readMovesOf(ctx context.Context, pod *corev1.Pod, known []v1alpha1.Migration) error {
	for i := range known {
		m := &known[i]
		if !m.Planned() || !m.Open() || m.Namespace != pod.Namespace || lostPod(m) != pod.UID && !claimedBy(m, pod) {
			continue
		}
		now := &v1alpha1.Migration{}
		if err := d.Reader.Get(ctx, client.ObjectKeyFromObject(m), now); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read migration %s/%s: %w", m.Namespace, m.Name, err)
		}
		if now.UID == m.UID {
			known[i] = *now
		}
	}
	return nil
}

// waitsBeside says whether a pod is one that waits to take another's place in a planned
// move while that still runs. It has no state: where its node is lost it is removed, and
// its owner makes another one.
func (d *Driver) waitsBeside(ctx context.Context, pod *corev1.Pod) (bool, error) {
	var known v1alpha1.MigrationList
	if err := d.Client.List(ctx, &known, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list migrations in %s: %w", pod.Namespace, err)
	}
	if err := d.readMovesOf(ctx, pod, known.Items); err != nil {
		return false, err
	}
	for i := range known.Items {
		m := &known.Items[i]
		if m.Planned() && m.Open() && claimedBy(m, pod) && m.Released() && !outlives(m) {
			return true, nil
		}
	}
	return false, nil
}

// identityOf is a lost pod as its Migration names it. One that was released for a planned
// move has no owner any more, but its successor is still that owner's.
func identityOf(pod *corev1.Pod, known []v1alpha1.Migration) v1alpha1.PodIdentity {
	id := v1alpha1.IdentityOf(pod)
	for i := range known {
		if m := &known[i]; id.OwnerUID == "" && m.Planned() && m.Released() && lostPod(m) == pod.UID {
			return m.Spec.Pod
		}
	}
	return id
}

// movedSince says whether the lost pod was stopped by a planned move before its node was
// fenced, and closes the Migration of its loss then: the move goes on.
func (d *Driver) movedSince(ctx context.Context, m *v1alpha1.Migration) (bool, error) {
	var known v1alpha1.MigrationList
	if err := d.Client.List(ctx, &known, client.InNamespace(m.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list migrations in %s: %w", m.Namespace, err)
	}
	pod := &corev1.Pod{}
	pod.Namespace, pod.UID = m.Namespace, lostPod(m)
	if err := d.readMovesOf(ctx, pod, known.Items); err != nil {
		return false, err
	}
	for i := range known.Items {
		other := &known.Items[i]
		if other.Planned() && other.Open() && lostPod(other) == pod.UID && outlives(other) {
			conclude(m, Verdict{Result: v1alpha1.ResultWithdrawn,
				Message: fmt.Sprintf("the pod had been stopped before node %s was fenced, and migration %s goes on", m.Spec.SourceNode, other.Name)})
			return true, nil
		}
	}
	return false, nil
}
