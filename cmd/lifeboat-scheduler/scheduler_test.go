package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/plugin"
)

const namespace = "default"

var (
	migrations = v1alpha1.GroupVersion.WithResource("migrations")
	fences     = v1alpha1.GroupVersion.WithResource("fences")
	modern     = v1alpha1.NodeFacts{Architecture: "amd64", KernelVersion: "6.12.1", CRIUVersion: "4.2.1"}
	outdated   = v1alpha1.NodeFacts{Architecture: "amd64", KernelVersion: "6.12.1", CRIUVersion: "4.1.1"}
)

// TestScheduler runs the whole scheduler against a real API server. Its steps
// build on each other: first without Lifeboat's kinds, then with them.
func TestScheduler(t *testing.T) {
	cp := startControlPlane(t)
	cp.apply("../../manifests/scheduler/rbac.yaml")
	for _, name := range []string{"node-a", "node-b", "node-c"} {
		cp.createNode(name)
	}
	cp.startScheduler()

	t.Run("without the kinds", func(t *testing.T) {
		ordinary := pod("ordinary", "")
		ordinary.Spec.SchedulerName = corev1.DefaultSchedulerName
		ordinary.Annotations = nil
		cp.create(t, ordinary)
		unprotected := pod("unprotected", "")
		unprotected.Annotations = nil
		cp.create(t, unprotected)
		cp.create(t, pod("protected", ""))
		cp.waitForNode(t, "ordinary")
		cp.waitForNode(t, "unprotected")
		cp.waitForNode(t, "protected")
	})

	for _, kind := range []string{"migrations", "fences", "checkpoints"} {
		cp.apply("../../manifests/crds/lifeboat.dev_" + kind + ".yaml")
	}
	controlplane.Eventually(t, "the kinds are served", func(ctx context.Context) error {
		_, err := cp.dynamic.Resource(fences).List(ctx, metav1.ListOptions{})
		if err == nil {
			_, err = cp.dynamic.Resource(migrations).List(ctx, metav1.ListOptions{})
		}
		return err
	})
	cp.createFence(t, "node-a", v1alpha1.FenceFenced, modern)
	cp.createFence(t, "node-b", v1alpha1.FenceRunning, modern)
	cp.createFence(t, "node-c", v1alpha1.FenceRunning, modern)

	t.Run("a holder is chosen and the claim written", func(t *testing.T) {
		for _, holder := range []string{"node-b", "node-c"} {
			name := "on-" + holder
			cp.createMigration(t, name, name, "", held(holder))
			cp.create(t, pod(name, ""))
			successor := cp.waitForNode(t, name)
			claim := cp.claim(t, name)
			if successor.Spec.NodeName != holder || claim == nil || claim.PodUID != successor.UID || claim.NodeName != holder || claim.PodName != name {
				t.Errorf("pod is on %s with claim %+v; want it on %s", successor.Spec.NodeName, claim, holder)
			}
			cp.waitForEvent(t, successor, plugin.EventClaimed, "to be restored on node "+holder+" from generation 7 in about 500ms; node ")
		}
	})

	t.Run("one Migration for each of several pods", func(t *testing.T) {
		const owner = "rs-1"
		for i := range 3 {
			cp.createMigration(t, fmt.Sprintf("web-%d", i), fmt.Sprintf("lost-web-%d", i), owner, held("node-b"))
		}
		for i := range 4 {
			cp.create(t, pod(fmt.Sprintf("web-new-%d", i), owner))
		}
		claimants := map[types.UID]bool{}
		for i := range 4 {
			cp.waitForNode(t, fmt.Sprintf("web-new-%d", i))
		}
		for i := range 3 {
			claim := cp.claim(t, fmt.Sprintf("web-%d", i))
			if claim == nil || claimants[claim.PodUID] {
				t.Fatalf("Migration web-%d has claim %+v; the others have %v", i, claim, claimants)
			}
			claimants[claim.PodUID] = true
		}
	})

	t.Run("a claim is kept by its pod, and by it alone", func(t *testing.T) {
		for _, name := range []string{"mine", "theirs"} {
			gated := pod(name, "")
			gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "test/hold"}}
			cp.create(t, gated)
			p, err := cp.typed.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			status := held("node-c")
			status.Claim = &v1alpha1.Claim{PodName: name, PodUID: p.UID, NodeName: "node-a", At: metav1.NowMicro()}
			if name == "theirs" {
				status.Claim.PodUID = "another"
			}
			cp.createMigration(t, name, name, "", status)
			// A pod that is placed after it was recorded shows that the scheduler knows of it.
			cp.create(t, pod("after-"+name, ""))
			cp.waitForNode(t, "after-"+name)
			p.Spec.SchedulingGates = nil
			if _, err := cp.typed.CoreV1().Pods(namespace).Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if p, claim := cp.waitForNode(t, "mine"), cp.claim(t, "mine"); p.Spec.NodeName != "node-c" || claim.PodUID != p.UID || claim.NodeName != "node-c" {
			t.Errorf("pod is on %s with claim %+v; want it on node-c with its own", p.Spec.NodeName, claim)
		}
		cp.waitForNode(t, "theirs")
		if claim := cp.claim(t, "theirs"); claim.PodUID != "another" || claim.NodeName != "node-a" {
			t.Errorf("another pod's claim became %+v", claim)
		}
	})

	t.Run("a changed Fence brings the pod back", func(t *testing.T) {
		cp.setFence(t, "node-b", v1alpha1.FenceRunning, outdated)
		cp.setFence(t, "node-c", v1alpha1.FenceLost, modern)
		cp.createMigration(t, "fenced", "fenced", "", held("node-c"))
		cp.create(t, pod("fenced", ""))
		cp.waitForRejection(t, "fenced", "1 node is declared lost", "1 node is fenced",
			"1 node cannot restore the pod: CRIU 4.1.1 is older than 4.2.1 that made the checkpoint")
		cp.setFence(t, "node-c", v1alpha1.FenceRunning, modern)
		if got := cp.waitForNode(t, "fenced").Spec.NodeName; got != "node-c" {
			t.Errorf("pod is on %s, want node-c", got)
		}
		cp.setFence(t, "node-b", v1alpha1.FenceRunning, modern)
	})

	t.Run("a Migration without a status is waited for", func(t *testing.T) {
		cp.createMigration(t, "early", "early", "", v1alpha1.MigrationStatus{})
		cp.create(t, pod("early", ""))
		early, err := cp.typed.CoreV1().Pods(namespace).Get(t.Context(), "early", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cp.waitForEvent(t, early, plugin.EventHeld, "migration early is being prepared")
		cp.setStatus(t, "early", held("node-c"))
		if got := cp.waitForNode(t, "early").Spec.NodeName; got != "node-c" {
			t.Errorf("pod is on %s, want node-c", got)
		}
		if cp.claim(t, "early") == nil {
			t.Error("the Migration was not claimed")
		}
	})

	t.Run("a recovery that is held is not the pod's concern", func(t *testing.T) {
		cp.createMigration(t, "held", "held", "", v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDetected, Held: &v1alpha1.Held{
			Reason: v1alpha1.HeldPaused, Message: "an operator has paused recoveries", Since: metav1.NowMicro(),
		}})
		cp.create(t, pod("held", ""))
		cp.waitForNode(t, "held")
		if claim := cp.claim(t, "held"); claim != nil {
			t.Errorf("the held Migration was claimed: %+v", claim)
		}
	})

	t.Run("room for the checkpoint is waited for", func(t *testing.T) {
		status := held("node-c")
		status.Checkpoint.Bytes = 10 << 30
		occupant := pod("occupant", "")
		occupant.Annotations = nil
		occupant.Spec.NodeName = "node-c"
		occupant.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("8Gi")}
		cp.create(t, occupant)
		cp.setFence(t, "node-b", v1alpha1.FenceRunning, outdated)
		cp.createMigration(t, "large", "large", "", status)
		cp.create(t, pod("large", ""))
		cp.waitForRejection(t, "large", "1 node is fenced", "1 node cannot restore the pod: CRIU 4.1.1 is older than 4.2.1 that made the checkpoint",
			"1 node cannot restore the pod: it has less than 10Gi of memory to give")
		if err := cp.typed.CoreV1().Pods(namespace).Delete(t.Context(), "occupant", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
		if got := cp.waitForNode(t, "large").Spec.NodeName; got != "node-c" {
			t.Errorf("pod is on %s, want node-c", got)
		}
		cp.setFence(t, "node-b", v1alpha1.FenceRunning, modern)
	})

	t.Run("beside a plugin of scheduler-plugins", func(t *testing.T) { testBesideUpstream(t, cp) })

	t.Run("a closed Migration lets the pod start anew", func(t *testing.T) {
		cp.setFence(t, "node-b", v1alpha1.FenceRunning, outdated)
		cp.setFence(t, "node-c", v1alpha1.FenceRunning, outdated)
		cp.createMigration(t, "hopeless", "hopeless", "", held("node-b"))
		cp.create(t, pod("hopeless", ""))
		cp.waitForRejection(t, "hopeless", "2 node cannot restore the pod")
		status := held("node-b")
		status.Result, status.Reason = v1alpha1.ResultFailed, v1alpha1.ReasonNoCompatibleNode
		cp.setStatus(t, "hopeless", status)
		cp.waitForNode(t, "hopeless")
		if claim := cp.claim(t, "hopeless"); claim != nil {
			t.Errorf("a closed Migration was claimed: %+v", claim)
		}
	})

	t.Run("a fenced node takes no protected pod, but an ordinary one", func(t *testing.T) {
		for _, node := range []string{"node-b", "node-c"} {
			cp.setFence(t, node, v1alpha1.FenceFenced, modern)
		}
		cp.create(t, pod("kept-off", ""))
		cp.waitForRejection(t, "kept-off", "3 node is fenced")
		free := pod("free", "")
		free.Annotations = nil
		cp.create(t, free)
		cp.waitForNode(t, "free")
	})
}

