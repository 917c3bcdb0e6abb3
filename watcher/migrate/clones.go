package migrate

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/clone"
)

// reconcileClone brings one clone as far as it goes.
func (d *Driver) reconcileClone(ctx context.Context, m *v1alpha1.Migration) (reconcile.Result, error) {
	for m.Open() && m.DeletionTimestamp == nil {
		before := m.DeepCopy()
		v, err := d.viewClone(ctx, m)
		if err != nil {
			return reconcile.Result{}, err
		}
		step := clone.Next(v)
		if err := d.stepClone(ctx, v, step); apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictPause}, nil
		} else if err != nil {
			return reconcile.Result{}, fmt.Errorf("clone pod %s/%s: %w", m.Namespace, m.Spec.Clone.Pod.Name, err)
		}
		if equality.Semantic.DeepEqual(before.Status, m.Status) {
			return lookAt(step.Look), nil
		}
		if err := d.writeStatus(ctx, before, m); apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictPause}, nil
		} else if err != nil {
			return reconcile.Result{}, err
		}
		if !m.Open() {
			d.closed(m)
		}
	}
	if m.Open() {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, d.tellClosed(ctx, m)
}

// viewClone gathers what the next step of a clone depends on.
func (d *Driver) viewClone(ctx context.Context, m *v1alpha1.Migration) (*clone.View, error) {
	v := &clone.View{Migration: m, Now: time.Now()}
	var err error
	if v.Pod, err = d.readPod(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.Pod.Name}); err != nil {
		return nil, err
	}
	if claim := m.Status.Claim; claim != nil {
		if v.TargetFenced, err = d.isFenced(ctx, claim.NodeName); err != nil {
			return nil, err
		}
	}
	if m.Reached(v1alpha1.PhaseCreated) {
		if v.Pod != nil && m.ClonedBy(v.Pod) && !m.Withdrawing() {
			d.follow(m, v.Pod, v.Now)
			if m.ClaimedBy(v.Pod.UID) && ready(v.Pod) {
				v.Judged = judgeClone(m, v.Pod, v.Now)
			}
		}
		return v, nil
	}
	if m.Withdrawing() {
		return v, nil
	}
	return v, d.viewSource(ctx, v)
}

// judgeClone says what came of the containers of a clone that is Ready.
func judgeClone(m *v1alpha1.Migration, pod *corev1.Pod, now time.Time) clone.Judgement {
	verdict := judgeContainers(m, pod, now)
	return clone.Judgement{
		Restored: verdict.Result == v1alpha1.ResultRestored, Undecided: verdict.Result == "",
		Reason: verdict.Reason, Message: verdict.Message, Look: verdict.Look,
	}
}

