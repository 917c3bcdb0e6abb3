package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestMoves moves pods on purpose. The test plays their owners, the scheduler and the
// checkpointers; the watchers are real.
func TestMoves(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)
	t.Run("live, of a Deployment", func(t *testing.T) { liveOfDeployment(t, c) })
	t.Run("live, of a StatefulSet", func(t *testing.T) { liveOfStatefulSet(t, c) })
	t.Run("cold, of a bare pod", func(t *testing.T) { coldOfBarePod(t, c) })
	t.Run("replaced, of a Deployment", func(t *testing.T) { replaceOfDeployment(t, c) })
	t.Run("replaced, a bare pod", func(t *testing.T) { replaceBarePod(t, c) })
	t.Run("its state is imported", func(t *testing.T) { application(t, c) })
	t.Run("its state is staged", func(t *testing.T) { stagedState(t, c) })
	t.Run("somebody deletes the pod", func(t *testing.T) { deletedMeanwhile(t, c) })
	t.Run("given up in each step", func(t *testing.T) { givenUp(t, c) })
	t.Run("held", func(t *testing.T) { heldMoves(t, c) })
	t.Run("its source is lost", func(t *testing.T) { sourceLost(t, c) })
	t.Run("its target is lost while it is stopped", func(t *testing.T) { targetLost(t, c) })
	t.Run("its target is lost when it is given up", func(t *testing.T) { targetLostInVain(t, c) })
	t.Run("the pod that takes over ends", func(t *testing.T) { successorsEnd(t, c) })
	t.Run("its source is lost after the stop", func(t *testing.T) { sourceLostLater(t, c) })
}

func liveOfDeployment(t *testing.T, c *cluster) {
	c.serve(t, "web")
	old := c.makePod(t, "web-1", ofDeployment("web"), onNode("n1"), admitted, func(p *corev1.Pod) { p.Spec.SchedulerName = v1alpha1.SchedulerName })
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive, TargetNode: "n3"})
	next := c.succeed(t, m, old, "web-2", "n3")
	c.park(t, m, next)
	c.reached(t, m, v1alpha1.PhaseParked)
	if m.Reached(v1alpha1.PhaseStopping) {
		t.Error("it is stopped before its source has prepared")
	}
	c.prepare(t, m)
	c.reached(t, m, v1alpha1.PhaseStopping)
	now := c.labels(t, old, "out of its Services", func(labels map[string]string) bool { return labels["app"] == "" })
	if now.DeletionTimestamp != nil {
		t.Error("it is deleted before it is stopped")
	}
	paused := c.stop(t, m)
	c.reached(t, m, v1alpha1.PhaseDeleted)
	c.gone(t, old)
	c.restored(t, m, next, paused)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Created Scheduled Parked Prepared Stopping Stopped Deleted Restoring Ready")
	if m.Status.RPO != "0s" || m.Status.DowntimeSeconds <= 0 || m.Status.DowntimeSeconds > m.Status.RTOSeconds {
		t.Errorf("RPO %s, downtime %s of %s", m.Status.RPO, m.Status.Downtime, m.Status.RTO)
	}
	if held := m.Status.Checkpoint; held == nil || held.Generation != 6 {
		t.Errorf("checkpoint %+v", held)
	}
	c.event(t, "web-1", "Moved")
	c.event(t, "web-2", "Restored")
	body, err := get("http://" + c.leader(t).metrics + "/metrics")
	if want := `lifeboat_moves_total{migration_reason="Requested",reason="",result="Restored",strategy="Live"} 1`; err != nil || !strings.Contains(body, want) {
		t.Errorf("the move was not counted (%v)", err)
	}
}

func liveOfStatefulSet(t *testing.T, c *cluster) {
	old := c.makePod(t, "db-0", ownedBy("StatefulSet", "db"), onNode("n1"), admitted)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	c.reached(t, m, v1alpha1.PhaseAccepted)
	c.prepare(t, m)
	c.reached(t, m, v1alpha1.PhaseStopping)
	if now := c.labels(t, old, "as it was", func(labels map[string]string) bool { return labels["app"] == "db-0" }); now.DeletionTimestamp != nil {
		t.Error("it is deleted before it is stopped")
	}
	paused := c.stop(t, m)
	c.gone(t, old)
	next := c.makePod(t, "db-0", ownedBy("StatefulSet", "db"), admitted)
	c.claimAndBind(t, m, next, "n2")
	c.restored(t, m, next, paused)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Prepared Stopping Stopped Deleted Created Scheduled Restoring Ready")
}