func (cp *controlPlane) createNode(name string, change ...func(*corev1.Node)) {
	cp.t.Helper()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, c := range change {
		c(node)
	}
	if _, err := cp.typed.CoreV1().Nodes().Create(cp.t.Context(), node, metav1.CreateOptions{}); err != nil {
		cp.t.Fatal(err)
	}
}

// pod is a protected pod in the profile that admission would give it.
func pod(name string, owner types.UID) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		Spec: corev1.PodSpec{
			SchedulerName: v1alpha1.SchedulerName,
			Containers:    []corev1.Container{{Name: "main", Image: "image"}},
		},
	}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "owner", UID: owner, Controller: ptr.To(true)}}
	}
	return p
}

func (cp *controlPlane) create(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if _, err := cp.typed.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// waitForNode waits for less than the five minutes after which the scheduler retries
// rejected pods anyway.
func (cp *controlPlane) waitForNode(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	var p *corev1.Pod
	controlplane.Eventually(t, "pod "+name+" has a node", func(ctx context.Context) (err error) {
		if p, err = cp.typed.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		if p.Spec.NodeName == "" {
			return fmt.Errorf("it has none: %s", unscheduled(p))
		}
		return nil
	})
	return p
}

func (cp *controlPlane) waitForRejection(t *testing.T, name string, parts ...string) {
	t.Helper()
	controlplane.Eventually(t, "pod "+name+" is rejected", func(ctx context.Context) error {
		p, err := cp.typed.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, part := range parts {
			if !strings.Contains(unscheduled(p), part) {
				return fmt.Errorf("node %q, message %q; want %q in it", p.Spec.NodeName, unscheduled(p), part)
			}
		}
		return nil
	})
}

// unscheduled is what the pod's condition says about why it has no node.
func unscheduled(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Message
		}
	}
	return ""
}

