package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// ofDeployment makes a pod one of a Deployment's.
func ofDeployment(name string) podOption {
	return func(p *corev1.Pod) {
		ownedBy("ReplicaSet", name)(p)
		p.Labels["pod-template-hash"] = "h"
		p.Labels["app"] = name
	}
}

// serve makes a Service that selects the pods of an application.
func (c *cluster) serve(t *testing.T, app string) {
	t.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: app},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 80}}}}
	if err := c.Create(t.Context(), service); err != nil {
		t.Fatal(err)
	}
}

// move asks for a pod's move.
func (c *cluster) move(t *testing.T, pod *corev1.Pod, move v1alpha1.Move) *v1alpha1.Migration {
	t.Helper()
	var known v1alpha1.MigrationList
	if err := c.List(t.Context(), &known, client.InNamespace(pod.Namespace)); err != nil {
		t.Fatal(err)
	}
	if move.Reason == "" {
		move.Reason = v1alpha1.MigrationRequested
	}
	m := v1alpha1.NewMove(pod, move, v1alpha1.NextEpoch(pod, nil, known.Items), time.Now())
	if err := c.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// until waits for a state of a Migration.
func (c *cluster) until(t *testing.T, m *v1alpha1.Migration, what string, is func(*v1alpha1.Migration) bool) {
	t.Helper()
	controlplane.Eventually(t, "migration "+m.Name+" is "+what, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return err
		}
		if !is(m) {
			return fmt.Errorf("phase %s, result %s, %s: %s, held %+v", m.Status.Phase, m.Status.Result, m.Status.Reason, m.Status.Message, m.Status.Held)
		}
		return nil
	})
}

func (c *cluster) reached(t *testing.T, m *v1alpha1.Migration, phase v1alpha1.Phase) {
	t.Helper()
	c.until(t, m, string(phase), func(m *v1alpha1.Migration) bool { return m.Reached(phase) })
}

// labels waits until a pod has these labels, and returns it.
func (c *cluster) labels(t *testing.T, pod *corev1.Pod, what string, is func(map[string]string) bool) *corev1.Pod {
	t.Helper()
	now := &corev1.Pod{}
	controlplane.Eventually(t, "pod "+pod.Name+" is "+what, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(pod), now); err != nil {
			return err
		}
		if !is(now.Labels) {
			return fmt.Errorf("labels %v", now.Labels)
		}
		return nil
	})
	return now
}

// succeed plays the ReplicaSet of a released pod: it makes another one, which Kubernetes'
// or Lifeboat's scheduler places.
func (c *cluster) succeed(t *testing.T, m *v1alpha1.Migration, old *corev1.Pod, name, node string) *corev1.Pod {
	t.Helper()
	old = c.labels(t, old, "released", func(labels map[string]string) bool { return labels["pod-template-hash"] != "h" })
	if old.Labels["app"] == "" {
		t.Errorf("the pod has left its Services before there is another one: %v", old.Labels)
	}
	if len(old.OwnerReferences) != 1 || metav1.GetControllerOf(old) != nil {
		t.Errorf("a released pod refers to its owner as %+v", old.OwnerReferences)
	}
	next := c.makePod(t, name, ofDeployment(m.Spec.Pod.OwnerName), func(p *corev1.Pod) {
		p.Annotations, p.Spec.RuntimeClassName = old.Annotations, old.Spec.RuntimeClassName
	})
	if m.Spec.Strategy == v1alpha1.StrategyReplace {
		c.bind(t, next, node)
		return next
	}
	c.claimAndBind(t, m, next, node)
	return next
}

