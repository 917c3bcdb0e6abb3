package main

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
)

// TestOutageOfTheAPI plays an outage of a real API server, stopped and killed, to
// four real fencers: what it was made for, and what it must not be mistaken for.
func TestOutageOfTheAPI(t *testing.T) {
	c := startCluster(t, 4)
	n1, alone := c.nodes[0], c.nodes[3]
	// A fencer that has just started vouches for nobody: it may have promised.
	c.eventually("all fencers have run for long enough to vouch", func() error {
		if time.Since(c.started()) < permission.Default.PromiseFor+time.Second {
			return errors.New("not yet")
		}
		return nil
	})

	c.step("nothing stops while nobody can read the API", func() []string {
		c.APIServer().Signal(t, syscall.SIGSTOP)
		c.during(8 * time.Second)
		c.APIServer().Signal(t, syscall.SIGKILL)
		c.during(4 * time.Second)
		c.StartAPIServer()
		return c.stood(c.nodes...)
	})

	c.step("a node that is cut off from the API and its peers stops in time", func() []string {
		alone.cutOff(true, c.nodes)
		c.stops(alone, fence.Now())
		others := c.stood(c.nodes[:3]...)
		alone.cutOff(false, c.nodes)
		c.eventually("it runs again", alone.running)
		return others
	})

	c.step("a node that the watcher has promises about stops, the others go on", func() []string {
		// A promise holds for a while: it is asked for again if an answer came late.
		c.eventually("all promise while the API answers", func() error {
			if promised, unreadable := c.promise("n1"); len(promised) != 3 || len(unreadable) != 0 {
				return fmt.Errorf("%q promise and %q cannot read", promised, unreadable)
			}
			return nil
		})
		c.APIServer().Signal(t, syscall.SIGSTOP)
		c.stops(n1, fence.Now())
		c.eventually("who is asked for a promise cannot read", func() error {
			if promised, unreadable := c.promise("n1"); len(promised) != 0 || len(unreadable) != 3 {
				return fmt.Errorf("%q promise and %q cannot read", promised, unreadable)
			}
			return nil
		})
		others := c.stood(c.nodes[1:]...)
		c.APIServer().Signal(t, syscall.SIGCONT)
		c.eventually("n1 runs again", n1.running)
		return others
	})

	c.step("fencers that are started anew do not vouch", func() []string {
		c.APIServer().Signal(t, syscall.SIGSTOP)
		c.during(permission.Default.Period + permission.Default.VouchAfter)
		before := c.stood(c.nodes[1:]...)
		for _, n := range c.nodes[1:3] {
			n.fencer.Signal(t, syscall.SIGKILL)
			c.startFencer(n)
		}
		c.stops(alone, fence.Now()) // one of its three peers vouches
		c.APIServer().Signal(t, syscall.SIGCONT)
		for _, n := range c.nodes {
			c.eventually(n.Node+" runs again", n.running)
		}
		return before
	})
	for _, n := range c.nodes {
		if !n.pod.Alive() {
			t.Errorf("the pod of %s has ended", n.Node)
		}
	}
}
