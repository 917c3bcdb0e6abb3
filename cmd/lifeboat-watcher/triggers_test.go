package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/binaries"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// TestTriggers has a watcher and Node objects without anything behind them: the test
// plays the checkpointers.
func TestTriggers(t *testing.T) {
	c := &cluster{controlPlane: startControlPlane(t)}
	for _, manifest := range []string{"namespace.yaml", "crds/lifeboat.dev_checkpoints.yaml", "crds/lifeboat.dev_fences.yaml",
		"crds/lifeboat.dev_migrations.yaml", "runtimeclass.yaml", "watcher-rbac.yaml"} {
		c.apply("../../manifests/"+manifest, nil)
	}
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		name := fmt.Sprintf("n%d", i+1)
		c.makeNode(nodeConfig{Name: name, IP: fmt.Sprintf("127.0.0.%d", 11+i)})
		fence := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, Epoch: 1, BootID: "boot-of-" + name}}
		if err := c.Create(t.Context(), fence); err != nil {
			t.Fatal(err)
		}
	}
	c.member, _ = strconv.Atoi(controlplane.FreePort(t))
	c.watchers = append(c.watchers, c.startWatcher(t, 1, "--move-on-pressure"))
	c.applyAdmission()
	c.leader(t)
	controlplane.Eventually(t, "the watcher is ready, and trusted with evictions", func(ctx context.Context) error {
		if _, err := get("http://" + c.watchers[0].metrics + "/readyz"); err != nil {
			return err
		}
		// As the webhook must answer here, an eviction of nobody is refused until it does.
		if err := c.evict(t, "nobody"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("evict nobody: %w", err)
		}
		return nil
	})
	begins := pressure(t, c)
	t.Run("kubectl drain waits while a pod moves", func(t *testing.T) { drain(t, c) })
	t.Run("a pod that cannot be moved", func(t *testing.T) { unmovable(t, c) })
	t.Run("a spot instance is taken back", func(t *testing.T) { interruption(t, c) })
	t.Run("a node is short of memory", func(t *testing.T) { relieved(t, c, begins) })
}

// evict asks once for a pod's eviction.
func (c *cluster) evict(t *testing.T, pod string) error {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(c.Config(controlplane.AdminToken))
	if err != nil {
		t.Fatal(err)
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod}}
	// The client would else ask ten times by itself.
	return clientset.CoreV1().RESTClient().Post().MaxRetries(0).Namespace("shop").Resource("pods").Name(pod).SubResource("eviction").Body(eviction).Do(t.Context()).Error()
}

// kubectl runs kubectl as the administrator, and returns what it says.
func (c *cluster) kubectl(ctx context.Context, t *testing.T, kubeconfig string, args ...string) (string, error) {
	t.Helper()
	folder := os.Getenv(controlplane.BinariesVariable)
	if folder == "" {
		var err error
		if folder, err = binaries.Kubernetes(ctx, func(string) {}); err != nil {
			return "", err
		}
	}
	output, err := exec.CommandContext(ctx, filepath.Join(folder, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
	return string(output), err
}

func drain(t *testing.T, c *cluster) {
	pod := c.makePod(t, "cart-0", ownedBy("StatefulSet", "cart"), onNode("n1"))
	c.run(t, pod)
	plain := c.makePod(t, "plain", unprotected, ownedBy("ReplicaSet", "plain"), onNode("n1"))
	c.run(t, plain)
	kubeconfig := c.Kubeconfig(controlplane.AdminToken)
	arguments := []string{"drain", "n1", "--grace-period=0", "--timeout=90s", "--force"}

	output, err := c.kubectl(t.Context(), t, kubeconfig, append(arguments, "--dry-run=server")...)
	if err != nil || !strings.Contains(output, "Lifeboat would move the pod to another node") {
		t.Errorf("a dry run: %v\n%s", err, output)
	}
	var none v1alpha1.MigrationList
	if err := c.List(t.Context(), &none); err != nil || len(none.Items) > 0 {
		t.Fatalf("the dry run made %d migrations, %v", len(none.Items), err)
	}

	type result struct {
		output string
		err    error
	}
	drained := make(chan result, 1)
	go func() {
		output, err := c.kubectl(t.Context(), t, kubeconfig, arguments...)
		drained <- result{output, err}
	}()
	m := c.migrationFor(t, pod.UID, v1alpha1.PhaseAccepted)
	if m.Spec.Reason != v1alpha1.MigrationNodeDrained || m.Spec.Strategy != v1alpha1.StrategyLive || m.Spec.SourceNode != "n1" {
		t.Errorf("migration %+v, want a live move off n1 because it is drained", m.Spec)
	}
	c.event(t, "cart-0", "MoveBegun")
	if err := c.evict(t, "cart-0"); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), m.Name) {
		t.Errorf("evicting it meanwhile: %v", err)
	} else if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds != 2 {
		t.Errorf("to be tried again after %d s, %v; want 2", seconds, ok)
	}

	// What the source, the pod's owner, the scheduler and the target do.
	now := metav1.NowMicro()
	held := &v1alpha1.HeldCheckpoint{Generation: 6, TakenAt: now, Holders: []string{"n1", "n2"}}
	c.patchStatus(t, m, map[string]any{"source": v1alpha1.SourceStatus{PreparedAt: &now, PreparedGeneration: 5}})
	m = c.migrationFor(t, pod.UID, v1alpha1.PhaseStopping)
	c.patchStatus(t, m, map[string]any{"source": v1alpha1.SourceStatus{PreparedAt: &now, PreparedGeneration: 5, PausedAt: &now, StoppedAt: &now, Checkpoint: held}})
	m = c.migrationFor(t, pod.UID, v1alpha1.PhaseDeleted)
	next := c.makePod(t, "cart-0", ownedBy("StatefulSet", "cart"))
	if err := c.evict(t, "cart-0"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("evicting the successor before the move is done: %v", err)
	}
	c.claimAndBind(t, m, next, "n2")
	c.restored(t, m, next, now.Time)
	c.run(t, next)
	m = c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultRestored {
		t.Errorf("result %s, %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}

	done := <-drained
	t.Log(done.output)
	if done.err != nil || !strings.Contains(done.output, "Lifeboat is moving the pod to another node (migration "+m.Name) || !strings.Contains(done.output, "node/n1 drained") {
		t.Errorf("kubectl drain: %v", done.err)
	}
	got := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(next), got); err != nil || got.UID != next.UID || got.DeletionTimestamp != nil {
		t.Errorf("the successor was evicted: %v", err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(plain), &corev1.Pod{}); !apierrors.IsNotFound(err) {
		t.Errorf("the unprotected pod: %v, want not found", err)
	}
	c.awaitMetric(t, c.watchers[0], `lifeboat_triggered_moves_total{migration_reason="NodeDrained"} 1`)
}

func unmovable(t *testing.T, c *cluster) {
	pod := c.makePod(t, "ring-0", ownedBy("StatefulSet", "ring"), onNode("n2"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](0) })
	c.run(t, pod)
	checkpoint := &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ring-0"}, Spec: v1alpha1.CheckpointSpec{PodUID: pod.UID, NodeName: "n2"}}
	if err := c.Create(t.Context(), checkpoint); err != nil {
		t.Fatal(err)
	}
	checkpoint.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionCheckpointable, Status: metav1.ConditionFalse, Reason: "IOUring", Message: "io_uring is in use", LastTransitionTime: metav1.Now()}}
	if err := c.Status().Update(t.Context(), checkpoint); err != nil {
		t.Fatal(err)
	}
	output, err := c.kubectl(t.Context(), t, c.Kubeconfig(controlplane.AdminToken), "drain", "n2", "--pod-selector=app=ring-0", "--timeout=30s", "--force")
	if err != nil || !strings.Contains(output, "its successor starts without its state: it cannot be checkpointed (IOUring)") {
		t.Errorf("kubectl drain: %v\n%s", err, output)
	}
	c.event(t, "ring-0", "EvictedWithoutState")
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), &corev1.Pod{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod: %v, want not found", err)
	}
}

