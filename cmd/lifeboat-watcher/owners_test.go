package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// TestOwnersDeleted deletes what pods belong to while they are moved, or cloned. The
// Deployments, ReplicaSets and the garbage collector are Kubernetes' own; the test plays
// the scheduler and the nodes.
func TestOwnersDeleted(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)
	c.StartControllers("deployment-controller", "replicaset-controller", "garbage-collector-controller")
	t.Run("a move is cancelled", func(t *testing.T) { adoptedAgain(t, c) })
	for name, propagation := range map[string]metav1.DeletionPropagation{"in the background": metav1.DeletePropagationBackground, "in the foreground": metav1.DeletePropagationForeground} {
		t.Run("the Deployment is deleted "+name, func(t *testing.T) { deploymentDeleted(t, c, propagation) })
	}
	t.Run("the Deployment is deleted after the stop", func(t *testing.T) { deploymentDeletedLater(t, c) })
	t.Run("owners are deleted without their pods", func(t *testing.T) { orphaned(t, c) })
	t.Run("a clone's Migration is deleted", func(t *testing.T) { cloneAbandoned(t, c) })
}

// deploy makes a Deployment of one pod, and has it run on n1.
func (c *cluster) deploy(t *testing.T, name string) (*appsv1.Deployment, *corev1.Pod) {
	t.Helper()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
			Spec:       corev1.PodSpec{RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName), Containers: []corev1.Container{{Name: "app", Image: "cart"}}},
		}}}
	if err := c.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	pod := c.podOf(t, name, "")
	c.bind(t, pod, "n1")
	c.run(t, pod)
	return d, pod
}

// podOf waits for a pod of a Deployment that its ReplicaSet controls, but the one of a UID.
func (c *cluster) podOf(t *testing.T, app string, not types.UID) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	controlplane.Eventually(t, "another pod of Deployment "+app, func(ctx context.Context) error {
		var list corev1.PodList
		if err := c.List(ctx, &list, client.InNamespace("shop"), client.MatchingLabels{"app": app}); err != nil {
			return err
		}
		for i := range list.Items {
			if pod := &list.Items[i]; pod.UID != not && pod.DeletionTimestamp == nil && metav1.GetControllerOf(pod) != nil {
				found = pod
				return nil
			}
		}
		return errNotYet
	})
	return found
}

// moveParked begins a live move, and has the successor wait on n3.
func (c *cluster) moveParked(t *testing.T, old *corev1.Pod) (*v1alpha1.Migration, *corev1.Pod) {
	t.Helper()
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	next := c.podOf(t, old.Labels["app"], old.UID)
	c.claimAndBind(t, m, next, "n3")
	c.park(t, m, next)
	c.reached(t, m, v1alpha1.PhaseParked)
	return m, next
}

func (c *cluster) deleteOwner(t *testing.T, owner client.Object, propagation metav1.DeletionPropagation) {
	t.Helper()
	if err := c.Delete(t.Context(), owner, client.PropagationPolicy(propagation)); err != nil {
		t.Fatal(err)
	}
}

