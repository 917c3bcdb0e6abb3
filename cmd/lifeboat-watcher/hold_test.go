package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

func TestHolds(t *testing.T) {
	c := startCluster(t)
	early := c.makePod(t, "early-0", ownedBy("StatefulSet", "early"), onNode("n5"))
	c.run(t, early)
	checkpoint := &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: early.Name},
		Spec: v1alpha1.CheckpointSpec{PodUID: early.UID, NodeName: "n5"}}
	if err := c.Create(t.Context(), checkpoint); err != nil {
		t.Fatal(err)
	}
	t.Run("paused, and the node lives after all", func(t *testing.T) { pausedAndAlive(t, c) })
	t.Run("paused, and the node is lost", func(t *testing.T) { pausedAndLost(t, c) })
	t.Run("volumes of a fenced node", func(t *testing.T) { volumes(t, c) })
	t.Run("a node that may go, and goes", func(t *testing.T) { drainedAndLost(t, c, early, checkpoint) })
	t.Run("pods that were not admitted", func(t *testing.T) { unadmitted(t, c) })
}

// pause writes what kubectl lifeboat pause and resume write.
func (c *cluster) pause(t *testing.T, value string) {
	t.Helper()
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.ConfigName},
		Data: map[string]string{v1alpha1.ConfigRecoveries: value}}
	err := c.Create(t.Context(), config)
	if err != nil {
		err = c.Update(t.Context(), config)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := "lifeboat_recoveries_paused 0"
	if strings.HasPrefix(value, "paused") {
		want = "lifeboat_recoveries_paused 1"
	}
	for _, w := range c.watchers {
		c.awaitMetric(t, w, want)
	}
}

func (c *cluster) awaitMetric(t *testing.T, w *replica, line string) {
	t.Helper()
	controlplane.Eventually(t, "a watcher says "+line, func(context.Context) error {
		body, err := get("http://" + w.metrics + "/metrics")
		if err == nil && !strings.Contains(body, "\n"+line+"\n") {
			err = errNotYet
		}
		return err
	})
}

// held waits for the Migration of a pod that is held for a reason.
func (c *cluster) held(t *testing.T, pod types.UID, reason v1alpha1.HeldReason) *v1alpha1.Migration {
	t.Helper()
	m := c.migrationFor(t, pod, v1alpha1.PhaseDetected)
	controlplane.Eventually(t, fmt.Sprintf("migration %s is held: %s", m.Name, reason), func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return err
		}
		if m.Status.Held == nil || m.Status.Held.Reason != reason {
			return fmt.Errorf("held %+v", m.Status.Held)
		}
		return nil
	})
	if m.Status.Phase != v1alpha1.PhaseDetected || !m.Open() {
		t.Errorf("phase %s, result %q; want Detected and none", m.Status.Phase, m.Status.Result)
	}
	return m
}

func pausedAndAlive(t *testing.T, c *cluster) {
	pod := c.makePod(t, "calm-0", ownedBy("StatefulSet", "calm"), onNode("n1"))
	c.run(t, pod)
	c.pause(t, "paused: switches are exchanged")
	c.event(t, v1alpha1.ConfigName, "RecoveriesPaused")
	c.powerOff(t, "n1")
	m := c.held(t, pod.UID, v1alpha1.HeldPaused)
	if !strings.Contains(m.Status.Held.Message, "switches are exchanged") {
		t.Errorf("held because of %q", m.Status.Held.Message)
	}
	c.event(t, m.Name, "RecoveryHeld")
	c.awaitMetric(t, c.leader(t), `lifeboat_recoveries_held{reason="Paused"} 1`)
	c.powerOn(t, "n1")
	m = c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultWithdrawn || m.Status.Held != nil || m.Status.RTO != "" {
		t.Errorf("result %s, held %+v, RTO %q; want Withdrawn and nothing else", m.Status.Result, m.Status.Held, m.Status.RTO)
	}
	c.event(t, m.Name, string(v1alpha1.ResultWithdrawn))
	got := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), got); err != nil || got.UID != pod.UID || got.DeletionTimestamp != nil {
		t.Errorf("the pod of a node that lives was touched: %v", err)
	}
	if spec, err := c.state(t.Context(), "n1"); err != nil || spec.State != v1alpha1.FenceRunning || spec.Epoch != 1 {
		t.Errorf("fence %+v, %v; want Running of epoch 1", spec, err)
	}
	c.pause(t, "pausd")
	c.event(t, v1alpha1.ConfigName, "NotPaused")
	c.event(t, v1alpha1.ConfigName, "RecoveriesResumed")
}

