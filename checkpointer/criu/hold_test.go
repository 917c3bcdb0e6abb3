package criu

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// TestHeldPodRunsNoMore: the last checkpoint of a pod is of the last thing that it
// did, and it goes on with that elsewhere.
func TestHeldPodRunsNoMore(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "counter-0", "1")
	c := started(t, source, "c1", "main", "counter")
	c.Output.WaitFor(t, "count ")
	from := &taken{dir: t.TempDir()}
	ctx, e := context.Background(), newEngine(t)
	var hold *Hold
	var err error
	from.dump, hold, err = e.CheckpointAndHold(ctx, targetOf(t, source, c), from.dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(from.memory.Take(from.dump.Memory), hold.Still()); err != nil {
		t.Fatal(err)
	}
	from.dump.Close()
	if err := hold.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 5*time.Second, "the killed container has ended", func() bool {
		pids, err := hold.groups[0].Procs()
		return err == nil && len(pids) == 0
	})
	last := number(t, c.Output.Last("count "))
	c.Delete(t)

	goal := nodetest.NewPod(t, "counter-0", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"counter"}})
	restore(t, from, r, true)
	r.Output.WaitFor(t, "count ")
	// Its output may lack what was in a pipe when it was stopped, and no more than that.
	if first := number(t, strings.TrimPrefix(r.Output.Lines()[0], "count ")); first < last || first > last+2 {
		t.Errorf("the count goes on at %d, and ended at %d", first, last)
	}
}

// TestHeldPodThatRanIsNoticed, however short it was; and a pod that is let go runs.
func TestHeldPodThatRanIsNoticed(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "counter-0", "1")
	c := started(t, source, "c1", "main", "counter")
	c.Output.WaitFor(t, "count ")
	ctx, e := context.Background(), newEngine(t)
	held := func() *Hold {
		t.Helper()
		dump, hold, err := e.CheckpointAndHold(ctx, targetOf(t, source, c), t.TempDir(), false)
		if err != nil {
			t.Fatal(err)
		}
		dump.Close()
		// As a fencer does whose permission is out, and comes back.
		pod := hold.groups[0].Parent()
		if err := errors.Join(pod.OrderFreeze(), pod.Thaw(ctx)); err != nil && !pod.IsRoot() {
			t.Fatal(err)
		}
		if err := hold.Still(); err != nil {
			t.Fatalf("it was let alone: %v", err)
		}
		return hold
	}
	hold := held()
	before := number(t, c.Output.Last("count "))
	if err := hold.groups[0].Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 5*time.Second, "it runs for a moment", func() bool { return number(t, c.Output.Last("count ")) > before })
	if err := hold.Still(); !errors.Is(err, errRan) {
		t.Errorf("a pod that runs is told to stand still: %v", err)
	}
	if err := hold.groups[0].Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if err := hold.Still(); !errors.Is(err, errRan) {
		t.Errorf("a pod that ran is told to have stood still: %v", err)
	}
	if err := hold.Release(ctx); err != nil {
		t.Fatal(err)
	}
	thawed(t, c)
	hold = held()
	if err := hold.Release(ctx); err != nil {
		t.Fatal(err)
	}
	after := number(t, c.Output.Last("count "))
	nodetest.Eventually(t, 5*time.Second, "it goes on", func() bool { return number(t, c.Output.Last("count ")) > after })
	// What was held is known to a later process by name.
	if err := e.KillAll(ctx, hold.Cgroups()); err != nil {
		t.Fatal(err)
	}
	if group, err := cgroup.ForPath(cgroupRoot, hold.Cgroups()[0]); err != nil || group != hold.groups[0] {
		t.Errorf("the group is %v, %v", group, err)
	}
}