// adoptedAgain: a pod whose move is given up is its ReplicaSet's as before, and alone.
func adoptedAgain(t *testing.T, c *cluster) {
	_, old := c.deploy(t, "adopted")
	m, next := c.moveParked(t, old)
	before := m.DeepCopy()
	metav1.SetMetaDataAnnotation(&m.ObjectMeta, v1alpha1.AnnotationCancel, "a mistake")
	if err := c.Patch(t.Context(), m, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	c.kill(t, next)
	c.closed(t, m)
	controlplane.Eventually(t, "the pod is its ReplicaSet's again", func(ctx context.Context) error {
		now := &corev1.Pod{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(old), now); err != nil {
			return err
		}
		owners := now.OwnerReferences
		if len(owners) != 1 || owners[0].UID != old.OwnerReferences[0].UID || !ptr.Deref(owners[0].Controller, false) || now.DeletionTimestamp != nil {
			return fmt.Errorf("its owners are %+v", owners)
		}
		return nil
	})
}

// deploymentDeleted deletes the owner of a pod that is moved, and still runs: both of its
// pods go, as they would without the move.
func deploymentDeleted(t *testing.T, c *cluster, propagation metav1.DeletionPropagation) {
	d, old := c.deploy(t, "deleted-"+strings.ToLower(string(propagation)))
	m, next := c.moveParked(t, old)
	c.deleteOwner(t, d, propagation)
	c.kill(t, next)
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultWithdrawn || m.Status.Reason != v1alpha1.ReasonNotAllowed && m.Status.Reason != v1alpha1.ReasonTargetFailed {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	if propagation == metav1.DeletePropagationForeground {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
			t.Errorf("the Deployment is gone before its released pod: %v", err)
		}
	}
	c.kill(t, old)
	controlplane.Eventually(t, "the Deployment is gone", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(d), d); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

// deploymentDeletedLater: a pod has been stopped, and no other one is wanted for a while. As
// long as there is somebody who may make one, the state waits; when there is not, the move
// ends soon.
func deploymentDeletedLater(t *testing.T, c *cluster) {
	d, old := c.deploy(t, "deleted-later")
	m, next := c.moveParked(t, old)
	c.prepare(t, m)
	c.reached(t, m, v1alpha1.PhaseStopping)
	c.stop(t, m)
	c.reached(t, m, v1alpha1.PhaseDeleted)
	before := d.DeepCopy()
	d.Spec.Replicas = ptr.To(int32(0))
	if err := c.Patch(t.Context(), d, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	c.kill(t, next)
	c.until(t, m, "nobody's", func(m *v1alpha1.Migration) bool { return m.Status.Claim == nil })
	free := time.Now()
	c.until(t, m, "open for longer than a deleted owner takes to show", func(m *v1alpha1.Migration) bool { return !m.Open() || time.Since(free) > 8*time.Second })
	if !m.Open() {
		t.Fatalf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.deleteOwner(t, d, metav1.DeletePropagationBackground)
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultFailed || m.Status.Reason != v1alpha1.ReasonOwnerDeleted {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.gone(t, old)
}

// orphaned: who deletes owners and leaves the pods wants both pods to stay.
func orphaned(t *testing.T, c *cluster) {
	d, old := c.deploy(t, "orphaned")
	_, next := c.moveParked(t, old)
	c.deleteOwner(t, d, metav1.DeletePropagationOrphan)
	c.unowned(t, d)
	owner := metav1.GetControllerOf(next)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: owner.Name, UID: owner.UID}}
	c.deleteOwner(t, set, metav1.DeletePropagationOrphan)
	c.unowned(t, set)
	for _, pod := range []*corev1.Pod{old, next} {
		if now := c.pod(t, pod.Name); now.DeletionTimestamp != nil || len(now.OwnerReferences) > 0 {
			t.Errorf("pod %s is deleted at %v, with the owners %+v", now.Name, now.DeletionTimestamp, now.OwnerReferences)
		}
	}
}

// unowned waits until an owner is gone.
func (c *cluster) unowned(t *testing.T, owner client.Object) {
	t.Helper()
	controlplane.Eventually(t, owner.GetName()+" is gone", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(owner), owner); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there, with %v: %w", owner.GetFinalizers(), err)
		}
		return nil
	})
}

// cloneAbandoned: a clone that nobody brings further any more goes; one that was restored stays.
func cloneAbandoned(t *testing.T, c *cluster) {
	cart := c.makePod(t, "cart-1", onNode("n1"), admitted)
	c.run(t, cart)
	c.hold(t, cart)
	abandoned := c.clone(t, cart, v1alpha1.Clone{Name: "abandoned"})
	waits := c.cloneOf(t, abandoned)
	finished := c.clone(t, cart, v1alpha1.Clone{Name: "finished"})
	runs := c.cloneOf(t, finished)
	c.claimAndBind(t, finished, runs, "n2")
	c.report(t, finished, runs, 6, v1alpha1.ContainerRestore{Result: v1alpha1.ResultRestored})
	c.run(t, runs)
	c.closed(t, finished)
	for _, m := range []*v1alpha1.Migration{finished, abandoned} {
		if err := c.Delete(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	c.gone(t, waits)
	if now := c.pod(t, runs.Name); now.UID != runs.UID || now.DeletionTimestamp != nil {
		t.Errorf("the clone that was restored is deleted at %v", now.DeletionTimestamp)
	}
}
