package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

func rawMerge(data []byte) client.Patch { return client.RawPatch(types.MergePatchType, data) }

// cluster is a control plane with two watchers and five nodes.
type cluster struct {
	*controlPlane
	watchers []*replica
	nodes    map[string]*node
	member   int // the port of the membership
}

// replica is a watcher that runs as a program of its own.
type replica struct {
	*controlplane.Program
	number               int
	metrics, webhookPort string
	apiPort              string
	// orders is the file that tells it after which write to die.
	orders string
}

// startWatcher starts a watcher, or another one in an earlier one's place.
func (c *cluster) startWatcher(t *testing.T, number int, arguments ...string) *replica {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{number: number, metrics: controlplane.FreeAddress(t), webhookPort: controlplane.FreePort(t), apiPort: controlplane.FreePort(t), orders: filepath.Join(t.TempDir(), "orders")}
	r.Program = controlplane.StartProgram(t, []string{"KUBECONFIG=" + c.Kubeconfig(watcherToken), asVariable + "=" + asWatcher, ordersVariable + "=" + r.orders,
		fmt.Sprintf("POD_NAME=watcher-%d", number), fmt.Sprintf("POD_IP=127.0.0.%d", 20+number)}, self,
		append([]string{"--metrics-address", r.metrics, "--webhook-port", r.webhookPort, "--api-port", r.apiPort, "--member-port", strconv.Itoa(c.member)}, arguments...)...)
	return r
}

func startCluster(t *testing.T) *cluster {
	c := &cluster{controlPlane: startControlPlane(t), nodes: map[string]*node{}}
	for _, manifest := range []string{"namespace.yaml", "crds/lifeboat.dev_checkpoints.yaml", "crds/lifeboat.dev_fences.yaml",
		"crds/lifeboat.dev_migrations.yaml", "runtimeclass.yaml", "watcher-rbac.yaml"} {
		c.apply("../../manifests/"+manifest, nil)
	}
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}); err != nil {
		t.Fatal(err)
	}
	c.member, _ = strconv.Atoi(controlplane.FreePort(t))
	peer, _ := strconv.Atoi(controlplane.FreePort(t))
	for i := 1; i <= 2; i++ {
		c.watchers = append(c.watchers, c.startWatcher(t, i))
	}
	c.applyAdmission()
	for i := 1; i <= 5; i++ {
		name := fmt.Sprintf("n%d", i)
		config := nodeConfig{Name: name, IP: fmt.Sprintf("127.0.0.%d", 10+i), MemberPort: c.member, PeerPort: peer}
		if name == "n3" {
			config.Sealed = []sealed{
				{Namespace: "shop", PodUID: heldPodUID, Number: 5, TakenAt: time.Now().Add(-time.Minute)},
				{Namespace: "shop", PodUID: heldPodUID, Number: 6, TakenAt: time.Now().Add(-30 * time.Second)},
			}
		}
		c.nodes[name] = c.startNode(t, config)
	}
	for _, w := range c.watchers {
		controlplane.Eventually(t, "a watcher is ready", func(context.Context) error {
			_, err := get("http://" + w.metrics + "/readyz")
			return err
		})
	}
	controlplane.Eventually(t, "a watcher leads and sees five nodes alive", func(context.Context) error {
		body, err := get("http://" + c.leader(t).metrics + "/metrics")
		if err == nil && !strings.Contains(body, `lifeboat_nodes{state="Alive"} 5`) {
			err = errNotYet
		}
		return err
	})
	// A checkpointer that is not a member yet also counts as alive.
	for _, n := range c.nodes {
		controlplane.Eventually(t, n.Name+" is a member among all the others", func(context.Context) error {
			seen, err := os.ReadFile(filepath.Join(n.Folder, membersFile))
			if want := strconv.Itoa(len(c.nodes) - 1 + len(c.watchers)); err == nil && string(seen) != want {
				err = fmt.Errorf("it sees %q others, want %s", seen, want)
			}
			return err
		})
	}
	return c
}