func pausedAndLost(t *testing.T, c *cluster) {
	pod := c.makePod(t, "calm-1", ownedBy("StatefulSet", "calm"), onNode("n2"))
	c.run(t, pod)
	bare := c.makePod(t, "unwanted", onNode("n2"))
	c.run(t, bare)
	c.pause(t, "paused")
	cut := c.powerOff(t, "n2")
	before, unwanted := c.held(t, pod.UID, v1alpha1.HeldPaused), c.held(t, bare.UID, v1alpha1.HeldPaused)
	if err := c.Delete(t.Context(), bare, client.GracePeriodSeconds(0)); err != nil { // nobody wants it back
		t.Fatal(err)
	}
	c.pause(t, "")
	m := c.migrationFor(t, pod.UID, v1alpha1.PhaseDeleted)
	if m.UID != before.UID || m.Status.Held != nil {
		t.Errorf("the recovery is migration %s, held %+v; want %s to go on", m.Name, m.Status.Held, before.Name)
	}
	if early := cut.Sub(m.Spec.LostAt.Time); early < 0 || early > time.Second {
		t.Errorf("lostAt is %s before the power cut, want 0 to 1s: RTO counts from the loss, not from the end of the pause", early)
	}
	spec := c.awaitState(t, "n2", v1alpha1.FenceFenced)
	if m.Spec.FenceEpoch != spec.Epoch {
		t.Errorf("the migration waits for epoch %d, and the fence has %d", m.Spec.FenceEpoch, spec.Epoch)
	}
	var list v1alpha1.MigrationList
	if err := c.List(t.Context(), &list, client.InNamespace("shop")); err != nil || len(list.Items) != 3 {
		t.Errorf("%d migrations, %v; want one for each of the three losses", len(list.Items), err)
	}
	if unwanted = c.closed(t, unwanted); unwanted.Status.Result != v1alpha1.ResultWithdrawn {
		t.Errorf("the recovery of a pod that was deleted while it was held: %s, want Withdrawn", unwanted.Status.Result)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(bare), bare); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that somebody deleted: %v, want not found", err)
	}
	c.powerOn(t, "n2")
}

// drainedAndLost: a sign that the node may go has its pods checkpointed at once, and is
// the reason of their Migrations when it goes. The pod and its Checkpoint have been
// there for long, so that the watcher knows them.
func drainedAndLost(t *testing.T, c *cluster, pod *corev1.Pod, checkpoint *v1alpha1.Checkpoint) {
	cordoned := time.Now().Add(-time.Second)
	if err := c.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n5"}}, rawMerge([]byte(`{"spec":{"unschedulable":true}}`))); err != nil {
		t.Fatal(err)
	}
	controlplane.Eventually(t, "a checkpoint is asked for", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(checkpoint), checkpoint); err != nil {
			return err
		}
		at, err := time.Parse(time.RFC3339Nano, checkpoint.Annotations[v1alpha1.AnnotationCheckpointRequested])
		if err == nil && at.Before(cordoned) {
			err = fmt.Errorf("asked at %s, the node was cordoned at %s", at, cordoned)
		}
		return err
	})
	c.event(t, "n5", "CheckpointsRequested")
	c.powerOff(t, "n5")
	m := c.migrationFor(t, pod.UID, v1alpha1.PhaseDeleted)
	if m.Spec.Reason != v1alpha1.MigrationNodeDrained {
		t.Errorf("the migration's reason is %s, want NodeDrained", m.Spec.Reason)
	}
	c.powerOn(t, "n5")
}

