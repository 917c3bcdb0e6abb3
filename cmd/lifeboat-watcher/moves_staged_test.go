package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// stagedState: pods that cannot have a second one beside them are stopped first, and what
// they have exported is imported into the next one, however many that takes.
func stagedState(t *testing.T, c *cluster) {
	t.Run("of a StatefulSet", func(t *testing.T) { stagedOfStatefulSet(t, c) })
	t.Run("of a bare pod", func(t *testing.T) { stagedOfBarePod(t, c) })
	t.Run("not taken", func(t *testing.T) { stagedInVain(t, c) })
	t.Run("not exported", func(t *testing.T) { notExported(t, c) })
	t.Run("its targets are lost", func(t *testing.T) { stagedTargetsLost(t, c) })
	t.Run("its source is lost", func(t *testing.T) { stagedSourceLost(t, c) })
}

// imported plays the target: the application has answered, and that is the last word.
func (c *cluster) imported(t *testing.T, m *v1alpha1.Migration, pod *corev1.Pod, succeeded bool) {
	t.Helper()
	now := metav1.NowMicro()
	restore := v1alpha1.RestoreStatus{PodUID: pod.UID, StartedAt: now, CommittedAt: &now,
		Hooks: []v1alpha1.HookResult{{Name: "state-import", Container: "app", Succeeded: succeeded, Output: "507"}}}
	if !succeeded {
		restore.Containers = []v1alpha1.ContainerRestore{{Name: "app", Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonImportFailed, Message: "507"}}
	}
	c.patchStatus(t, m, map[string]any{"restore": restore})
}

func stagedOfStatefulSet(t *testing.T, c *cluster) {
	old := c.makePod(t, "till-0", ownedBy("StatefulSet", "till"), onNode("n1"), admitted, handsOver)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
	c.reached(t, m, v1alpha1.PhaseStopping)
	if m.Released() {
		t.Error("it is released, and its owner makes no other one")
	}
	c.stop(t, m)
	c.gone(t, old)
	next := c.makePod(t, "till-0", ownedBy("StatefulSet", "till"), admitted, handsOver)
	c.claimAndBind(t, m, next, "n3")
	c.run(t, next)
	c.reached(t, m, v1alpha1.PhaseScheduled)
	c.imported(t, m, next, true)
	c.moved(t, m, v1alpha1.ResultImported, "Accepted Stopping Stopped Deleted Created Scheduled Ready")
	if at, _ := m.PhaseAt(v1alpha1.PhaseReady); at.Before(m.Status.Restore.CommittedAt.Time) {
		t.Errorf("it is called Ready at %s, and has its state since %s", at, m.Status.Restore.CommittedAt)
	}
	if m.Status.DowntimeSeconds <= 0 || m.Status.Checkpoint != nil {
		t.Errorf("downtime %s, checkpoint %+v: a state is none", m.Status.Downtime, m.Status.Checkpoint)
	}
}

func stagedOfBarePod(t *testing.T, c *cluster) {
	old := c.makePod(t, "solo-till", onNode("n1"), admitted, handsOver)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
	c.reached(t, m, v1alpha1.PhaseStopping)
	if m.Annotations["lifeboat.dev/pod-manifest"] == "" {
		t.Error("it is stopped, and nothing has what it is made again from")
	}
	c.stop(t, m)
	next := c.another(t, old)
	c.claimAndBind(t, m, next, "n2")
	c.imported(t, m, next, true)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultImported, "Accepted Stopping Stopped Deleted Created Scheduled Ready")
}

// another waits until another pod has a pod's name.
func (c *cluster) another(t *testing.T, old *corev1.Pod) *corev1.Pod {
	t.Helper()
	next := &corev1.Pod{}
	controlplane.Eventually(t, "another pod "+old.Name, func(ctx context.Context) error {
		err := c.Get(ctx, client.ObjectKeyFromObject(old), next)
		if err == nil && next.UID == old.UID {
			err = errNotYet
		}
		return err
	})
	return next
}

// stagedInVain: the application does not take its state back. The pod runs, and the move is
// no success.
func stagedInVain(t *testing.T, c *cluster) {
	old := c.makePod(t, "vain-0", ownedBy("StatefulSet", "vain"), onNode("n1"), admitted, handsOver)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
	c.reached(t, m, v1alpha1.PhaseStopping)
	c.stop(t, m)
	c.gone(t, old)
	next := c.makePod(t, "vain-0", ownedBy("StatefulSet", "vain"), admitted, handsOver)
	c.claimAndBind(t, m, next, "n3")
	c.run(t, next)
	c.imported(t, m, next, false)
	c.moved(t, m, v1alpha1.ResultColdStarted, "Accepted Stopping Stopped Deleted Created Scheduled Ready")
	if m.Status.Reason != v1alpha1.ReasonImportFailed {
		t.Errorf("reason %s: %s", m.Status.Reason, m.Status.Message)
	}
}

func notExported(t *testing.T, c *cluster) {
	old := c.makePod(t, "mute-0", ownedBy("StatefulSet", "mute"), onNode("n1"), admitted, handsOver)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
	c.reached(t, m, v1alpha1.PhaseStopping)
	c.source(t, m, map[string]any{"beganAt": metav1.NowMicro(), "error": "hook state-export failed in container app: 500"})
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultWithdrawn || m.Status.Reason != v1alpha1.ReasonSourceFailed {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	now := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(old), now); err != nil || now.UID != old.UID || now.DeletionTimestamp != nil {
		t.Errorf("the pod is %s, deleted at %v: %v", now.UID, now.DeletionTimestamp, err)
	}
}