// applyAdmission tells the API server of the webhooks. There is no service network: it
// reaches the first watcher by name.
func (c *cluster) applyAdmission() {
	c.apply("../../manifests/admission.yaml", func(object *unstructured.Unstructured) {
		port, _ := strconv.ParseInt(c.watchers[0].webhookPort, 10, 64)
		if object.GetKind() == "Service" {
			object.Object["spec"] = map[string]any{"type": "ExternalName", "externalName": "localhost"}
			return
		}
		hooks, _, _ := unstructured.NestedSlice(object.Object, "webhooks")
		for _, hook := range hooks {
			unstructured.SetNestedField(hook.(map[string]any), port, "clientConfig", "service", "port")
			// The test must notice when the webhook does not answer.
			unstructured.SetNestedField(hook.(map[string]any), "Fail", "failurePolicy")
		}
		unstructured.SetNestedSlice(object.Object, hooks, "webhooks")
	})
}

// heldPodUID is the pod whose generations node n3 holds. The API server chooses
// UIDs itself, so the test has a Migration restore this pod's.
const heldPodUID = "11111111-2222-3333-4444-555555555555"

func get(url string) (string, error) {
	response, err := (&http.Client{Timeout: 2 * time.Second}).Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// leader is the watcher that leads.
func (c *cluster) leader(t *testing.T) *replica {
	t.Helper()
	var leader *replica
	controlplane.Eventually(t, "a watcher leads", func(context.Context) error {
		for _, w := range c.watchers {
			if body, err := get("http://" + w.metrics + "/metrics"); err == nil && strings.Contains(body, `leader_election_master_status{name="lifeboat-watcher"} 1`) {
				leader = w
				return nil
			}
		}
		return errNotYet
	})
	return leader
}

// makeNode makes a Node object that the kubelet of the node would make.
func (cp *controlPlane) makeNode(c nodeConfig) {
	cp.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.Name}}
	if err := cp.Create(cp.t.Context(), n); err != nil {
		cp.t.Fatal(err)
	}
	n.Status = corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: c.IP}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		NodeInfo:   corev1.NodeSystemInfo{BootID: "boot-of-" + c.Name},
		Capacity:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
	}
	if err := cp.Status().Update(cp.t.Context(), n); err != nil {
		cp.t.Fatal(err)
	}
}

// powerOff stops everything of a node: it answers nobody any more.
func (c *cluster) powerOff(t *testing.T, name string) time.Time {
	t.Helper()
	c.nodes[name].checkpointer.Signal(t, syscall.SIGSTOP)
	c.nodes[name].fencer.Signal(t, syscall.SIGSTOP)
	return time.Now()
}

// powerOn lets a node come back, and waits until it may run pods again.
func (c *cluster) powerOn(t *testing.T, name string) {
	t.Helper()
	c.nodes[name].checkpointer.Signal(t, syscall.SIGCONT)
	c.nodes[name].fencer.Signal(t, syscall.SIGCONT)
	c.awaitState(t, name, v1alpha1.FenceRunning)
}

type podOption func(*corev1.Pod)

func ownedBy(kind, name string) podOption {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID("uid-of-" + name), Controller: ptr.To(true)}}
	}
}

func unprotected(p *corev1.Pod) { p.Annotations = nil }

func onNode(name string) podOption { return func(p *corev1.Pod) { p.Spec.NodeName = name } }

// makePod makes a protected pod as its owner would.
func (c *cluster) makePod(t *testing.T, name string, options ...podOption) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", Labels: map[string]string{"app": name},
			Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "cart"}}},
	}
	for _, option := range options {
		option(pod)
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == "ReplicaSet" {
		owner.UID = c.replicaSet(t, pod, owner.Name)
	}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// replicaSet makes the ReplicaSet of a pod, unless it is there, and returns its UID. The
// watchers look whether it exists.
func (c *cluster) replicaSet(t *testing.T, pod *corev1.Pod, name string) types.UID {
	t.Helper()
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: pod.Namespace}, Spec: appsv1.ReplicaSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"replica-set": name}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"replica-set": name}}, Spec: pod.Spec}}}
	err := c.Create(t.Context(), set)
	if apierrors.IsAlreadyExists(err) {
		err = c.Get(t.Context(), client.ObjectKeyFromObject(set), set)
	}
	if err != nil {
		t.Fatal(err)
	}
	return set.UID
}

// run makes a pod Ready on its node, as the kubelet would.
func (c *cluster) run(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning,
		Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "app", Ready: true}}}
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

