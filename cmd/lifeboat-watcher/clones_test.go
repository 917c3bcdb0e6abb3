package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// TestClones starts pods from the checkpoint of one that runs on. The test plays the
// scheduler and the checkpointers; the watchers, and what a node tells that it holds, are real.
func TestClones(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)
	cart := c.cloneable(t)
	t.Run("restored", func(t *testing.T) { cloneRestored(t, c, cart) })
	t.Run("not restored", func(t *testing.T) { cloneFails(t, c, cart) })
	t.Run("refused", func(t *testing.T) { clonesRefused(t, c, cart) })
	t.Run("cancelled", func(t *testing.T) { cloneCancelled(t, c, cart) })
	t.Run("its node is lost", func(t *testing.T) { cloneLost(t, c, cart) })
	if now := c.pod(t, cart.Name); now.ResourceVersion != cart.ResourceVersion {
		t.Errorf("the pod that was cloned was written to: %+v, and was %+v", now, cart)
	}
}

// TestCloneTakeover kills the leader right after each of its writes for a clone.
func TestCloneTakeover(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)
	cart := c.cloneable(t)
	after := 1
	for ; after <= mostWrites && c.cloneOver(t, cart, after); after++ {
	}
	t.Logf("a clone is %d writes of the leader", after-1)
	if after < 6 || after > mostWrites {
		t.Errorf("the leader was killed after each of %d writes", after-1)
	}
}

// cloneable makes a pod of a Deployment that runs on n1, and a node that has generations of it.
func (c *cluster) cloneable(t *testing.T) *corev1.Pod {
	t.Helper()
	pod := c.makePod(t, "cart-1", ofDeployment("cart"), onNode("n1"), admitted)
	c.run(t, pod)
	c.hold(t, pod)
	return pod
}

// hold makes node n6, which has the generations 5 and 6 of a pod.
func (c *cluster) hold(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	port, _ := strconv.Atoi(controlplane.FreePort(t))
	config := nodeConfig{Name: "n6", IP: "127.0.0.16", MemberPort: c.member, PeerPort: port}
	for i := range int64(2) {
		config.Sealed = append(config.Sealed, sealed{Namespace: "shop", PodUID: string(pod.UID), Number: 5 + i, TakenAt: time.Now().Add(-time.Minute)})
	}
	c.nodes[config.Name] = c.startNode(t, config)
	controlplane.Eventually(t, config.Name+" has its generations", func(context.Context) error {
		seen, err := os.ReadFile(c.nodes[config.Name].Folder + "/" + membersFile)
		if err == nil && string(seen) == "0" {
			err = errNotYet
		}
		return err
	})
}

func (c *cluster) clone(t *testing.T, pod *corev1.Pod, clone v1alpha1.Clone) *v1alpha1.Migration {
	t.Helper()
	var known v1alpha1.MigrationList
	if err := c.List(t.Context(), &known, client.InNamespace(pod.Namespace)); err != nil {
		t.Fatal(err)
	}
	m := v1alpha1.NewClone(pod, clone, known.Items, time.Now())
	if err := c.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (c *cluster) pod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: name}, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// cloneOf waits for the pod of a clone.
func (c *cluster) cloneOf(t *testing.T, m *v1alpha1.Migration) *corev1.Pod {
	t.Helper()
	c.reached(t, m, v1alpha1.PhaseCreated)
	return c.pod(t, m.Spec.Pod.Name)
}

// report plays the target's checkpointer.
func (c *cluster) report(t *testing.T, m *v1alpha1.Migration, pod *corev1.Pod, generation int64, container v1alpha1.ContainerRestore) {
	t.Helper()
	taken := metav1.NewMicroTime(m.BeganAt().Add(-time.Minute))
	container.Name = "app"
	c.patchStatus(t, m, map[string]any{"restore": v1alpha1.RestoreStatus{PodUID: pod.UID, StartedAt: metav1.NowMicro(), Generation: generation, TakenAt: &taken,
		Containers: []v1alpha1.ContainerRestore{container}}})
}

