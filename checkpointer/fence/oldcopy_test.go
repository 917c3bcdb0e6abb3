package fence

import (
	"context"
	"testing"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence/fencetest"
)

// TestOldCopiesTakeNoStep: a node comes back after it was fenced. Its old copies
// stand still and die without one more step: before the record says Running again,
// before the runtime is told of a permission, and with whatever is started late.
func TestOldCopiesTakeNoStep(t *testing.T) {
	for name, test := range map[string]struct {
		// between happens while the node is fenced and cut off.
		between func(n *node, stop func())
	}{
		"the fencer saw it through": {func(*node, func()) {}},
		"the fencer was started anew": {func(n *node, stop func()) {
			stop()
			n.start()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			stop := n.start()
			n.eventually("permitted", n.permitted)
			old := []*fencetest.Pod{n.runPod(1), n.runPod(1), n.runPod(1)}
			n.eventually("they take steps", func() bool { return old[0].Steps() > 0 && old[1].Steps() > 0 && old[2].Steps() > 0 })
			// The agent was checkpointing one of them when it hung: the container is frozen by itself too.
			if err := old[2].Container.Freeze(context.Background()); err != nil {
				t.Fatal(err)
			}
			n.api.setSilent(true)
			n.eventually("frozen", func() bool { return old[0].Frozen() && old[1].Frozen() && old[2].Frozen() })
			var steps [3]int64
			for i, pod := range old {
				steps[i] = pod.Steps()
			}
			test.between(n, stop)

			n.api.set("n1", v1alpha1.FenceFenced, 2)
			n.api.setBeforePatch(func(fence *v1alpha1.Fence) {
				for _, pod := range old {
					if pod.Alive() {
						t.Error("the node asks to return while an old copy is alive")
					}
				}
				if n.permitted() {
					t.Error("the runtime was told of a permission before the node has returned")
				}
			})
			n.api.setSilent(false)
			n.eventually("returned", func() bool { return n.api.spec("n1").State == v1alpha1.FenceRunning })
			for i, pod := range old {
				if got := pod.Steps(); got != steps[i] {
					t.Errorf("old copy %d took %d steps after it was frozen", i, got-steps[i])
				}
			}
		})
	}
}

// TestActsWhileTheAgentHangs: the agent froze a container to checkpoint it, and
// hangs. The fencer needs it neither to freeze the pod nor to thaw it, and leaves to
// the agent what is the agent's.
func TestActsWhileTheAgentHangs(t *testing.T) {
	n := newNode(t)
	n.start()
	n.eventually("permitted", n.permitted)
	held, free := n.runPod(1), n.runPod(1)
	if err := held.Container.Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.api.setSilent(true)
	n.within(quick.Period+margin, "frozen in time", func() bool { return held.Frozen() && free.Frozen() })
	n.api.setSilent(false)
	n.eventually("the fencer's orders are taken back", func() bool { return !held.Ordered() && !free.Ordered() })
	if frozen, err := held.Container.Frozen(); err != nil || !frozen {
		t.Errorf("what the agent froze is thawed: %v", err)
	}
	if err := held.Container.Thaw(context.Background()); err != nil {
		t.Fatal(err)
	}
}