func coldOfBarePod(t *testing.T, c *cluster) {
	old := c.makePod(t, "job", onNode("n1"), admitted, func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"--once"} })
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyCold})
	c.reached(t, m, v1alpha1.PhaseStopping)
	if m.Annotations["lifeboat.dev/pod-manifest"] == "" {
		t.Error("it is stopped, and nothing has what it is made again from")
	}
	paused := c.stop(t, m)
	c.reached(t, m, v1alpha1.PhaseCreated)
	next := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(old), next); err != nil || next.UID == old.UID || !slices.Equal(next.Spec.Containers[0].Args, []string{"--once"}) {
		t.Fatalf("the successor is %s with %v: %v", next.UID, next.Spec.Containers, err)
	}
	c.claimAndBind(t, m, next, "n2")
	c.restored(t, m, next, paused)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Stopping Stopped Deleted Created Scheduled Restoring Ready")
	c.until(t, m, "without the pod's manifest", func(m *v1alpha1.Migration) bool { return m.Annotations["lifeboat.dev/pod-manifest"] == "" })
}

func replaceOfDeployment(t *testing.T, c *cluster) {
	c.serve(t, "api")
	old := c.makePod(t, "api-1", ofDeployment("api"), onNode("n1"), unprotected)
	c.run(t, old)
	sibling := c.makePod(t, "api-0", ofDeployment("api"), onNode("n2"), unprotected)
	c.run(t, sibling)
	m := c.move(t, old, v1alpha1.Move{})
	if m.Spec.Strategy != v1alpha1.StrategyReplace {
		t.Fatalf("strategy %s", m.Spec.Strategy)
	}
	next := c.succeed(t, m, old, "api-2", "n3")
	c.reached(t, m, v1alpha1.PhaseScheduled)
	if claim := m.Status.Claim; claim == nil || claim.PodUID != next.UID || claim.NodeName != "n3" {
		t.Errorf("the claim is %+v", claim)
	}
	if now := c.labels(t, old, "there", func(map[string]string) bool { return true }); now.Labels["app"] == "" || now.DeletionTimestamp != nil {
		t.Error("it goes before another one is Ready")
	}
	c.run(t, next)
	c.end(t, old)
	c.moved(t, m, v1alpha1.ResultReplaced, "Accepted Created Scheduled Ready Stopping Deleted")
	if m.Status.DowntimeSeconds != 0 {
		t.Errorf("downtime %s, although there was another one", m.Status.Downtime)
	}
}

func replaceBarePod(t *testing.T, c *cluster) {
	old := c.makePod(t, "plain-solo", onNode("n1"), unprotected)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{})
	c.end(t, old)
	c.reached(t, m, v1alpha1.PhaseCreated)
	next := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(old), next); err != nil || next.UID == old.UID {
		t.Fatalf("the successor is %s: %v", next.UID, err)
	}
	c.bind(t, next, "n2")
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultReplaced, "Accepted Stopping Deleted Created Scheduled Ready")
	if m.Status.DowntimeSeconds <= 0 {
		t.Errorf("downtime %s, although nobody was there", m.Status.Downtime)
	}
}

func handsOver(p *corev1.Pod) {
	maps.Copy(p.Annotations, map[string]string{v1alpha1.AnnotationStateExport: "http 80/export", v1alpha1.AnnotationStateImport: "http 80/import"})
}