// migrationFor waits for the Migration of a lost pod that has come to a phase.
func (c *cluster) migrationFor(t *testing.T, lost types.UID, phase v1alpha1.Phase) *v1alpha1.Migration {
	t.Helper()
	var found *v1alpha1.Migration
	controlplane.Eventually(t, fmt.Sprintf("pod %s has a migration that is %s", lost, phase), func(ctx context.Context) error {
		var list v1alpha1.MigrationList
		if err := c.List(ctx, &list, client.InNamespace("shop")); err != nil {
			return err
		}
		for i := range list.Items {
			if m := &list.Items[i]; m.Spec.Pod.UID == lost {
				if slices.ContainsFunc(m.Status.Phases, func(p v1alpha1.PhaseTime) bool { return p.Phase == phase }) {
					found = m
					return nil
				}
				return fmt.Errorf("it is %q", m.Status.Phase)
			}
		}
		return errNotYet
	})
	return found
}

// claimAndBind does what the plugin does: write the claim, then bind.
func (c *cluster) claimAndBind(t *testing.T, m *v1alpha1.Migration, pod *corev1.Pod, node string) {
	t.Helper()
	c.patchStatus(t, m, map[string]any{"claim": v1alpha1.Claim{PodName: pod.Name, PodUID: pod.UID, NodeName: node, At: metav1.NowMicro()}})
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	if err := c.SubResource("binding").Create(t.Context(), pod, binding); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) patchStatus(t *testing.T, m *v1alpha1.Migration, status map[string]any) {
	t.Helper()
	data, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Status().Patch(t.Context(), m, rawMerge(data)); err != nil {
		t.Fatal(err)
	}
}

// restored does what the checkpointer on the target node does.
func (c *cluster) restored(t *testing.T, m *v1alpha1.Migration, pod *corev1.Pod, takenAt time.Time) {
	t.Helper()
	taken := metav1.NewMicroTime(takenAt)
	c.patchStatus(t, m, map[string]any{"restore": v1alpha1.RestoreStatus{PodUID: pod.UID, StartedAt: metav1.NowMicro(), Generation: 6, TakenAt: &taken,
		Containers: []v1alpha1.ContainerRestore{{Name: "app", Result: v1alpha1.ResultRestored}}}})
}

// closed waits until a Migration has a result.
func (c *cluster) closed(t *testing.T, m *v1alpha1.Migration) *v1alpha1.Migration {
	t.Helper()
	controlplane.Eventually(t, "migration "+m.Name+" is closed", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return err
		}
		if m.Open() {
			return fmt.Errorf("it is %s", m.Status.Phase)
		}
		return nil
	})
	return m
}

// event waits for an event with a reason about an object of a name.
func (c *cluster) event(t *testing.T, about, reason string) {
	t.Helper()
	controlplane.Eventually(t, fmt.Sprintf("an event %s about %s", reason, about), func(ctx context.Context) error {
		var list corev1.EventList
		if err := c.List(ctx, &list); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == about && e.Reason == reason {
				return nil
			}
		}
		return errNotYet
	})
}

func TestWatcher(t *testing.T) {
	c := startCluster(t)
	t.Run("admission", func(t *testing.T) { admission(t, c) })
	t.Run("stateful pod is restored", func(t *testing.T) { statefulPod(t, c) })
	t.Run("bare pod is made again", func(t *testing.T) { barePod(t, c) })
	t.Run("checkpointer dies, node refutes", func(t *testing.T) { refuted(t, c) })
	t.Run("leader dies during the wait", func(t *testing.T) { leaderDies(t, c) })
	t.Run("most nodes fall silent", func(t *testing.T) { storm(t, c) })
}