func (cp *controlPlane) waitForEvent(t *testing.T, p *corev1.Pod, reason, part string) {
	t.Helper()
	controlplane.Eventually(t, "pod "+p.Name+" has event "+reason, func(ctx context.Context) error {
		events, err := cp.typed.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(p.UID)})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, part) {
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return errors.New(strings.Join(seen, "; "))
	})
}

// held is the status of a prepared Migration whose checkpoint is on the holder.
func held(holder string) v1alpha1.MigrationStatus {
	return v1alpha1.MigrationStatus{
		Phase:      v1alpha1.PhaseDeleted,
		Checkpoint: &v1alpha1.HeldCheckpoint{Generation: 7, TakenAt: metav1.NowMicro(), Bytes: 1 << 20, Holders: []string{holder}},
	}
}

// createMigration records the loss of a pod that node-a ran.
func (cp *controlPlane) createMigration(t *testing.T, name, podName string, owner types.UID, status v1alpha1.MigrationStatus) {
	t.Helper()
	m := &v1alpha1.Migration{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Migration"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: v1alpha1.MigrationSpec{
			Pod:        v1alpha1.PodIdentity{Name: podName, UID: types.UID("lost-" + name)},
			SourceNode: "node-a", Strategy: v1alpha1.StrategyFailover, Reason: v1alpha1.MigrationNodeLost, Epoch: 2, LostAt: metav1.NowMicro(),
		},
	}
	if owner != "" {
		m.Spec.Pod.OwnerKind, m.Spec.Pod.OwnerName, m.Spec.Pod.OwnerUID = "ReplicaSet", "owner", owner
	}
	if _, err := cp.dynamic.Resource(migrations).Namespace(namespace).Create(t.Context(), object(t, m), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if status.Phase != "" {
		cp.setStatus(t, name, status)
	}
}

