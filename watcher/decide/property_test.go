package decide

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestWhateverHappens drives the machine through random histories of nodes,
// records, answers and changes of the leader, and checks what must always hold.
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.run("nodes", []string{"a", "b", "c", "d"}[:rapid.IntRange(1, 4).Draw(t, "nodes")])
		// lostSince is when each record was last written Lost in the API,
		// declared when each node's last declaration was asked for.
		lostSince := map[string]time.Time{}
		declared := map[string]time.Time{}

		note := func(name string) {
			if w.api[name].State == v1alpha1.FenceLost {
				lostSince[name] = w.now
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			name := rapid.SampledFrom(w.names).Draw(t, "node")
			switch event := rapid.SampledFrom([]string{
				"alive", "alive", "suspect", "dead", "gone", "written", "written", "written", "conflict",
				"failed", "refute", "come back", "watch", "watch", "new-leader", "step",
			}).Draw(t, "event"); event {
			case "written":
				pending, ok := w.pending[name]
				if !ok {
					continue
				}
				// A compare-and-swap fails on a record that has moved on.
				from := map[Kind]v1alpha1.FenceState{DeclareLost: v1alpha1.FenceRunning,
					ConfirmFenced: v1alpha1.FenceLost, Withdraw: v1alpha1.FenceLost}[pending.Kind]
				if w.api[name].State != from {
					w.run("conflict", []string{name})
					continue
				}
				if pending.Kind == ConfirmFenced {
					if waited := w.now.Sub(lostSince[name]); waited < permission.Default.Wait() {
						t.Fatalf("%s fenced %s after its declaration, before its permission ran out", name, waited)
					}
				}
				w.written(name)
				note(name)
			case "conflict", "failed":
				if _, ok := w.pending[name]; ok {
					w.run(event, []string{name})
				}
			case "refute":
				if w.api[name].State == v1alpha1.FenceLost {
					w.run("record", []string{name, string(v1alpha1.FenceRunning)})
				}
			case "come back":
				if w.api[name].State == v1alpha1.FenceFenced {
					w.run("record", []string{name, string(v1alpha1.FenceRunning)})
				}
			case "new-leader":
				declared = map[string]time.Time{}
				w.run(event, nil)
			default:
				w.run(event, []string{name})
			}
			actions, wake := w.step()
			if !wake.IsZero() && !wake.After(w.now) {
				t.Fatalf("wakes at %s, which is not after now, %s", wake, w.now)
			}
			for _, a := range actions {
				fact, record := w.facts[a.Node], w.machine.nodes[a.Node]
				switch a.Kind {
				case DeclareLost:
					if !fact.State.Lost() {
						t.Fatalf("%s declared lost though it is %s", a.Node, fact.State)
					}
					if last, ok := declared[a.Node]; ok && w.now.Sub(last) < coolDown && record.refutations > 0 {
						t.Fatalf("%s declared again %s after its last declaration was refuted", a.Node, w.now.Sub(last))
					}
				case Recover:
					if record.fence.State != v1alpha1.FenceFenced {
						t.Fatalf("%s recovered though its record says %q", a.Node, record.fence.State)
					}
				case ReportRefuted:
					declared[a.Node] = w.now
				}
				if a.Kind == DeclareLost || a.Kind == ConfirmFenced {
					lost := 0
					for _, name := range w.names {
						if w.facts[name].State.Lost() && w.facts[name].State != "Gone" {
							lost++
						}
					}
					// Five nodes are the fewest of which two may look lost.
					if lost > 1 {
						t.Fatalf("%s of %s while %d of %d nodes look lost", a.Kind, a.Node, lost, len(w.names))
					}
				}
			}
		}
	})
}
