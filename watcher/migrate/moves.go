package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// reconcileMove brings one planned move as far as it goes.
func (d *Driver) reconcileMove(ctx context.Context, m *v1alpha1.Migration) (reconcile.Result, error) {
	for m.Open() && m.DeletionTimestamp == nil {
		before := m.DeepCopy()
		look, err := d.moveOn(ctx, m)
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictPause}, nil
		}
		if err != nil {
			return reconcile.Result{}, fmt.Errorf("move pod %s/%s: %w", m.Namespace, m.Spec.Pod.Name, err)
		}
		if m.ResourceVersion != before.ResourceVersion {
			continue // its annotations were written, and it is as the API server has it now
		}
		if equality.Semantic.DeepEqual(before.Status, m.Status) {
			return lookAt(look), nil
		}
		if err := d.writeStatus(ctx, before, m); apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictPause}, nil
		} else if err != nil {
			return reconcile.Result{}, err
		}
		d.tellMove(before, m)
	}
	if m.Open() {
		return reconcile.Result{}, nil
	}
	look, err := d.tendClosed(ctx, m)
	return lookAt(look), errors.Join(err, d.tellClosed(ctx, m))
}

// lookAt asks for another look, zero for only after a change.
func lookAt(look time.Time) reconcile.Result {
	if look.IsZero() {
		return reconcile.Result{}
	}
	return reconcile.Result{RequeueAfter: max(time.Millisecond, time.Until(look))}
}

// sooner is the earlier of two moments; zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// moveOn does the next step of a move, and notes in m what it has completed. It returns
// when to look again, zero for only after a change.
func (d *Driver) moveOn(ctx context.Context, m *v1alpha1.Migration) (time.Time, error) {
	v, err := d.view(ctx, m)
	if err != nil {
		return time.Time{}, err
	}
	if free, err := d.unclaim(ctx, m, v.Successor); free || err != nil {
		return again, err
	}
	d.observe(m, v.Successor, v.Now)
	if err := d.viewHolding(ctx, v); err != nil {
		return time.Time{}, err
	}
	held := d.tendHolding(ctx, v)
	look, err := d.carryOut(ctx, v, move.Next(v))
	return sooner(look, held), err
}

// view gathers what the next step of a move depends on.
func (d *Driver) view(ctx context.Context, m *v1alpha1.Migration) (*move.View, error) {
	v := &move.View{Migration: m, Now: time.Now(), Limits: d.Moves}
	if v.Limits == (move.Limits{}) {
		v.Limits = move.DefaultLimits
	}
	var known v1alpha1.MigrationList
	if err := d.Client.List(ctx, &known, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	for i := range known.Items {
		other := &known.Items[i]
		v.Superseded = v.Superseded || other.Namespace == m.Namespace && other.LostPod() == m.LostPod() && !other.Planned() &&
			other.Spec.Epoch > m.Spec.Epoch && other.Reached(v1alpha1.PhaseFenced)
	}
	var err error
	if v.SourceFenced, err = d.isFenced(ctx, m.Spec.SourceNode); err != nil {
		return nil, err
	}
	if v.Pod, err = d.movedPod(ctx, m); err != nil {
		return nil, err
	}
	if !m.Reached(v1alpha1.PhaseStopping) {
		if v.Beside, err = d.beside(ctx, m, v.Pod); err != nil {
			return nil, err
		}
	}
	if !m.Reached(v1alpha1.PhaseAccepted) {
		return v, d.viewOthers(ctx, v, known.Items)
	}
	return v, d.viewSuccessor(ctx, v)
}

// viewSuccessor gathers what there is to know of the pod that takes over.
func (d *Driver) viewSuccessor(ctx context.Context, v *move.View) (err error) {
	m := v.Migration
	if awaitsSuccessor(m) {
		if v.Successor, err = d.successor(ctx, m); err != nil {
			return err
		}
	}
	if v.Successor != nil && stripped(v.Successor) {
		if v.Successor, err = d.whole(ctx, v.Successor); err != nil {
			return err
		}
	}
	if claim := m.Status.Claim; claim != nil {
		if v.TargetFenced, err = d.isFenced(ctx, claim.NodeName); err != nil {
			return err
		}
	}
	parked := m.Status.Restore != nil && m.Status.Restore.ParkedAt != nil
	if m.Released() && !m.Reached(v1alpha1.PhaseStopping) && v.Pod != nil && v.Successor != nil && (parked || ready(v.Successor)) {
		v.Selected, err = d.selectedBy(ctx, v.Pod)
	}
	return err
}

// viewOthers gathers what decides whether a move may begin.
func (d *Driver) viewOthers(ctx context.Context, v *move.View, known []v1alpha1.Migration) error {
	m := v.Migration
	v.Others = d.others(m, known)
	if v.Pod == nil {
		return nil
	}
	checkpoint := &v1alpha1.Checkpoint{}
	err := d.Client.Get(ctx, client.ObjectKeyFromObject(v.Pod), checkpoint)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read checkpoint %s/%s: %w", v.Pod.Namespace, v.Pod.Name, err)
	}
	if err == nil && checkpoint.Spec.PodUID == v.Pod.UID {
		v.Checkpoint = checkpoint
	}
	if target := m.Spec.TargetNode; target != "" {
		node, fence := &corev1.Node{}, &v1alpha1.Fence{}
		for _, object := range []client.Object{node, fence} {
			if err := d.Client.Get(ctx, client.ObjectKey{Name: target}, object); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("read %T %s: %w", object, target, err)
			}
		}
		if node.Name != "" {
			v.Target = node
		}
		v.TargetUsable = fence.Spec.State == v1alpha1.FenceRunning
	}
	v.Budgets, err = d.budgets(ctx, v.Pod, v.Others)
	return err
}