func (cp *controlPlane) setStatus(t *testing.T, name string, status v1alpha1.MigrationStatus) {
	t.Helper()
	resource := cp.dynamic.Resource(migrations).Namespace(namespace)
	controlplane.Eventually(t, "the status of Migration "+name+" is written", func(ctx context.Context) error {
		m, err := resource.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		m.Object["status"] = object(t, &v1alpha1.Migration{Status: status}).Object["status"]
		_, err = resource.UpdateStatus(ctx, m, metav1.UpdateOptions{})
		return err
	})
}

func (cp *controlPlane) claim(t *testing.T, name string) *v1alpha1.Claim {
	t.Helper()
	u, err := cp.dynamic.Resource(migrations).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var m v1alpha1.Migration
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &m); err != nil {
		t.Fatal(err)
	}
	return m.Status.Claim
}

func (cp *controlPlane) createFence(t *testing.T, node string, state v1alpha1.FenceState, facts v1alpha1.NodeFacts) {
	t.Helper()
	f := &v1alpha1.Fence{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Fence"},
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Spec:       v1alpha1.FenceSpec{State: state, Epoch: 1},
	}
	if _, err := cp.dynamic.Resource(fences).Create(t.Context(), object(t, f), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cp.setFence(t, node, state, facts)
}

func (cp *controlPlane) setFence(t *testing.T, node string, state v1alpha1.FenceState, facts v1alpha1.NodeFacts) {
	t.Helper()
	resource := cp.dynamic.Resource(fences)
	f, err := resource.Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.Object["status"] = object(t, &v1alpha1.Fence{Status: v1alpha1.FenceStatus{Facts: facts}}).Object["status"]
	if f, err = resource.UpdateStatus(t.Context(), f, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedField(f.Object, string(state), "spec", "state"); err != nil {
		t.Fatal(err)
	}
	if _, err := resource.Update(t.Context(), f, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func object(t *testing.T, typed any) *unstructured.Unstructured {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: content}
}