// own changes who owns a pod.
func (c *cluster) own(t *testing.T, pod *corev1.Pod, owners []metav1.OwnerReference) {
	t.Helper()
	before := pod.DeepCopy()
	pod.OwnerReferences = owners
	if err := c.Patch(t.Context(), pod, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) bind(t *testing.T, pod *corev1.Pod, node string) {
	t.Helper()
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	if err := c.SubResource("binding").Create(t.Context(), pod, binding); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
}

// source writes what the checkpointer on the source node has done.
func (c *cluster) source(t *testing.T, m *v1alpha1.Migration, status map[string]any) {
	t.Helper()
	c.patchStatus(t, m, map[string]any{"source": status})
}

func (c *cluster) prepare(t *testing.T, m *v1alpha1.Migration) {
	t.Helper()
	c.source(t, m, map[string]any{"preparedAt": metav1.NowMicro(), "preparedGeneration": 5})
}

// park plays the target: the pod waits, and says of its restore that it began then.
func (c *cluster) park(t *testing.T, m *v1alpha1.Migration, pod *corev1.Pod) {
	t.Helper()
	now := metav1.NowMicro()
	c.patchStatus(t, m, map[string]any{"restore": map[string]any{"podUID": pod.UID, "parkedAt": now, "startedAt": now}})
}

// stop plays the source: the pod is paused, its last generation is taken, and it is killed.
func (c *cluster) stop(t *testing.T, m *v1alpha1.Migration) (paused time.Time) {
	t.Helper()
	paused = time.Now()
	c.source(t, m, map[string]any{"pausedAt": metav1.NewMicroTime(paused), "stoppedAt": metav1.NowMicro(),
		"checkpoint": v1alpha1.HeldCheckpoint{Generation: 6, TakenAt: metav1.NewMicroTime(paused), Bytes: 1 << 20, Holders: []string{m.Spec.SourceNode}}})
	return paused
}

func (c *cluster) gone(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	controlplane.Eventually(t, "pod "+pod.Name+" is gone", func(ctx context.Context) error {
		left := &corev1.Pod{}
		err := c.Get(ctx, client.ObjectKeyFromObject(pod), left)
		if apierrors.IsNotFound(err) || err == nil && left.UID != pod.UID {
			return nil
		}
		return fmt.Errorf("it is there, deleted at %v: %w", left.DeletionTimestamp, err)
	})
}

// end plays the kubelet: a pod that is being deleted ends.
func (c *cluster) end(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	left := &corev1.Pod{}
	controlplane.Eventually(t, "pod "+pod.Name+" is being deleted", func(ctx context.Context) error {
		err := c.Get(ctx, client.ObjectKeyFromObject(pod), left)
		if err == nil && left.DeletionTimestamp == nil {
			err = errNotYet
		}
		return err
	})
	if !slices.ContainsFunc(left.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	}) {
		t.Errorf("pod %s is not told why it goes: %v", pod.Name, left.Status.Conditions)
	}
	if err := c.Delete(t.Context(), left, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

func phasesOf(m *v1alpha1.Migration) string {
	var names []string
	for _, p := range m.Status.Phases {
		names = append(names, string(p.Phase))
	}
	return strings.Join(names, " ")
}

// moved checks a move that came to its end.
func (c *cluster) moved(t *testing.T, m *v1alpha1.Migration, result v1alpha1.Result, phases string) {
	t.Helper()
	c.closed(t, m)
	if m.Status.Result != result || phasesOf(m) != phases {
		t.Errorf("result %s (%s: %s), phases %s\nwant %s and %s", m.Status.Result, m.Status.Reason, m.Status.Message, phasesOf(m), result, phases)
	}
	if m.Status.RTOSeconds <= 0 {
		t.Errorf("it took %s", m.Status.RTO)
	}
}

// kill waits until a pod is being deleted, and ends it as its kubelet would.
func (c *cluster) kill(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	controlplane.Eventually(t, "pod "+pod.Name+" is being deleted", func(ctx context.Context) error {
		left := &corev1.Pod{}
		err := c.Get(ctx, client.ObjectKeyFromObject(pod), left)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil && left.DeletionTimestamp == nil {
			return errNotYet
		}
		return err
	})
	if err := c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

// failoverOf waits for the Migration of a pod's loss, besides its planned move.
func (c *cluster) failoverOf(t *testing.T, uid types.UID) *v1alpha1.Migration {
	t.Helper()
	var found *v1alpha1.Migration
	controlplane.Eventually(t, "a failover of pod "+string(uid), func(ctx context.Context) error {
		var list v1alpha1.MigrationList
		if err := c.List(ctx, &list, client.InNamespace("shop")); err != nil {
			return err
		}
		for i := range list.Items {
			if m := &list.Items[i]; m.LostPod() == uid && !m.Planned() {
				found = m
				return nil
			}
		}
		return errNotYet
	})
	return found
}
