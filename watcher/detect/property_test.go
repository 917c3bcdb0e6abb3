package detect

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
)

// commands are what can befall the node n1 or its cluster. No clock is set back by
// just the time between two renewals, so that they read the same: Leases count in
// microseconds.
var commands = []string{
	"power n1 off", "power n1 on boot-2", "kubelet n1 stops", "kubelet n1 starts",
	"checkpointer n1 leaves", "checkpointer n1 crashes", "checkpointer n1 starts",
	"cut n1 from members", "cut n1 from api", "cut n1 from both", "heal n1",
	"api down", "api up", "api slow by 100ms", "api slow by 4s", "api slow by 15s", "api slow by 45s",
	"clock n1 +1h", "clock n1 -1h", "clock n1 -9.9s", "watcher restarts",
	"node n1 cordoned", "node n1 uncordoned", "load n1 memory=80", "load n1 memory=0", "permit n1 boot-2",
}

// TestNeverLostWhileItLives: whatever happens, a node is not lost as long as there
// is fresh evidence of its life, and it does not say that its pods stand still; its
// last sign of life is no later than what was seen, and never goes back; and a dead
// node is lost in the end.
func TestNeverLostWhileItLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.add("n1", "n2", "n3")
		if rapid.Bool().Draw(t, "never a member") {
			must(t, w, "absent n1")
		}
		n1 := w.machines["n1"]
		var before time.Time
		// exact is whether the clocks agree, and reaching whether its kubelet has
		// always reached the API server when there was one.
		exact, reaching := true, true
		check := func() {
			fact := w.fact("n1")
			switch {
			case fact.LastAlive.Before(before):
				t.Fatalf("at %s: alive until %s, which was %s before", since(w.now), since(fact.LastAlive), since(before))
			case fact.LastAlive.After(later(later(n1.pinged, n1.arrived), w.listed)):
				t.Fatalf("at %s: alive until %s, which nobody saw", since(w.now), since(fact.LastAlive))
			case !fact.State.Lost():
			case n1.member.State == membership.Alive && n1.member.Stopped.IsZero():
				t.Fatalf("at %s: %s although its checkpointer answers", since(w.now), describe(fact))
			case exact && w.now.Sub(n1.told) <= leasePeriod && n1.told.Sub(n1.member.LastAlive) > leaseSlack:
				t.Fatalf("at %s: %s although its kubelet renewed at %s", since(w.now), describe(fact), since(n1.told))
			case reaching && (n1.member.State == "" || n1.member.State == membership.Left):
				t.Fatalf("at %s: %s although only the API was silent", since(w.now), describe(fact))
			}
			before = fact.LastAlive
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			command := rapid.SampledFrom(commands).Draw(t, "command")
			switch command {
			case "clock n1 +1h", "clock n1 -1h", "clock n1 -9.9s":
				exact = false
			case "power n1 off", "kubelet n1 stops", "cut n1 from api", "cut n1 from both":
				reaching = false
			case "watcher restarts":
				before = time.Time{}
			}
			must(t, w, command)
			end := w.now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "ticks")) * tick)
			for w.now.Before(end) {
				w.until(w.now.Add(tick))
				check()
			}
		}
		must(t, w, "api up")
		must(t, w, "api slow by 100ms")
		must(t, w, "power n1 off")
		w.until(w.now.Add(2 * time.Minute))
		if fact := w.fact("n1"); !fact.State.Lost() {
			t.Fatalf("two minutes after its power was cut: %s", describe(fact))
		}
	})
}

func must(t *rapid.T, w *world, line string) {
	words := strings.Fields(line)
	if err := w.do(words[0], words[1:]); err != nil {
		t.Fatal(err)
	}
}

// TestOrder: what is seen at one moment may be taken in in any order.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, other := NewSightings(DefaultPressure), NewSightings(DefaultPressure)
		now := began
		for range rapid.IntRange(1, 8).Draw(t, "moments") {
			now = now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "ticks")) * tick)
			var takes []func(*Sightings)
			for _, name := range []string{"n1", "n2"} {
				if rapid.Bool().Draw(t, "node") {
					node, exists := drawNode(t, name), rapid.IntRange(0, 5).Draw(t, "deleted") > 0
					takes = append(takes, func(s *Sightings) { s.Node(now, node, exists) })
				}
				if rapid.Bool().Draw(t, "lease") {
					renewed := now.Add(time.Duration(rapid.IntRange(-100, 10).Draw(t, "clock")) * tick)
					takes = append(takes, func(s *Sightings) { s.Lease(now, name, renewed, true) })
				}
				if rapid.Bool().Draw(t, "fence") {
					fence := drawFence(t, name)
					takes = append(takes, func(s *Sightings) { s.Fence(now, fence, true) })
				}
			}
			for _, take := range takes {
				take(one)
			}
			for _, i := range rapid.Permutation(indices(len(takes))).Draw(t, "order") {
				takes[i](other)
			}
			for _, later := range []time.Duration{0, 5 * time.Second, 30 * time.Second, time.Hour} {
				for _, name := range []string{"n1", "n2"} {
					for _, state := range []membership.State{"", membership.Alive, membership.Dead} {
						member := membership.Member{State: state, LastAlive: began}
						if diff := cmp.Diff(one.Fact(now.Add(later), name, member), other.Fact(now.Add(later), name, member)); diff != "" {
							t.Fatalf("at %s and %s later the order made a difference:\n%s", since(now), later, diff)
						}
					}
				}
			}
		}
	})
}

func drawNode(t *rapid.T, name string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	node.Status.NodeInfo.BootID = rapid.SampledFrom([]string{"", "boot-1", "boot-2"}).Draw(t, "boot")
	node.Spec.Unschedulable = rapid.Bool().Draw(t, "cordoned")
	node.Spec.Taints = rapid.SampledFrom([][]corev1.Taint{nil, {{Key: corev1.TaintNodeOutOfService}},
		{{Key: "aws-node-termination-handler/spot-itn"}}}).Draw(t, "taints")
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady,
		Status: rapid.SampledFrom([]corev1.ConditionStatus{"True", "False", "Unknown"}).Draw(t, "ready")}}
	return node
}

func drawFence(t *rapid.T, name string) *v1alpha1.Fence {
	fence := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: name}}
	fence.Spec.BootID = rapid.SampledFrom([]string{"", "boot-1", "boot-2"}).Draw(t, "permitted")
	if rapid.Bool().Draw(t, "loaded") {
		fence.Status.Load = &v1alpha1.NodeLoad{MemoryPressure: rapid.Int32Range(0, 100).Draw(t, "memory")}
	}
	return fence
}

func indices(n int) []int {
	var all []int
	for i := range n {
		all = append(all, i)
	}
	return all
}