func interruption(t *testing.T, c *cluster) {
	for _, name := range []string{"bank-0", "bank-1"} {
		c.run(t, c.makePod(t, name, ownedBy("StatefulSet", "bank"), onNode("n3")))
	}
	n := &corev1.Node{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "n3"}, n); err != nil {
		t.Fatal(err)
	}
	before := n.DeepCopy()
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "aws-node-termination-handler/spot-itn", Value: "MTIz", Effect: corev1.TaintEffectNoSchedule})
	if err := c.Patch(t.Context(), n, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bank-0-1", "bank-1-1"} {
		m := &v1alpha1.Migration{}
		controlplane.Eventually(t, "there is migration "+name, func(ctx context.Context) error {
			return c.Get(ctx, client.ObjectKey{Namespace: "shop", Name: name}, m)
		})
		if s := m.Spec; s.Reason != v1alpha1.MigrationSpotInterruption || s.DeadlineSeconds < 80 || s.DeadlineSeconds > 90 {
			t.Errorf("migration %s: %s within %d s, want SpotInterruption within 90", name, s.Reason, s.DeadlineSeconds)
		}
	}
	c.awaitMetric(t, c.watchers[0], `lifeboat_triggered_moves_total{migration_reason="SpotInterruption"} 2`)
}

// pressure makes a node short of memory, and returns when it was not yet.
func pressure(t *testing.T, c *cluster) time.Time {
	t.Helper()
	for name, priority := range map[string]int32{"low": 1, "high": 1000} {
		if err := c.Create(t.Context(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: priority}); err != nil {
			t.Fatal(err)
		}
	}
	for name, class := range map[string]string{"a-0": "high", "b-0": "low", "c-0": "high"} {
		c.run(t, c.makePod(t, name, ownedBy("StatefulSet", "s"+name), onNode("n4"), func(p *corev1.Pod) { p.Spec.PriorityClassName = class }))
	}
	before := time.Now()
	n := &corev1.Node{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "n4"}, n); err != nil {
		t.Fatal(err)
	}
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue})
	if err := c.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return before
}

func relieved(t *testing.T, c *cluster, since time.Time) {
	m := &v1alpha1.Migration{}
	controlplane.Eventually(t, "the least important pod is to be moved", func(ctx context.Context) error {
		return c.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "b-0-1"}, m)
	})
	if after := m.Spec.LostAt.Sub(since); m.Spec.Reason != v1alpha1.MigrationNodePressure || after < 30*time.Second {
		t.Errorf("migration %s: %s, %s after the pressure began; want NodePressure after 30s or more", m.Name, m.Spec.Reason, after)
	}
	var list v1alpha1.MigrationList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for _, other := range list.Items {
		if other.Spec.SourceNode == "n4" && other.Name != m.Name {
			t.Errorf("migration %s was begun, too", other.Name)
		}
	}
}