// stagedTargetsLost loses the nodes of the pods that are to import the state, of which one
// was deleted by somebody before: another pod gets it, and no failover begins anew.
func stagedTargetsLost(t *testing.T, c *cluster) {
	old := c.makePod(t, "roving-0", ownedBy("StatefulSet", "roving"), onNode("n1"), admitted, handsOver)
	solo := c.makePod(t, "roving-solo", onNode("n2"), admitted, handsOver)
	var moves []*v1alpha1.Migration
	var lost []types.UID
	for _, pod := range []*corev1.Pod{old, solo} {
		c.run(t, pod)
		m := c.move(t, pod, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
		c.reached(t, m, v1alpha1.PhaseStopping)
		c.stop(t, m)
		c.gone(t, pod)
		moves = append(moves, m)
	}
	next := c.makePod(t, "roving-0", ownedBy("StatefulSet", "roving"), admitted, handsOver)
	c.claimAndBind(t, moves[0], next, "n3")
	if err := c.Delete(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	c.until(t, moves[0], "nobody's", func(m *v1alpha1.Migration) bool { return m.Status.Claim == nil })
	c.kill(t, next)
	next = c.makePod(t, "roving-0", ownedBy("StatefulSet", "roving"), admitted, handsOver)
	nextSolo := c.another(t, solo)
	for i, pod := range []*corev1.Pod{next, nextSolo} {
		c.claimAndBind(t, moves[i], pod, "n5")
		c.run(t, pod) // it is Ready, and has no state
		lost = append(lost, pod.UID)
	}
	c.powerOff(t, "n5")
	c.gone(t, next)
	c.gone(t, nextSolo)
	next = c.makePod(t, "roving-0", ownedBy("StatefulSet", "roving"), admitted, handsOver)
	for i, pod := range []*corev1.Pod{next, c.another(t, nextSolo)} {
		c.until(t, moves[i], "nobody's", func(m *v1alpha1.Migration) bool { return m.Status.Claim == nil })
		c.claimAndBind(t, moves[i], pod, "n4")
		c.run(t, pod)
		c.imported(t, moves[i], pod, true)
		c.closed(t, moves[i])
		if moves[i].Status.Result != v1alpha1.ResultImported {
			t.Errorf("result %s, reason %s: %s", moves[i].Status.Result, moves[i].Status.Reason, moves[i].Status.Message)
		}
		c.event(t, moves[i].Name, "TargetLost")
	}
	c.nobodyRecovers(t, lost...)
	c.powerOn(t, "n5")
}

// nobodyRecovers checks that there is no failover of pods that had nothing.
func (c *cluster) nobodyRecovers(t *testing.T, pods ...types.UID) {
	t.Helper()
	var known v1alpha1.MigrationList
	if err := c.List(t.Context(), &known, client.InNamespace("shop")); err != nil {
		t.Fatal(err)
	}
	for _, other := range known.Items {
		if !other.Planned() && slices.Contains(pods, other.LostPod()) {
			t.Errorf("migration %s recovers a pod that had no state: %s", other.Name, fmt.Sprint(other.Status.Result))
		}
	}
}

// stagedSourceLost loses the source of one move before it has stopped the pod, which is
// recovered then, and of another one after it: that goes on.
func stagedSourceLost(t *testing.T, c *cluster) {
	early := c.makePod(t, "early-0", ownedBy("StatefulSet", "early"), onNode("n5"), admitted, handsOver)
	late := c.makePod(t, "tardy-0", ownedBy("StatefulSet", "tardy"), onNode("n5"), admitted, handsOver)
	var moves []*v1alpha1.Migration
	for _, pod := range []*corev1.Pod{early, late} {
		c.run(t, pod)
		m := c.move(t, pod, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
		c.reached(t, m, v1alpha1.PhaseStopping)
		c.source(t, m, map[string]any{"beganAt": metav1.NowMicro()})
		moves = append(moves, m)
	}
	c.powerOff(t, "n5")
	c.stop(t, moves[1])
	c.closed(t, moves[0])
	if moves[0].Status.Result != v1alpha1.ResultFailed || moves[0].Status.Reason != v1alpha1.ReasonSourceLost {
		t.Errorf("result %s, reason %s: %s", moves[0].Status.Result, moves[0].Status.Reason, moves[0].Status.Message)
	}
	failover := c.failoverOf(t, early.UID)
	c.reached(t, failover, v1alpha1.PhaseDeleted)
	next := c.makePod(t, "early-0", ownedBy("StatefulSet", "early"), admitted, handsOver)
	c.claimAndBind(t, failover, next, "n3")
	c.restored(t, failover, next, failover.Spec.LostAt.Add(-time.Second))
	c.run(t, next)
	if c.closed(t, failover); failover.Status.Result != v1alpha1.ResultRestored {
		t.Errorf("the failover: %s, %s: %s", failover.Status.Result, failover.Status.Reason, failover.Status.Message)
	}

	c.gone(t, late)
	next = c.makePod(t, "tardy-0", ownedBy("StatefulSet", "tardy"), admitted, handsOver)
	c.claimAndBind(t, moves[1], next, "n3")
	c.run(t, next)
	c.imported(t, moves[1], next, true)
	c.moved(t, moves[1], v1alpha1.ResultImported, "Accepted Stopping Stopped Deleted Created Scheduled Ready")
	c.powerOn(t, "n5")
}