func admission(t *testing.T, c *cluster) {
	controlplane.Eventually(t, "the API server trusts the webhook", func(ctx context.Context) error {
		wrong := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "wrong", Namespace: "shop",
			Annotations: map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationReplicas: "none"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "cart"}}}}
		err := c.Create(ctx, wrong, client.DryRunAll)
		want := `annotation lifeboat.dev/replicas: "none" is not allowed; use a whole number from 1 to 8`
		if err == nil {
			return errNotYet
		}
		if !strings.Contains(err.Error(), want) {
			return fmt.Errorf("error %w, want %s", err, want)
		}
		return nil
	})
	pod := c.makePod(t, "admitted")
	if pod.Spec.SchedulerName != v1alpha1.SchedulerName || ptr.Deref(pod.Spec.RuntimeClassName, "") != v1alpha1.RuntimeClassName {
		t.Errorf("scheduler %q, runtime class %q", pod.Spec.SchedulerName, ptr.Deref(pod.Spec.RuntimeClassName, ""))
	}
	before := pod.DeepCopy()
	pod.Annotations[v1alpha1.AnnotationInterval] = "soon"
	if err := c.Patch(t.Context(), pod, client.MergeFrom(before)); err == nil || !strings.Contains(err.Error(), v1alpha1.AnnotationInterval) {
		t.Errorf("changing to a wrong interval: %v", err)
	}
	plain := c.makePod(t, "plain", unprotected)
	if plain.Spec.SchedulerName != corev1.DefaultSchedulerName || plain.Spec.RuntimeClassName != nil {
		t.Errorf("an unprotected pod was changed: scheduler %q, runtime class %v", plain.Spec.SchedulerName, plain.Spec.RuntimeClassName)
	}
}

func statefulPod(t *testing.T, c *cluster) {
	old := c.makePod(t, "cart-0", ownedBy("StatefulSet", "cart"), onNode("n1"))
	c.run(t, old)
	other := c.makePod(t, "other", unprotected, onNode("n1"))
	c.run(t, other)
	daemon := c.makePod(t, "daemon-x", ownedBy("DaemonSet", "daemon"), onNode("n1"))
	c.run(t, daemon)
	// The pod came back from another one's checkpoint, and has made none itself.
	before := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Name: "cart-0-3", Namespace: "shop"}, Spec: v1alpha1.MigrationSpec{
		Pod: v1alpha1.PodIdentity{Name: "cart-0", UID: heldPodUID, OwnerKind: "StatefulSet", OwnerName: "cart", OwnerUID: "uid-of-cart"}, SourceNode: "n5",
		Strategy: v1alpha1.StrategyFailover, Reason: v1alpha1.MigrationNodeLost, Epoch: 3, LostAt: metav1.NowMicro()}}
	if err := c.Create(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	c.patchStatus(t, before, map[string]any{"result": "Restored", "phase": "Ready",
		"claim": v1alpha1.Claim{PodName: "cart-0", PodUID: old.UID, NodeName: "n1", At: metav1.NowMicro()}})

	cut := c.powerOff(t, "n1")
	m := &v1alpha1.Migration{}
	controlplane.Eventually(t, "the lost pod is gone", func(ctx context.Context) error {
		err := c.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "cart-0-4"}, m)
		if err == nil && m.Status.Phase != v1alpha1.PhaseDeleted {
			err = fmt.Errorf("it is %q", m.Status.Phase)
		}
		return err
	})
	spec, err := c.state(t.Context(), "n1")
	if err != nil || spec.State != v1alpha1.FenceFenced || spec.Epoch != 2 {
		t.Errorf("fence of n1: %+v, %v; want Fenced of epoch 2", spec, err)
	}
	if m.Spec.Epoch != 4 || m.Spec.SourceNode != "n1" || m.Spec.Pod.OwnerName != "cart" {
		t.Errorf("migration %+v, want epoch 4 of node n1 and owner cart", m.Spec)
	}
	if early := cut.Sub(m.Spec.LostAt.Time); early < 0 || early > time.Second {
		t.Errorf("lostAt is %s before the power cut, want 0 to 1s", early)
	}
	if held := m.Status.Checkpoint; held == nil || held.Generation != 6 || !slices.Equal(held.Holders, []string{"n3"}) {
		t.Errorf("checkpoint %+v, want generation 6 on n3", held)
	}
	if !meta.IsStatusConditionTrue(m.Status.Conditions, string(corev1.DisruptionTarget)) {
		t.Errorf("conditions %+v, want DisruptionTarget", m.Status.Conditions)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(old), &corev1.Pod{}); !apierrors.IsNotFound(err) {
		t.Errorf("the lost pod: %v, want not found", err)
	}
	for _, left := range []*corev1.Pod{other, daemon} {
		got := &corev1.Pod{}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(left), got); err != nil || got.DeletionTimestamp != nil || got.UID != left.UID {
			t.Errorf("pod %s, which is none of Lifeboat's business, was touched: %v", left.Name, err)
		}
	}
	c.event(t, "n1", "DeclaredLost")
	c.event(t, "n1", "Fenced")
	c.event(t, "cart-0", "NodeLost")

	next := c.makePod(t, "cart-0", ownedBy("StatefulSet", "cart"))
	c.claimAndBind(t, m, next, "n3")
	taken := m.Spec.LostAt.Add(-2100 * time.Millisecond)
	c.restored(t, m, next, taken)
	c.run(t, next)
	ready := time.Now()
	m = c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultRestored || m.Status.Reason != "" || m.Status.RPO != "2.1s" {
		t.Errorf("result %s, reason %q, RPO %s, message %q", m.Status.Result, m.Status.Reason, m.Status.RPO, m.Status.Message)
	}
	if rto := time.Duration(m.Status.RTOSeconds * float64(time.Second)); rto < permission.Default.Wait() || rto > ready.Sub(m.Spec.LostAt.Time)+time.Second {
		t.Errorf("RTO %s; the pod was Ready %s after the loss", rto, ready.Sub(m.Spec.LostAt.Time))
	}
	var order []v1alpha1.Phase
	last := m.Spec.LostAt.Time
	for _, p := range m.Status.Phases {
		order = append(order, p.Phase)
		t.Logf("%-10s +%s", p.Phase, p.At.Sub(m.Spec.LostAt.Time).Round(time.Millisecond))
		if p.At.Time.Before(last) {
			t.Errorf("%s is before the phase that precedes it", p.Phase)
		}
		last = p.At.Time
	}
	want := []v1alpha1.Phase{"Detected", "Fenced", "Deleted", "Created", "Scheduled", "Restoring", "Ready"}
	if !slices.Equal(order, want) {
		t.Errorf("phases %v, want %v", order, want)
	}
	c.event(t, "cart-0", "Restored")
	body, err := get("http://" + c.leader(t).metrics + "/metrics")
	if err != nil || !strings.Contains(body, `lifeboat_recoveries_total{migration_reason="NodeLost",reason="",result="Restored",strategy="Failover"} 1`) {
		t.Errorf("the recovery was not counted (%v)", err)
	}
	c.powerOn(t, "n1")
}