func application(t *testing.T, c *cluster) {
	old := c.makePod(t, "cache-1", ofDeployment("cache"), onNode("n1"), admitted, handsOver)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
	next := c.succeed(t, m, old, "cache-2", "n3")
	c.run(t, next)
	c.reached(t, m, v1alpha1.PhaseReady)
	hook := func(name string) v1alpha1.HookResult {
		return v1alpha1.HookResult{Name: name, Container: "app", Succeeded: true}
	}
	c.patchStatus(t, m, map[string]any{"restore": v1alpha1.RestoreStatus{PodUID: next.UID, StartedAt: metav1.NowMicro(),
		Hooks: []v1alpha1.HookResult{hook("state-export"), hook("state-import")}}})
	c.end(t, old)
	c.moved(t, m, v1alpha1.ResultImported, "Accepted Created Scheduled Ready Stopping Deleted")
}

// givenUp gives a live move up in each of the steps before the pod is stopped, and lets
// its source fail in the one after them: the pod is as it was, and alone.
func givenUp(t *testing.T, c *cluster) {
	cancel := func(m *v1alpha1.Migration) {
		before := m.DeepCopy()
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, v1alpha1.AnnotationCancel, "a mistake")
		if err := c.Patch(t.Context(), m, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	fail := func(m *v1alpha1.Migration) { c.source(t, m, map[string]any{"error": "no room on the disk"}) }
	for i, step := range []struct {
		name   string
		until  int // how many of the steps are done
		how    func(*v1alpha1.Migration)
		reason string
	}{
		{"as soon as it is accepted", 0, cancel, v1alpha1.ReasonCanceled},
		{"released", 1, cancel, v1alpha1.ReasonCanceled},
		{"prepared", 2, fail, v1alpha1.ReasonSourceFailed},
		{"parked", 3, cancel, v1alpha1.ReasonCanceled},
		{"told to stop", 4, fail, v1alpha1.ReasonSourceFailed},
	} {
		t.Run(step.name, func(t *testing.T) {
			app := fmt.Sprintf("given-up-%d", i)
			c.serve(t, app)
			old := c.makePod(t, app+"-1", ofDeployment(app), onNode("n4"), admitted)
			c.run(t, old)
			owners, wore := old.OwnerReferences, maps.Clone(old.Labels)
			m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
			c.reached(t, m, v1alpha1.PhaseAccepted)
			var next *corev1.Pod
			if step.until >= 1 {
				next = c.succeed(t, m, old, app+"-2", "n3")
			}
			if step.until >= 2 && step.until != 3 {
				c.prepare(t, m)
			}
			if step.until >= 3 {
				c.park(t, m, next)
				c.reached(t, m, v1alpha1.PhaseParked)
			}
			if step.until >= 4 {
				c.reached(t, m, v1alpha1.PhaseStopping)
				c.labels(t, old, "out of its Services", func(labels map[string]string) bool { return labels["app"] == "" })
			}
			step.how(m)
			c.closed(t, m)
			if m.Status.Result != v1alpha1.ResultWithdrawn || m.Status.Reason != step.reason {
				t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
			}
			now := c.labels(t, old, "as it was", func(labels map[string]string) bool { return maps.Equal(labels, wore) })
			if now.UID != old.UID || now.DeletionTimestamp != nil {
				t.Errorf("the pod is %s, deleted at %v", now.UID, now.DeletionTimestamp)
			}
			if next != nil {
				c.kill(t, next) // its owner, which has one too many, would, too
			}
			c.own(t, now, owners)
			c.event(t, m.Name, string(v1alpha1.ResultWithdrawn))
		})
	}
}

// deletedMeanwhile: a pod that somebody deletes is not moved, and the one that waits for
// its state, and would wait forever, makes way for another one.
func deletedMeanwhile(t *testing.T, c *cluster) {
	old := c.makePod(t, "unwanted-1", ofDeployment("unwanted"), onNode("n4"), admitted)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	next := c.succeed(t, m, old, "unwanted-2", "n3")
	c.park(t, m, next)
	c.reached(t, m, v1alpha1.PhaseParked)
	if err := c.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultWithdrawn || m.Status.Reason != v1alpha1.ReasonNotAllowed {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.kill(t, next)
	if err := c.Delete(t.Context(), old, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

// heldMoves: pods of one owner go one after the other, a budget is respected, no more
// than two leave a node at a time, and what cannot be moved is said at once.
func heldMoves(t *testing.T, c *cluster) {
	make := func(name string, options ...podOption) *corev1.Pod {
		pod := c.makePod(t, name, append(options, onNode("n2"), admitted)...)
		c.run(t, pod)
		return pod
	}
	heldBy := func(m *v1alpha1.Migration, reason v1alpha1.HeldReason) {
		t.Helper()
		c.until(t, m, "held for "+string(reason), func(m *v1alpha1.Migration) bool { return m.Status.Held != nil && m.Status.Held.Reason == reason })
	}
	first, second := make("many-0", ownedBy("StatefulSet", "many")), make("many-1", ownedBy("StatefulSet", "many"))
	third, fourth, budgeted := make("third"), make("fourth"), make("budgeted")
	pdb := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "strict"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "budgeted"}}}}
	if err := c.Create(t.Context(), pdb); err != nil {
		t.Fatal(err)
	}
	live := v1alpha1.Move{Strategy: v1alpha1.StrategyLive}
	one := c.move(t, first, live)
	c.reached(t, one, v1alpha1.PhaseAccepted)
	two := c.move(t, second, live)
	heldBy(two, v1alpha1.HeldSameOwner)
	tight := c.move(t, budgeted, live)
	heldBy(tight, v1alpha1.HeldBudget)
	three := c.move(t, third, live)
	c.reached(t, three, v1alpha1.PhaseAccepted)
	four := c.move(t, fourth, live)
	heldBy(four, v1alpha1.HeldMoveLimit)
	c.event(t, four.Name, "MoveHeld")
	c.awaitMetric(t, c.leader(t), `lifeboat_moves_held{reason="MoveLimit"} 1`)
	again := c.move(t, first, v1alpha1.Move{Strategy: v1alpha1.StrategyCold})
	c.closed(t, again)
	if again.Status.Result != v1alpha1.ResultWithdrawn || again.Status.Reason != v1alpha1.ReasonNotAllowed || !strings.Contains(again.Status.Message, one.Name) {
		t.Errorf("a second move of the pod: %s, %s: %s", again.Status.Result, again.Status.Reason, again.Status.Message)
	}

	for _, m := range []*v1alpha1.Migration{one, three} {
		c.source(t, m, map[string]any{"error": "made up"})
		c.closed(t, m)
	}
	c.reached(t, two, v1alpha1.PhaseAccepted)
	c.reached(t, four, v1alpha1.PhaseAccepted)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pdb), pdb); err != nil {
		t.Fatal(err)
	}
	c.source(t, two, map[string]any{"error": "made up"})
	c.source(t, four, map[string]any{"error": "made up"})
	pdb.Status.DisruptionsAllowed, pdb.Status.ObservedGeneration = 1, pdb.Generation
	if err := c.Status().Update(t.Context(), pdb); err != nil {
		t.Fatal(err)
	}
	c.reached(t, tight, v1alpha1.PhaseAccepted)
	if tight.Status.Held != nil {
		t.Errorf("it is held, and goes on: %+v", tight.Status.Held)
	}
	c.source(t, tight, map[string]any{"error": "made up"})
	c.closed(t, tight)
}