func cloneRestored(t *testing.T, c *cluster, cart *corev1.Pod) {
	m := c.clone(t, cart, v1alpha1.Clone{Name: "cart-warm", Generation: 5, Labels: map[string]string{"tier": "warm"}})
	pod := c.cloneOf(t, m)
	if held := m.Status.Checkpoint; held == nil || held.Generation != 5 || !slices.Equal(held.Holders, []string{"n6"}) {
		t.Errorf("it is to be restored from %+v", held)
	}
	want := map[string]string{"tier": "warm", v1alpha1.LabelClone: string(m.UID)}
	if owners := pod.OwnerReferences; len(owners) != 1 || owners[0].UID != m.UID || metav1.GetControllerOf(pod) != nil || fmt.Sprint(pod.Labels) != fmt.Sprint(want) || pod.Annotations[v1alpha1.AnnotationFailover] != "true" || pod.Spec.NodeName != "" {
		t.Errorf("the clone is %+v", pod)
	}
	c.claimAndBind(t, m, pod, "n2")
	c.report(t, m, pod, 5, v1alpha1.ContainerRestore{Result: v1alpha1.ResultRestored})
	c.run(t, pod)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Created Scheduled Restoring Ready")
	if m.Status.RPO != "1m0s" || m.Status.DowntimeSeconds != 0 || m.SourceStopped() {
		t.Errorf("memory of %s, downtime %s", m.Status.RPO, m.Status.Downtime)
	}
	if owners := c.pod(t, "cart-warm").OwnerReferences; len(owners) > 0 {
		t.Errorf("a clone that was restored goes with %+v", owners)
	}
	c.event(t, "cart-warm", "Restored")
	c.event(t, "cart-1", "Cloned")
	body, err := get("http://" + c.leader(t).metrics + "/metrics")
	if want := `lifeboat_clones_total{reason="",result="Restored"} 1`; err != nil || !strings.Contains(body, want) || !strings.Contains(body, `lifeboat_clone_phase_seconds_count{phase="Ready"} 1`) {
		t.Errorf("the clone was not counted (%v)", err)
	}
	if strings.Contains(body, `lifeboat_moves_total{`) {
		t.Error("the clone was counted as a move")
	}
}

// cloneFails: what cannot be restored is deleted before anybody is told of it.
func cloneFails(t *testing.T, c *cluster, cart *corev1.Pod) {
	m := c.clone(t, cart, v1alpha1.Clone{})
	pod := c.cloneOf(t, m)
	c.claimAndBind(t, m, pod, "n2")
	c.report(t, m, pod, 6, v1alpha1.ContainerRestore{Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonCheckpointDamaged, Message: "made up"})
	c.kill(t, pod)
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultFailed || m.Status.Reason != v1alpha1.ReasonCheckpointDamaged || !strings.Contains(m.Status.Message, "made up") {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.event(t, pod.Name, "CloneGivenUp")

	// One that is Ready and was not restored is none, whoever started it.
	m = c.clone(t, cart, v1alpha1.Clone{})
	pod = c.cloneOf(t, m)
	c.claimAndBind(t, m, pod, "n2")
	c.report(t, m, pod, 6, v1alpha1.ContainerRestore{Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonRestoreFailed})
	c.run(t, pod)
	c.kill(t, pod)
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultFailed {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
}

func clonesRefused(t *testing.T, c *cluster, cart *corev1.Pod) {
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "front"}, Spec: appsv1.ReplicaSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "front"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "front"}}, Spec: cart.Spec}}}
	if err := c.Create(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	of := func(name string, options ...podOption) *corev1.Pod {
		pod := c.makePod(t, name, append(options, onNode("n1"))...)
		c.run(t, pod)
		return pod
	}
	claim := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}}}
	}
	for _, test := range []struct {
		pod    *corev1.Pod
		clone  v1alpha1.Clone
		reason string
		says   string
	}{
		{cart, v1alpha1.Clone{Generation: 9}, v1alpha1.ReasonNoCheckpoint, "generation 9 of pod cart-1; there are 5, 6"},
		{cart, v1alpha1.Clone{Name: "cart-1"}, v1alpha1.ReasonNotAllowed, "a pod cart-1 already"},
		{cart, v1alpha1.Clone{Labels: map[string]string{"app": "front"}}, v1alpha1.ReasonNotAllowed, "ReplicaSet front"},
		{cart, v1alpha1.Clone{TargetNode: "n9"}, v1alpha1.ReasonNotAllowed, "node n9 does not exist"},
		{cart, v1alpha1.Clone{Labels: map[string]string{"not allowed": "x"}}, v1alpha1.ReasonNotAllowed, "refuses the pod"},
		{of("member-0", ownedBy("StatefulSet", "member"), admitted), v1alpha1.Clone{}, v1alpha1.ReasonNotAllowed, "StatefulSet member"},
		{of("task-1", ownedBy("Job", "task"), admitted), v1alpha1.Clone{}, v1alpha1.ReasonNotAllowed, "Job task"},
		{of("disk-1", claim, admitted), v1alpha1.Clone{}, v1alpha1.ReasonNotAllowed, "PersistentVolumeClaim disk"},
		{of("plain-1", unprotected), v1alpha1.Clone{}, v1alpha1.ReasonNotAllowed, "not protected"},
		{of("fresh-1", admitted), v1alpha1.Clone{}, v1alpha1.ReasonNoCheckpoint, "no node that is alive holds"},
	} {
		m := c.clone(t, test.pod, test.clone)
		c.closed(t, m)
		failed := m.Status.Result == v1alpha1.ResultWithdrawn || m.Status.Result == v1alpha1.ResultFailed
		if !failed || m.Status.Reason != test.reason || !strings.Contains(m.Status.Message, test.says) {
			t.Errorf("%+v of pod %s: %s, %s: %s; want %s: %s", test.clone, test.pod.Name, m.Status.Result, m.Status.Reason, m.Status.Message, test.reason, test.says)
		}
		err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: m.Spec.Pod.Name}, &corev1.Pod{})
		if test.clone.Name == "" && !apierrors.IsNotFound(err) {
			t.Errorf("pod %s: %v", m.Spec.Pod.Name, err)
		}
	}
	forged := v1alpha1.NewClone(cart, v1alpha1.Clone{}, nil, time.Now())
	forged.Spec.Strategy = v1alpha1.StrategyLive
	if err := c.Create(t.Context(), forged); err == nil || !strings.Contains(err.Error(), "spec.clone") {
		t.Errorf("a move with what is cloned: %v", err)
	}
}