func barePod(t *testing.T, c *cluster) {
	old := c.makePod(t, "solo", onNode("n2"), func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"--flag"} })
	c.run(t, old)
	c.powerOff(t, "n2")
	m := c.migrationFor(t, old.UID, v1alpha1.PhaseCreated)
	next := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(old), next); err != nil {
		t.Fatal(err)
	}
	if next.UID == old.UID || next.Spec.NodeName != "" || next.Labels["app"] != "solo" || !slices.Equal(next.Spec.Containers[0].Args, []string{"--flag"}) ||
		next.Spec.SchedulerName != v1alpha1.SchedulerName {
		t.Errorf("successor %+v", next)
	}
	if m.Status.Checkpoint != nil {
		t.Errorf("checkpoint %+v of a pod that has none", m.Status.Checkpoint)
	}
	// It is placed without a claim, as by a scheduler that knows nothing of Lifeboat.
	binding := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n4"}}
	if err := c.SubResource("binding").Create(t.Context(), next, binding); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(next), next); err != nil {
		t.Fatal(err)
	}
	c.run(t, next)
	m = c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultColdStarted || m.Status.Reason != v1alpha1.ReasonNotAsked || m.Status.RPO != "" || m.Status.RTO == "" {
		t.Errorf("result %s, reason %s, RTO %q, RPO %q", m.Status.Result, m.Status.Reason, m.Status.RTO, m.Status.RPO)
	}
	c.powerOn(t, "n2")
}

func refuted(t *testing.T, c *cluster) {
	pod := c.makePod(t, "steady", ownedBy("StatefulSet", "steady"), onNode("n4"))
	c.run(t, pod)
	before, err := c.state(t.Context(), "n4")
	if err != nil {
		t.Fatal(err)
	}
	c.nodes["n4"].checkpointer.Signal(t, syscall.SIGSTOP)
	c.event(t, "n4", "DeclaredLost")
	c.event(t, "n4", "DeclarationRefuted")
	// Past the wait nothing has happened.
	time.Sleep(permission.Default.Wait() + time.Second)
	after, err := c.state(t.Context(), "n4")
	if err != nil || after.State != v1alpha1.FenceRunning || after.Epoch != before.Epoch {
		t.Errorf("fence %+v, %v; want Running of epoch %d", after, err, before.Epoch)
	}
	got := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), got); err != nil || got.UID != pod.UID {
		t.Errorf("the pod of a node that lives was touched: %v", err)
	}
	c.nodes["n4"].checkpointer.Signal(t, syscall.SIGCONT)
}

