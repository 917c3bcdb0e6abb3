package main

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestStagedTakeover kills the leader right after each of the writes by which a bare pod is
// moved whose state is staged, and whose first successor is lost with its node before it has
// that: nobody but the watcher makes the next one.
func TestStagedTakeover(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)
	after := 1
	for ; after <= mostWrites && c.stagedOver(t, fmt.Sprintf("carried-%d", after), after); after++ {
	}
	t.Logf("it is %d writes of the leader", after-1)
	if after < 12 || after > mostWrites {
		t.Errorf("the leader was killed after each of %d writes", after-1)
	}
}

// stagedOver moves a bare pod so, and kills the leader right after its nth write. It returns
// false when there was no such write.
func (c *cluster) stagedOver(t *testing.T, name string, after int) (died bool) {
	t.Helper()
	old := c.makePod(t, name, onNode("n1"), admitted, handsOver)
	c.run(t, old)
	leader := c.leader(t)
	defer c.endLeaseOf(t, leader)()
	if err := os.WriteFile(leader.orders, []byte(strconv.Itoa(after)), 0o600); err != nil {
		t.Fatal(err)
	}
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyApplication})
	c.reached(t, m, v1alpha1.PhaseStopping)
	c.stop(t, m)
	first := c.another(t, old)
	c.claimAndBind(t, m, first, "n5")
	c.run(t, first)
	c.powerOff(t, "n5")
	c.gone(t, first)
	next := c.another(t, first)
	c.until(t, m, "nobody's", func(m *v1alpha1.Migration) bool { return m.Status.Claim == nil })
	c.claimAndBind(t, m, next, "n3")
	c.run(t, next)
	c.imported(t, m, next, true)
	c.closed(t, m)
	if m.Status.Result != v1alpha1.ResultImported {
		t.Errorf("%s: result %s, reason %s: %s", name, m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	c.toldOnce(t, m, v1alpha1.ResultImported)
	c.nobodyRecovers(t, first.UID, old.UID)
	died = c.replaceDead(t, leader, after)
	c.powerOn(t, "n5")
	return died
}