func cloneCancelled(t *testing.T, c *cluster, cart *corev1.Pod) {
	m := c.clone(t, cart, v1alpha1.Clone{})
	pod := c.cloneOf(t, m)
	before := m.DeepCopy()
	metav1.SetMetaDataAnnotation(&m.ObjectMeta, v1alpha1.AnnotationCancel, "a mistake")
	if err := c.Patch(t.Context(), m, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	c.kill(t, pod)
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultWithdrawn || m.Status.Reason != v1alpha1.ReasonCanceled {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
}

// cloneLost: the loss of its node ends a clone that was not restored yet. It has no state,
// and is not recovered.
func cloneLost(t *testing.T, c *cluster, cart *corev1.Pod) {
	m := c.clone(t, cart, v1alpha1.Clone{})
	pod := c.cloneOf(t, m)
	c.claimAndBind(t, m, pod, "n4")
	c.reached(t, m, v1alpha1.PhaseScheduled)
	c.powerOff(t, "n4")
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultFailed || m.Status.Reason != v1alpha1.ReasonTargetFailed && m.Status.Reason != v1alpha1.ReasonPodReplaced {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.gone(t, pod)
	var all v1alpha1.MigrationList
	if err := c.List(t.Context(), &all, client.InNamespace("shop")); err != nil {
		t.Fatal(err)
	}
	for i := range all.Items {
		if other := &all.Items[i]; other.LostPod() == pod.UID {
			t.Errorf("migration %s recovers the clone", other.Name)
		}
	}
	c.powerOn(t, "n4")
}

// cloneOver starts a clone, and kills the leader right after its nth write. It returns
// false when there was no such write.
func (c *cluster) cloneOver(t *testing.T, cart *corev1.Pod, after int) (died bool) {
	t.Helper()
	leader := c.leader(t)
	defer c.endLeaseOf(t, leader)()
	if err := os.WriteFile(leader.orders, []byte(strconv.Itoa(after)), 0o600); err != nil {
		t.Fatal(err)
	}
	m := c.clone(t, cart, v1alpha1.Clone{Name: fmt.Sprintf("warm-%d", after)})
	pod := c.cloneOf(t, m)
	c.claimAndBind(t, m, pod, "n2")
	c.report(t, m, pod, 6, v1alpha1.ContainerRestore{Result: v1alpha1.ResultRestored})
	c.run(t, pod)
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultRestored || c.pod(t, pod.Name).UID != pod.UID {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.toldOnce(t, m, v1alpha1.ResultRestored)
	return c.replaceDead(t, leader, after)
}