// sourceLost loses the source of a move whose successor waits already.
func sourceLost(t *testing.T, c *cluster) {
	old := c.makePod(t, "lost-1", ofDeployment("lost"), onNode("n5"), admitted)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	waiting := c.succeed(t, m, old, "lost-2", "n3")
	c.park(t, m, waiting)
	c.reached(t, m, v1alpha1.PhaseParked)
	c.powerOff(t, "n5")
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultFailed || m.Status.Reason != v1alpha1.ReasonSourceLost {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.kill(t, waiting) // it has no state, and takes the place of one that can have it
	c.gone(t, old)
	failover := c.failoverOf(t, old.UID)
	if failover.Spec.Pod.OwnerName != "lost" || failover.Annotations["lifeboat.dev/pod-manifest"] != "" {
		t.Errorf("the failover is of %+v: a pod that was released has an owner", failover.Spec.Pod)
	}
	c.reached(t, failover, v1alpha1.PhaseDeleted)
	next := c.makePod(t, "lost-3", ofDeployment("lost"), admitted)
	c.claimAndBind(t, failover, next, "n3")
	c.restored(t, failover, next, failover.Spec.LostAt.Add(-time.Second))
	c.run(t, next)
	if c.closed(t, failover); failover.Status.Result != v1alpha1.ResultRestored {
		t.Errorf("the failover: %s, %s: %s", failover.Status.Result, failover.Status.Reason, failover.Status.Message)
	}
	c.powerOn(t, "n5")
}

// targetLost loses the target of a move when its source has been told to stop the pod, and
// may have done so: the owner's next pod takes over.
func targetLost(t *testing.T, c *cluster) {
	c.serve(t, "astray")
	old := c.makePod(t, "astray-1", ofDeployment("astray"), onNode("n4"), admitted)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	waiting := c.succeed(t, m, old, "astray-2", "n5")
	c.park(t, m, waiting)
	c.reached(t, m, v1alpha1.PhaseParked)
	c.prepare(t, m)
	c.reached(t, m, v1alpha1.PhaseStopping)
	c.powerOff(t, "n5")
	c.gone(t, waiting)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil || m.Status.Claim != nil {
		t.Fatalf("pod %s is gone, and nobody else can take over: claim %+v, %v", waiting.Name, m.Status.Claim, err)
	}
	next := c.makePod(t, "astray-3", ofDeployment("astray"), admitted)
	c.claimAndBind(t, m, next, "n3")
	paused := c.stop(t, m)
	c.reached(t, m, v1alpha1.PhaseDeleted)
	c.restored(t, m, next, paused)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Created Scheduled Parked Prepared Stopping Stopped Deleted Restoring Ready")
	c.event(t, m.Name, "TargetLost")
	c.powerOn(t, "n5")
}

// targetLostInVain loses the target of a move that is given up before the target is
// fenced. The pod that waited there had no state: nobody recovers it.
func targetLostInVain(t *testing.T, c *cluster) {
	old := c.makePod(t, "in-vain-1", ofDeployment("in-vain"), onNode("n4"), admitted)
	c.run(t, old)
	owners := old.OwnerReferences
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	waiting := c.succeed(t, m, old, "in-vain-2", "n5")
	c.park(t, m, waiting)
	c.reached(t, m, v1alpha1.PhaseParked)
	c.powerOff(t, "n5")
	c.awaitState(t, "n5", v1alpha1.FenceLost)
	c.source(t, m, map[string]any{"error": "nobody takes a copy"})
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultWithdrawn {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.gone(t, waiting)
	var known v1alpha1.MigrationList
	if err := c.List(t.Context(), &known, client.InNamespace("shop")); err != nil {
		t.Fatal(err)
	}
	for _, other := range known.Items {
		if other.LostPod() == waiting.UID {
			t.Errorf("migration %s recovers pod %s, which never ran", other.Name, waiting.Name)
		}
	}
	c.own(t, old, owners)
	c.powerOn(t, "n5")
}

// sourceLostLater loses the source right after it has said that the pod is stopped.
func sourceLostLater(t *testing.T, c *cluster) {
	old := c.makePod(t, "late-lost-0", ownedBy("StatefulSet", "late-lost"), onNode("n1"), admitted)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyWarm})
	c.reached(t, m, v1alpha1.PhaseStopping)
	c.powerOff(t, "n1")
	paused := c.stop(t, m)
	c.gone(t, old)
	next := c.makePod(t, "late-lost-0", ownedBy("StatefulSet", "late-lost"), admitted)
	c.awaitState(t, "n1", v1alpha1.FenceFenced)
	c.claimAndBind(t, m, next, "n3")
	c.restored(t, m, next, paused)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Stopping Stopped Deleted Created Scheduled Restoring Ready")
	var list v1alpha1.MigrationList
	if err := c.List(t.Context(), &list, client.InNamespace("shop")); err != nil {
		t.Fatal(err)
	}
	for _, other := range list.Items {
		if other.LostPod() == old.UID && other.UID != m.UID && other.Status.Result != v1alpha1.ResultWithdrawn {
			t.Errorf("migration %s of the same pod: %s", other.Name, other.Status.Phase)
		}
	}
	c.powerOn(t, "n1")
}
