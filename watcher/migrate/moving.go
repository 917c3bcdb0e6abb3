package migrate

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// What the loss of a node means for the planned moves that are under way. Until the old
// pod is stopped, its state is on the source alone: the loss of that is a failover's
// matter, and a successor that waits on a lost target has nothing to be recovered.

// outlives says whether a planned move goes on when its source is lost: the pod was
// stopped and its last generation is durable, or its successor serves in its place.
func outlives(m *v1alpha1.Migration) bool {
	if move.StoppedBySource(m) {
		return m.SourceStopped()
	}
	return m.Reached(v1alpha1.PhaseStopping)
}

// readMovesOf replaces, among the known Migrations, the open planned ones of a pod by
// what the API server has: the cache may not show that their source has just stopped.
func (d *Driver) readMovesOf(ctx context.Context, pod *corev1.Pod, known []v1alpha1.Migration) error {
	for i := range known {
		m := &known[i]
		if !m.Planned() || !m.Open() || m.Namespace != pod.Namespace || m.LostPod() != pod.UID && !m.ClaimedBy(pod.UID) && !waitedIn(m, pod) && !losesSuccessor(m, pod) {
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

// waitsBeside is the planned move in which a pod waits to take another's place while that
// still runs, or to take over its state, nil where it does not. Such a pod has no state:
// where its node is lost it is removed, and its owner makes another one.
func (d *Driver) waitsBeside(ctx context.Context, pod *corev1.Pod) (*v1alpha1.Migration, error) {
	var known v1alpha1.MigrationList
	if err := d.Client.List(ctx, &known, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list migrations in %s: %w", pod.Namespace, err)
	}
	if err := d.readMovesOf(ctx, pod, known.Items); err != nil {
		return nil, err
	}
	for i := range known.Items {
		m := &known.Items[i]
		// Of a clone that was not restored yet nothing is to be recovered either.
		if m.Open() && m.ClonedBy(pod) {
			return m.DeepCopy(), nil
		}
		if m.Planned() && m.Open() && m.Released() && (m.ClaimedBy(pod.UID) && !outlives(m) || waitedIn(m, pod)) || waitedInVain(m, pod) {
			return m.DeepCopy(), nil
		}
		// What was exported for it is still where it is kept: the next pod gets it.
		if losesSuccessor(m, pod) {
			return m.DeepCopy(), nil
		}
	}
	return nil, nil
}

// waitedInVain says whether a pod waited in a move that was given up. It never ran, and
// its owner does not want it any more.
func waitedInVain(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	return m.Released() && m.ClaimedBy(pod.UID) && m.Status.Result == v1alpha1.ResultWithdrawn && move.Stateful(m.Spec.Strategy)
}

// waitedIn says whether a pod had waited in a move whose claim was taken from it because
// its node was lost.
func waitedIn(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	return m.Status.Claim == nil && m.Status.Restore != nil && m.Status.Restore.PodUID == pod.UID
}

// removeWaiting removes a pod that waits for another one's state, as its node is lost. A move
// that may have stopped that other one cannot be given up any more: the next pod of the
// owner is to have the state, so the claim is free for it before it is made.
func (d *Driver) removeWaiting(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, fenced decide.Fenced) error {
	if m.Open() && m.Reached(v1alpha1.PhaseStopping) && m.ClaimedBy(pod.UID) {
		before := m.DeepCopy()
		m.Status.Claim = nil
		if m.Staged() {
			forgetSuccessor(m)
		}
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		if err := d.Client.Status().Patch(ctx, m, patch, fieldOwner); err != nil {
			return fmt.Errorf("take the claim on migration %s/%s from pod %s, whose node is lost: %w", m.Namespace, m.Name, pod.Name, err)
		}
		d.Events.Eventf(m, pod, corev1.EventTypeWarning, "TargetLost", "Move",
			"Node %s, where pod %s waited to take over, is lost. The next pod of %s %s takes over.", fenced.Node(), pod.Name, m.Spec.Pod.OwnerKind, m.Spec.Pod.OwnerName)
	}
	_, err := d.removePod(ctx, pod, fenced.Node(), reasonOf(fenced))
	return err
}

// identityOf is a lost pod as its Migration names it. One that was released for a planned
// move has no owner any more, but its successor is still that owner's.
func identityOf(pod *corev1.Pod, known []v1alpha1.Migration) v1alpha1.PodIdentity {
	id := v1alpha1.IdentityOf(pod)
	for i := range known {
		if m := &known[i]; id.OwnerUID == "" && m.Planned() && m.Released() && m.LostPod() == pod.UID {
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
	pod.Namespace, pod.UID = m.Namespace, m.LostPod()
	if err := d.readMovesOf(ctx, pod, known.Items); err != nil {
		return false, err
	}
	for i := range known.Items {
		other := &known.Items[i]
		if other.Planned() && other.Open() && other.LostPod() == pod.UID && outlives(other) {
			conclude(m, Verdict{Result: v1alpha1.ResultWithdrawn,
				Message: fmt.Sprintf("the pod had been stopped before node %s was fenced, and migration %s goes on", m.Spec.SourceNode, other.Name)})
			return true, nil
		}
	}
	return false, nil
}