// setReady sets a node's condition as its kubelet and the node controller do.
func (c *cluster) setReady(t *testing.T, name string, status corev1.ConditionStatus) {
	t.Helper()
	node := &corev1.Node{}
	controlplane.Eventually(t, name+" is Ready="+string(status), func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
			return err
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
		return c.Status().Update(ctx, node)
	})
}

// ownTaint is the value of Lifeboat's out-of-service taint on a node, "" without one.
func (c *cluster) ownTaint(ctx context.Context, name string) (string, error) {
	node := &corev1.Node{}
	if err := c.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		return "", err
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeOutOfService {
			return taint.Value, nil
		}
	}
	return "", nil
}

func (c *cluster) awaitTaint(t *testing.T, name, want string) {
	t.Helper()
	controlplane.Eventually(t, fmt.Sprintf("the out-of-service taint of %s is %q", name, want), func(ctx context.Context) error {
		got, err := c.ownTaint(ctx, name)
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

func withClaim(name string) podOption {
	return func(p *corev1.Pod) {
		p.Annotations[v1alpha1.AnnotationVolumes] = string(v1alpha1.VolumesIgnore)
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}

func volumes(t *testing.T, c *cluster) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data-db-0"}, Spec: corev1.PersistentVolumeClaimSpec{
		VolumeName: "pv-1", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(""),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va-1"}, Spec: storagev1.VolumeAttachmentSpec{
		Attacher: "csi.example.org", NodeName: "n4", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv-1")}}}
	for _, object := range []client.Object{claim, attachment} {
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	old := c.makePod(t, "db-0", ownedBy("StatefulSet", "db"), onNode("n4"), withClaim("data-db-0"))
	c.run(t, old)
	neighbour := c.makePod(t, "neighbour-0", unprotected, ownedBy("StatefulSet", "neighbour"), onNode("n4"))
	c.run(t, neighbour)
	harmless := c.makePod(t, "harmless-x", unprotected, ownedBy("ReplicaSet", "harmless"), onNode("n4"))
	c.run(t, harmless)

	c.powerOff(t, "n4")
	c.setReady(t, "n4", corev1.ConditionUnknown)
	m := c.migrationFor(t, old.UID, v1alpha1.PhaseDeleted)
	next := c.makePod(t, "db-0", ownedBy("StatefulSet", "db"), withClaim("data-db-0"))

	// The neighbour could run twice.
	c.event(t, "n4", "VolumesHeld")
	c.awaitMetric(t, c.leader(t), "lifeboat_volumes_held 1")
	if taint, err := c.ownTaint(t.Context(), "n4"); err != nil || taint != "" {
		t.Errorf("taint %q, %v; want none as long as a pod that was not stopped could be harmed", taint, err)
	}
	if err := c.Delete(t.Context(), neighbour, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	c.awaitTaint(t, "n4", "lifeboat")
	c.awaitMetric(t, c.leader(t), "lifeboat_volumes_held 0")

	// The node is back, but a volume is still attached there.
	c.powerOn(t, "n4")
	c.setReady(t, "n4", corev1.ConditionTrue)
	if taint, err := c.ownTaint(t.Context(), "n4"); err != nil || taint != "lifeboat" {
		t.Errorf("taint %q, %v; want lifeboat's as long as a volume is attached", taint, err)
	}
	if err := c.Delete(t.Context(), attachment); err != nil {
		t.Fatal(err)
	}
	c.awaitTaint(t, "n4", "")
	c.event(t, "n4", "InService")
	c.claimAndBind(t, m, next, "n3")

	// Somebody else's taint is none of Lifeboat's business. The node's record is
	// written once more, so that it is looked at.
	node := &corev1.Node{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "n4"}, node); err != nil {
		t.Fatal(err)
	}
	node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}}
	if err := c.Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	pod := c.makePod(t, "after-0", ownedBy("StatefulSet", "after"), onNode("n4"))
	c.run(t, pod)
	c.powerOff(t, "n4")
	c.migrationFor(t, pod.UID, v1alpha1.PhaseDeleted)
	c.powerOn(t, "n4")
	if taint, err := c.ownTaint(t.Context(), "n4"); err != nil || taint != "nodeshutdown" {
		t.Errorf("taint %q, %v; want the operator's", taint, err)
	}
}
