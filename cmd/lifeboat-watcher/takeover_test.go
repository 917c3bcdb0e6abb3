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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// mostWrites bounds the writes of one recovery, for a test that would go on forever.
const mostWrites = 25

// TestTakeover kills the leader right after the first write of a recovery, in the next
// recovery after the second one, and so on until a recovery has no more writes. Each
// time the next leader finishes what was begun, and nothing is done twice.
func TestTakeover(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)                       // the API server would reach one of the watchers alone
	lost := []string{"n1", "n2", "n4", "n5"} // n3 takes the successors
	for after := 1; ; after++ {
		if after > mostWrites {
			t.Fatalf("a recovery takes more than %d writes", mostWrites)
		}
		node := lost[after%len(lost)]
		if !c.takeOver(t, fmt.Sprintf("solo-%d", after), node, after) {
			t.Logf("a recovery is %d writes of the leader", after-1)
			if after < 6 {
				t.Errorf("the leader was killed after %d writes only: the test misses some", after-1)
			}
			return
		}
	}
}

// takeOver loses a bare pod's node, and kills the leader right after its nth write. It
// returns false when there was no such write.
func (c *cluster) takeOver(t *testing.T, name, node string, after int) (died bool) {
	t.Helper()
	old := c.makePod(t, name, onNode(node), admitted)
	c.run(t, old)
	leader := c.leader(t)
	counted := c.restoredRecoveries(t)
	if err := os.WriteFile(leader.orders, []byte(strconv.Itoa(after)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.powerOff(t, node)

	m := c.migrationFor(t, old.UID, v1alpha1.PhaseCreated)
	next := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(old), next); err != nil || next.UID == old.UID {
		t.Fatalf("the successor: UID %s of the lost pod's %s, %v", next.UID, old.UID, err)
	}
	successor := next.UID
	c.claimAndBind(t, m, next, "n3")
	c.restored(t, m, next, m.Spec.LostAt.Add(-time.Second))
	c.run(t, next)
	m = c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultRestored {
		t.Errorf("%s: result %s, reason %s: %s", name, m.Status.Result, m.Status.Reason, m.Status.Message)
	}

	// Where the leader has done all that there was to do, it does not come to that write.
	told := func() int { return len(c.eventsOf(t, m.UID, string(v1alpha1.ResultRestored))) }
	controlplane.Eventually(t, "the closing of "+name+" is told", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return err
		}
		if told() == 0 || m.Annotations[move.AnnotationManifest] != "" {
			return errNotYet
		}
		return nil
	})
	what, err := os.ReadFile(leader.orders + ".done")
	died = err == nil
	if !died {
		if err := os.Remove(leader.orders); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Logf("after write %2d, %s", after, what)
		_ = os.Remove(leader.orders + ".done")
	}

	var migrations v1alpha1.MigrationList
	if err := c.List(t.Context(), &migrations, client.InNamespace("shop")); err != nil {
		t.Fatal(err)
	}
	recorded := slices.DeleteFunc(migrations.Items, func(m v1alpha1.Migration) bool { return m.Spec.Pod.Name != name })
	if len(recorded) != 1 {
		t.Errorf("pod %s has %d migrations, want 1", name, len(recorded))
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(old), next); err != nil || next.UID != successor {
		t.Errorf("the successor %s of pod %s was replaced by %s: %v", successor, name, next.UID, err)
	}
	if n := told(); n != 1 {
		t.Errorf("the closing of %s was told %d times", name, n)
	}
	if n := len(c.eventsOf(t, successor, string(v1alpha1.ResultRestored))); n != 1 {
		t.Errorf("the successor %s was told of it %d times", name, n)
	}
	if died {
		c.watchers = slices.DeleteFunc(c.watchers, func(w *replica) bool { return w == leader })
	}
	if now := c.restoredRecoveries(t); now > counted+1 {
		t.Errorf("the recovery of %s was counted %d times", name, now-counted)
	}
	if died {
		c.watchers = append(c.watchers, c.startWatcher(t, leader.number))
		c.leader(t)
	}
	c.powerOn(t, node)
	return died
}

// restoredRecoveries is how many restored pods the watchers that live have counted.
func (c *cluster) restoredRecoveries(t *testing.T) (sum int) {
	t.Helper()
	for _, w := range c.watchers {
		body, err := get("http://" + w.metrics + "/metrics")
		if err != nil {
			continue // it is dead, or has just started
		}
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "lifeboat_recoveries_total{") && strings.Contains(line, `result="Restored"`) {
				value, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndex(line, " "):]))
				if err != nil {
					t.Fatal(err)
				}
				sum += value
			}
		}
	}
	return sum
}

// eventsOf are the events with a reason about an object.
func (c *cluster) eventsOf(t *testing.T, about types.UID, reason string) []corev1.Event {
	t.Helper()
	var list corev1.EventList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return e.InvolvedObject.UID != about || e.Reason != reason })
}