func leaderDies(t *testing.T, c *cluster) {
	old := c.makePod(t, "held-0", ownedBy("StatefulSet", "held"), onNode("n5"))
	c.run(t, old)
	leader := c.leader(t)
	if leader == c.watchers[0] {
		// The webhook of the first one must go on, since it alone is reached.
		c.detachWebhook(t)
	}
	c.powerOff(t, "n5")
	declared := c.awaitState(t, "n5", v1alpha1.FenceLost).ChangedAt
	leader.Signal(t, syscall.SIGKILL)
	c.watchers = slices.DeleteFunc(c.watchers, func(w *replica) bool { return w == leader })
	fenced := c.awaitState(t, "n5", v1alpha1.FenceFenced).ChangedAt
	if waited := fenced.Sub(declared.Time); waited < permission.Default.Wait() {
		t.Errorf("fenced %s after the declaration, want at least %s", waited, permission.Default.Wait())
	} else {
		t.Logf("fenced %s after the declaration", waited.Round(10*time.Millisecond))
	}
	m := c.migrationFor(t, old.UID, v1alpha1.PhaseDeleted)
	next := c.makePod(t, "held-0", ownedBy("StatefulSet", "held"), admitted) // the webhook may be detached
	c.claimAndBind(t, m, next, "n3")
	if err := c.Delete(t.Context(), next, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	// It had nothing of the state: the next one takes over.
	c.until(t, m, "nobody's", func(m *v1alpha1.Migration) bool { return m.Status.Claim == nil })
	next = c.makePod(t, "held-0", ownedBy("StatefulSet", "held"), admitted)
	c.claimAndBind(t, m, next, "n2")
	// A pod whose processes may have run is another matter.
	c.patchStatus(t, m, map[string]any{"restore": v1alpha1.RestoreStatus{PodUID: next.UID, StartedAt: metav1.NowMicro(), CommittedAt: ptr.To(metav1.NowMicro())}})
	if err := c.Delete(t.Context(), next, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	m = c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultFailed || m.Status.Reason != v1alpha1.ReasonPodReplaced {
		t.Errorf("result %s, reason %s; want Failed, PodReplaced", m.Status.Result, m.Status.Reason)
	}
	c.powerOn(t, "n5")
}

func (c *cluster) detachWebhook(t *testing.T) {
	t.Helper()
	hook := &unstructured.Unstructured{}
	hook.SetAPIVersion("admissionregistration.k8s.io/v1")
	hook.SetKind("MutatingWebhookConfiguration")
	hook.SetName("lifeboat")
	if err := c.Delete(t.Context(), hook); err != nil {
		t.Fatal(err)
	}
}

func storm(t *testing.T, c *cluster) {
	// n4 may still cool down from its refutation; the others are as new.
	for _, name := range []string{"n1", "n2", "n5"} {
		c.nodes[name].checkpointer.Signal(t, syscall.SIGSTOP)
		c.nodes[name].fencer.Signal(t, syscall.SIGSTOP)
	}
	for _, name := range []string{"n1", "n2", "n5"} {
		c.event(t, name, "RecoveryHeld")
	}
	time.Sleep(permission.Default.Wait() + time.Second)
	for _, name := range []string{"n1", "n2", "n5"} {
		if spec, err := c.state(t.Context(), name); err != nil || spec.State == v1alpha1.FenceFenced {
			t.Errorf("fence of %s: %s, %v; three of five nodes are not to be fenced", name, spec.State, err)
		}
	}
	body, err := get("http://" + c.leader(t).metrics + "/metrics")
	if err != nil || strings.Contains(body, `lifeboat_refused_recoveries_total{reason="StormGuard"} 0`) {
		t.Errorf("the refusal was not counted (%v)", err)
	}
	for _, name := range []string{"n1", "n2", "n5"} {
		c.powerOn(t, name)
	}
	c.event(t, "n1", "RecoveryReleased")
}