// viewSource gathers what decides whether a clone can be made.
func (d *Driver) viewSource(ctx context.Context, v *clone.View) (err error) {
	m := v.Migration
	from := m.Spec.Clone
	if v.Source, err = d.readPod(ctx, client.ObjectKey{Namespace: m.Namespace, Name: from.Pod.Name}); err != nil {
		return err
	}
	if v.Adopters, err = d.adopters(ctx, m); err != nil {
		return err
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
	if m.Reached(v1alpha1.PhaseAccepted) {
		return nil
	}
	fences, err := d.fences(ctx)
	if err != nil {
		return err
	}
	v.Held, v.Known = d.Holders.Of(ctx, d.sought(ctx, m.Namespace, from.Pod.Name, from.Pod.UID), from.Generation, fences)
	var known v1alpha1.MigrationList
	if err := d.Client.List(ctx, &known, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	for i := range known.Items {
		other := &known.Items[i]
		first := other.Reached(v1alpha1.PhaseAccepted) || other.CreationTimestamp.Before(&m.CreationTimestamp)
		if other.Clones() && other.Open() && other.UID != m.UID && first {
			v.Others++
		}
	}
	return nil
}

// stepClone does the next step of a clone, and notes in its Migration what it has completed.
func (d *Driver) stepClone(ctx context.Context, v *clone.View, step clone.Step) error {
	m := v.Migration
	switch step.Do {
	case clone.Hold:
		if held := m.Status.Held; held == nil || held.Message != step.Message {
			since := metav1.NewMicroTime(v.Now)
			if held != nil {
				since = held.Since
			}
			m.Status.Held = &v1alpha1.Held{Reason: step.Held, Message: step.Message, Since: since}
		}
	case clone.Accept:
		m.Status.Held, m.Status.Checkpoint = nil, v.Held
		stamp(m, v1alpha1.PhaseAccepted, v.Now)
	case clone.Make:
		return d.makeClone(ctx, v)
	case clone.GiveUp:
		return d.giveUpClone(ctx, v, step)
	case clone.Close:
		if err := d.leaveMigration(ctx, m, v.Pod); err != nil {
			return err
		}
		conclude(m, Verdict{Result: step.Result, Message: step.Message})
	}
	return nil
}

// makeClone creates the pod. Where an earlier leader has, that is the one.
func (d *Driver) makeClone(ctx context.Context, v *clone.View) error {
	m := v.Migration
	if v.Pod == nil {
		pod := clone.PodOf(m, v.Source)
		err := d.Client.Create(ctx, pod, fieldOwner)
		switch {
		case apierrors.IsAlreadyExists(err):
			return err // it is looked at then
		case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
			// A quota, a policy, or a field that may not be: waiting does not change it.
			m.Status.Reason, m.Status.Message = v1alpha1.ReasonNotAllowed, "the API server refuses the pod: "+err.Error()
			return nil
		case err != nil:
			return fmt.Errorf("create pod %s: %w", pod.Name, err)
		}
		d.Events.Eventf(v.Source, m, corev1.EventTypeNormal, "Cloned", "Clone", "Pod %s is started from generation %d of this pod, which runs on (migration %s).",
			pod.Name, m.Status.Checkpoint.Generation, m.Name)
	}
	stamp(m, v1alpha1.PhaseCreated, v.Now)
	return nil
}

// leaveMigration makes a clone a pod of its own, which outlives its Migration.
func (d *Driver) leaveMigration(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	next := pod.DeepCopy()
	next.OwnerReferences = slices.DeleteFunc(next.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.UID == m.UID })
	if len(next.OwnerReferences) == len(pod.OwnerReferences) {
		return nil
	}
	patch := client.MergeFromWithOptions(pod, client.MergeFromWithOptimisticLock{})
	if err := d.Client.Patch(ctx, next, patch, fieldOwner); err != nil {
		return fmt.Errorf("take the migration off the owners of pod %s: %w", pod.Name, err)
	}
	return nil
}

// giveUpClone gives a clone up: it first notes why, so that nobody takes it further, then
// deletes the pod, and closes the Migration last.
func (d *Driver) giveUpClone(ctx context.Context, v *clone.View, step clone.Step) error {
	m, pod := v.Migration, v.Pod
	if !m.Withdrawing() {
		m.Status.Held, m.Status.Reason, m.Status.Message = nil, step.Reason, step.Message
		return nil
	}
	if pod != nil && m.ClonedBy(pod) {
		if pod.DeletionTimestamp == nil {
			d.Events.Eventf(pod, m, corev1.EventTypeWarning, "CloneGivenUp", "Delete", "%s",
				cut(fmt.Sprintf("The pod was to start as a clone of pod %s, and is deleted: %s", m.Spec.Clone.Pod.Name, step.Message)))
			if err := d.Client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID}); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
			}
		}
		if v.TargetFenced { // no kubelet tells its end
			if _, err := d.removePod(ctx, pod, m.Status.Claim.NodeName, m.Spec.Reason); err != nil {
				return err
			}
		}
	}
	conclude(m, Verdict{Result: step.Result, Reason: step.Reason, Message: step.Message})
	return nil
}

// adopters are the owners in the clone's namespace that would take it for one of theirs by
// its labels.
func (d *Driver) adopters(ctx context.Context, m *v1alpha1.Migration) ([]string, error) {
	if len(m.Spec.Clone.Labels) == 0 {
		return nil, nil
	}
	wears := labels.Set(m.Spec.Clone.Labels)
	var found []string
	for _, list := range []client.ObjectList{&appsv1.ReplicaSetList{}, &appsv1.StatefulSetList{}, &appsv1.DaemonSetList{}, &batchv1.JobList{}, &corev1.ReplicationControllerList{}} {
		if err := d.Reader.List(ctx, list, client.InNamespace(m.Namespace)); err != nil {
			return nil, fmt.Errorf("list the owners of pods in %s: %w", m.Namespace, err)
		}
		err := meta.EachListItem(list, func(object runtime.Object) error {
			kind, selector := selectorOf(object)
			if s, err := metav1.LabelSelectorAsSelector(selector); err == nil && !s.Empty() && s.Matches(wears) {
				found = append(found, kind+" "+object.(client.Object).GetName())
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look at the owners of pods in %s: %w", m.Namespace, err)
		}
	}
	return found, nil
}

// selectorOf is by which labels an owner knows its pods.
func selectorOf(object runtime.Object) (kind string, selector *metav1.LabelSelector) {
	switch o := object.(type) {
	case *appsv1.ReplicaSet:
		return "ReplicaSet", o.Spec.Selector
	case *appsv1.StatefulSet:
		return "StatefulSet", o.Spec.Selector
	case *appsv1.DaemonSet:
		return "DaemonSet", o.Spec.Selector
	case *batchv1.Job:
		return "Job", o.Spec.Selector
	case *corev1.ReplicationController:
		return "ReplicationController", &metav1.LabelSelector{MatchLabels: o.Spec.Selector}
	}
	return "", nil
}