// others are the open Migrations but one. Those that were accepted a moment ago, which
// the cache may not show yet, are as they are.
func (d *Driver) others(m *v1alpha1.Migration, known []v1alpha1.Migration) []v1alpha1.Migration {
	var others []v1alpha1.Migration
	for i := range known {
		other := known[i]
		if _, pending := d.accepted.Load(other.UID); pending {
			if other.Reached(v1alpha1.PhaseAccepted) || !other.Open() {
				d.accepted.Delete(other.UID)
			} else {
				other = *other.DeepCopy()
				stamp(&other, v1alpha1.PhaseAccepted, time.Now())
			}
		}
		if other.Open() && other.UID != m.UID {
			others = append(others, other)
		}
	}
	return others
}

// budgets are the PodDisruptionBudgets that select a pod, less what moves of other pods
// are about to take of them.
func (d *Driver) budgets(ctx context.Context, pod *corev1.Pod, others []v1alpha1.Migration) ([]move.Budget, error) {
	var list policyv1.PodDisruptionBudgetList
	if err := d.Client.List(ctx, &list, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list pod disruption budgets in %s: %w", pod.Namespace, err)
	}
	var budgets []move.Budget
	for i := range list.Items {
		pdb := &list.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		allowed := pdb.Status.DisruptionsAllowed
		if pdb.Status.ObservedGeneration < pdb.Generation {
			allowed = 0 // what it says is of an earlier spec
		}
		for j := range others {
			other := &others[j]
			moving := &corev1.Pod{}
			if other.Namespace != pod.Namespace || !other.Planned() || !other.Reached(v1alpha1.PhaseAccepted) || other.Reached(v1alpha1.PhaseStopping) ||
				d.Client.Get(ctx, client.ObjectKey{Namespace: other.Namespace, Name: other.Spec.Pod.Name}, moving) != nil {
				continue
			}
			if moving.UID == other.LostPod() && selector.Matches(labels.Set(moving.Labels)) {
				allowed--
			}
		}
		budgets = append(budgets, move.Budget{Name: pdb.Name, Allowed: allowed})
	}
	return budgets, nil
}

func (d *Driver) isFenced(ctx context.Context, node string) (bool, error) {
	fence := &v1alpha1.Fence{}
	if err := d.Client.Get(ctx, client.ObjectKey{Name: node}, fence); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read fence %s: %w", node, err)
	}
	_, fenced := decide.FencedBy(fence)
	return fenced, nil
}

// movedPod is the pod of that name as it is now, nil when there is none. Before the move
// begins, what the cache shows of a protected pod is enough.
func (d *Driver) movedPod(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	key := client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.Pod.Name}
	if !m.Reached(v1alpha1.PhaseAccepted) {
		pod := &corev1.Pod{}
		if err := d.Client.Get(ctx, key, pod); err == nil && !stripped(pod) && pod.UID == m.LostPod() {
			return pod, nil
		}
	}
	return d.readPod(ctx, key)
}

func (d *Driver) readPod(ctx context.Context, key client.ObjectKey) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := d.Reader.Get(ctx, key, pod)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pod %s: %w", key, err)
	}
	return pod, nil
}

// stripped says whether the cache keeps of a pod only who it is.
func stripped(pod *corev1.Pod) bool { return len(pod.Spec.Containers) == 0 }

// whole is a pod of which the cache keeps only who it is, nil when it is gone.
func (d *Driver) whole(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	now, err := d.readPod(ctx, client.ObjectKeyFromObject(pod))
	if err != nil || now == nil || now.UID != pod.UID {
		return nil, err
	}
	return now, nil
}

// beside says whether a pod's successor can exist beside it.
func (d *Driver) beside(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (bool, error) {
	if m.Released() || pod == nil || !move.MayBeReleased(pod) {
		return m.Released(), nil
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue // another kind is the pod's own
		}
		single, err := d.singleNode(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: volume.PersistentVolumeClaim.ClaimName})
		if err != nil || single {
			return false, err
		}
	}
	return true, nil
}

// awaitsSuccessor says whether a Migration's successor can exist: a planned move's only
// once the old pod is released, or gone.
func awaitsSuccessor(m *v1alpha1.Migration) bool {
	return !m.Planned() || m.Reached(v1alpha1.PhaseAccepted) && m.Released() || m.Reached(v1alpha1.PhaseDeleted)
}

// observe notes the steps that others have completed.
func (d *Driver) observe(m *v1alpha1.Migration, successor *corev1.Pod, now time.Time) {
	if m.Withdrawing() || !m.Reached(v1alpha1.PhaseAccepted) {
		return
	}
	if source := m.Status.Source; source != nil && source.PreparedAt != nil {
		stamp(m, v1alpha1.PhasePrepared, source.PreparedAt.Time)
	}
	if successor == nil || !awaitsSuccessor(m) {
		return
	}
	d.follow(m, successor, now)
}
