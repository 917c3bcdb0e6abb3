package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/watcher/migrate"
)

// TestMoveTakeover kills the leader right after each of the writes of a planned move, as
// TestTakeover does of a recovery: of one that comes to its end, and of one whose source
// fails when it is told to stop the pod.
func TestMoveTakeover(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)
	for _, way := range []struct {
		what  string
		fails bool
		// first is the first write after which the leader is killed: before the pod is
		// to be stopped, the writes of both ways are the same.
		first int
	}{{"moved", false, 1}, {"given-up", true, 10}} {
		after := way.first
		for ; after <= mostWrites && c.moveOver(t, fmt.Sprintf("%s-%d", way.what, after), after, way.fails); after++ {
		}
		t.Logf("a pod that is %s is %d writes of the leader", way.what, after-1)
		if after < way.first+7 || after > mostWrites {
			t.Errorf("the leader was killed after each of %d writes", after-way.first)
		}
	}
}

// moveOver moves a Deployment's pod, and kills the leader right after its nth write. It
// returns false when there was no such write.
func (c *cluster) moveOver(t *testing.T, app string, after int, fails bool) (died bool) {
	t.Helper()
	c.serve(t, app)
	old := c.makePod(t, app+"-1", ofDeployment(app), onNode("n1"), admitted)
	c.run(t, old)
	defer c.endpoints(t, app)()
	wore, owners := maps.Clone(old.Labels), old.OwnerReferences
	leader := c.leader(t)
	defer c.endLeaseOf(t, leader)()
	if err := os.WriteFile(leader.orders, []byte(strconv.Itoa(after)), 0o600); err != nil {
		t.Fatal(err)
	}
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	next := c.succeed(t, m, old, app+"-2", "n3")
	c.prepare(t, m)
	c.parkHolding(t, m, next)
	c.reached(t, m, v1alpha1.PhaseStopping)
	result := v1alpha1.ResultRestored
	if fails {
		result = v1alpha1.ResultWithdrawn
		c.source(t, m, map[string]any{"error": "no room on the disk"})
		now := c.labels(t, old, "as it was", func(labels map[string]string) bool { return maps.Equal(labels, wore) })
		c.own(t, now, owners)
		c.kill(t, next)
	} else {
		paused := c.stop(t, m)
		c.gone(t, old)
		c.restored(t, m, next, paused)
		c.run(t, next)
	}
	c.closed(t, m)
	if m.Status.Result != result {
		t.Errorf("%s: result %s, reason %s: %s", app, m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.toldOnce(t, m, result)
	c.leads(t, app, "")
	c.heldReason(t, m, metav1.ConditionFalse, v1alpha1.ReasonReleased)

	died = c.replaceDead(t, leader, after)
	c.alone(t, app, map[bool]*corev1.Pod{true: old, false: next}[fails])
	return died
}

// replaceDead starts a watcher in the place of a leader that has died of its orders, and
// takes them back from one that has not. It says whether it died.
func (c *cluster) replaceDead(t *testing.T, leader *replica, after int) (died bool) {
	t.Helper()
	what, err := os.ReadFile(leader.orders + ".done")
	died = err == nil
	_ = os.Remove(leader.orders)
	if died {
		t.Logf("after write %2d, %s", after, what)
		_ = os.Remove(leader.orders + ".done")
		c.watchers = slices.DeleteFunc(c.watchers, func(w *replica) bool { return w == leader })
		c.watchers = append(c.watchers, c.startWatcher(t, leader.number))
		c.leader(t)
	}
	return died
}

// endLeaseOf ends the lease of a leader as soon as it has died of its orders. That the next
// one waits for it to run out is TestTakeover's to show. What is returned ends the wait.
func (c *cluster) endLeaseOf(t *testing.T, leader *replica) (stop func()) {
	t.Helper()
	name := client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: migrate.LeaseName}
	held := &coordinationv1.Lease{}
	if err := c.Get(t.Context(), name, held); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ticks := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			if _, err := os.Stat(leader.orders + ".done"); err != nil {
				continue
			}
			_ = leader.Wait() // it writes no more
			lease := &coordinationv1.Lease{}
			err := c.Get(ctx, name, lease)
			if err == nil && ptr.Equal(lease.Spec.HolderIdentity, held.Spec.HolderIdentity) {
				lease.Spec.HolderIdentity = ptr.To("")
				err = c.Update(ctx, lease)
			}
			if err != nil && ctx.Err() == nil {
				t.Logf("the lease of a dead leader runs out: %v", err)
			}
			return
		}
	}()
	return func() { cancel(); <-ended }
}

// toldOnce waits until everybody was told what became of a move, and looks whether they
// were told twice.
func (c *cluster) toldOnce(t *testing.T, m *v1alpha1.Migration, result v1alpha1.Result) {
	t.Helper()
	controlplane.Eventually(t, "the closing of "+m.Name+" is told", func(context.Context) error {
		if n := len(c.eventsOf(t, m.UID, string(result))); n != 1 {
			return fmt.Errorf("it was told %d times", n)
		}
		return nil
	})
}

// alone looks whether a pod is the only one of its application.
func (c *cluster) alone(t *testing.T, app string, want *corev1.Pod) {
	t.Helper()
	var pods corev1.PodList
	if err := c.List(t.Context(), &pods, client.InNamespace("shop")); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pod := range pods.Items {
		if owner := metav1.GetControllerOf(&pod); owner != nil && owner.Name == app || pod.Labels["app"] == app {
			names = append(names, pod.Name)
		}
	}
	if !slices.Equal(names, []string{want.Name}) {
		t.Errorf("pods %v are left, want %s alone", names, want.Name)
	}
}
