package detect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
)

// began is when every scenario begins, and tick how finely its time runs.
var began = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const tick = 100 * time.Millisecond

// How the parts around a watcher behave, about as docs/reference/signals.md says.
const (
	renewEvery   = 10 * time.Second
	suspectAfter = 500 * time.Millisecond
	deadAfter    = 1500 * time.Millisecond
	unknownAfter = 50 * time.Second
	knownAfter   = 5 * time.Second // Kubernetes looks at all nodes so often
)

// world is a cluster as far as a watcher can see it.
type world struct {
	now  time.Time
	seen *Sightings
	// machines by name, and their names in order.
	machines map[string]*machine
	names    []string
	// apiUp is whether the API server answers, and lag how long its watch takes.
	apiUp bool
	lag   time.Duration
	// events are on their way to the watcher, and listed is when it saw everything.
	events []event
	listed time.Time
}

type event struct {
	at    time.Time
	kind  string
	bring func(now time.Time)
}

// machine is a node as it really is.
type machine struct {
	powered, kubelet, checkpointer bool
	// cutMembers and cutAPI are whether its network to the other members, and to
	// the API server, is cut.
	cutMembers, cutAPI bool
	// clock is how much its clock is ahead.
	clock   time.Duration
	member  membership.Member
	node    *corev1.Node
	fence   *v1alpha1.Fence
	renewed time.Time // by the clock of the world
	// pinged is its last answer to a ping, and arrived when its last renewal reached
	// the watcher, which it had made at told.
	pinged, arrived, told time.Time
	cutSince              time.Time // from the API
}

// stopsAfter is how long after the way to the API is cut a node says that its pods
// stand still.
const stopsAfter = 3 * time.Second

func newWorld() *world {
	return &world{now: began, seen: NewSightings(DefaultPressure), machines: map[string]*machine{}, apiUp: true, lag: tick}
}

func (w *world) add(names ...string) {
	for _, name := range names {
		m := &machine{powered: true, kubelet: true, checkpointer: true,
			// The kubelets of a cluster do not renew at the same time.
			renewed: w.now.Add(-time.Duration(len(w.names)%5) * 2 * time.Second),
			node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
				Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: "boot-1"},
					Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}},
			fence:  &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, BootID: "boot-1"}},
			member: membership.Member{Name: name, Kind: membership.Checkpointer, State: membership.Alive, LastAlive: w.now}, pinged: w.now}
		w.machines[name] = m
		w.names = append(w.names, name)
	}
	w.list()
}

// list brings the watcher everything, as a watch does when it begins.
func (w *world) list() {
	w.events, w.listed = nil, w.now
	for _, name := range w.names {
		m := w.machines[name]
		m.arrived, m.told = time.Time{}, time.Time{}
		if m.node != nil {
			w.seen.Node(w.now, m.node.DeepCopy(), true)
		}
		w.seen.Lease(w.now, name, m.renewed.Add(m.clock), true)
		w.seen.Fence(w.now, m.fence.DeepCopy(), true)
	}
}

// send brings the watcher what has changed in the API, in its time, and after what
// has changed of the same kind before: each kind has one watch.
func (w *world) send(kind string, bring func(now time.Time)) {
	at := w.now.Add(w.lag)
	for _, e := range w.events {
		if e.kind == kind {
			at = later(at, e.at)
		}
	}
	w.events = append(w.events, event{at, kind, bring})
}

func (w *world) sendNode(name string) {
	m := w.machines[name]
	node, exists := m.node, m.node != nil
	if !exists {
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	node = node.DeepCopy()
	w.send("node", func(now time.Time) { w.seen.Node(now, node, exists) })
}

func (w *world) sendFence(name string) {
	fence := w.machines[name].fence.DeepCopy()
	w.send("fence", func(now time.Time) { w.seen.Fence(now, fence, true) })
}

// until lets time pass.
func (w *world) until(then time.Time) {
	for !w.now.After(then) {
		for _, name := range w.names {
			w.live(name, w.machines[name])
		}
		if w.apiUp {
			var later []event
			for _, e := range w.events {
				if e.at.After(w.now) {
					later = append(later, e)
				} else {
					e.bring(w.now)
				}
			}
			w.events = later
		}
		if w.now.Equal(then) {
			return
		}
		w.now = w.now.Add(tick)
	}
}

// live is one tick of a machine, and of those that look after it.
func (w *world) live(name string, m *machine) {
	if m.powered && m.kubelet && !m.cutAPI && w.apiUp && w.now.Sub(m.renewed) >= renewEvery {
		m.renewed = w.now
		at, renewed := m.renewed, m.renewed.Add(m.clock)
		w.send("lease", func(now time.Time) {
			w.seen.Lease(now, name, renewed, true)
			m.arrived, m.told = now, at
		})
	}
	if m.node != nil && w.apiUp {
		ready := w.condition(name, corev1.NodeReady)
		switch silent := w.now.Sub(m.renewed) >= unknownAfter; {
		case silent && ready.Status != corev1.ConditionUnknown:
			*ready = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}
			w.sendNode(name)
		case !silent && w.now.Sub(m.renewed) >= knownAfter && ready.Status == corev1.ConditionUnknown:
			*ready = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}
			w.sendNode(name)
		}
	}
	before := m.member.State
	switch silence := w.now.Sub(m.member.LastAlive); {
	case m.powered && m.checkpointer && !m.cutMembers:
		m.member.State, m.member.LastAlive, m.pinged = membership.Alive, w.now, w.now
		// Where only this node cannot reach the API, no peer vouches for it.
		if m.cutAPI == m.cutSince.IsZero() {
			m.cutSince = map[bool]time.Time{true: w.now}[m.cutAPI]
		}
		m.member.Stopped = time.Time{}
		if at := m.cutSince.Add(stopsAfter); m.cutAPI && !w.now.Before(at) {
			m.member.Stopped = at
		}
	case before == membership.Left || before == "":
	case silence >= deadAfter:
		m.member.State = membership.Dead
	case silence >= suspectAfter:
		m.member.State = membership.Suspect
	}
}

// condition is a condition of a Node, made if need be.
func (w *world) condition(name string, kind corev1.NodeConditionType) *corev1.NodeCondition {
	conditions := &w.machines[name].node.Status.Conditions
	i := slices.IndexFunc(*conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
	if i < 0 {
		*conditions = append(*conditions, corev1.NodeCondition{Type: kind})
		i = len(*conditions) - 1
	}
	return &(*conditions)[i]
}

// fact is what the watcher makes of a node now.
func (w *world) fact(name string) Fact {
	return w.seen.Fact(w.now, name, w.machines[name].member)
}

// do carries out one command of a scenario.
func (w *world) do(command string, args []string) error {
	switch command {
	case "nodes":
		w.add(args...)
		return nil
	case "api": // api up, api down, api slow by 6s
		w.apiUp = args[0] != "down"
		if args[0] == "slow" {
			lag, err := time.ParseDuration(args[2])
			w.lag = lag
			return err
		}
		return nil
	case "watcher": // watcher restarts: it knows nothing but what is there
		w.seen = NewSightings(DefaultPressure)
		w.list()
		return nil
	}
	name := args[0]
	m := w.machines[name]
	if m == nil {
		return fmt.Errorf("no node %q", name)
	}
	switch args = args[1:]; command {
	case "power": // power n1 off, power n1 on boot-2
		if args[0] == "off" {
			m.powered = false
			return nil
		}
		m.powered, m.kubelet, m.checkpointer = true, true, false
		m.node.Status.NodeInfo.BootID = args[1]
		m.renewed = w.now.Add(-renewEvery)
		w.sendNode(name)
	case "kubelet": // kubelet n1 stops, kubelet n1 starts
		m.kubelet = args[0] == "starts"
	case "checkpointer": // checkpointer n1 leaves | crashes | starts
		m.checkpointer = args[0] == "starts"
		if args[0] == "leaves" {
			m.member.State = membership.Left
		}
	case "absent": // its checkpointer was never a member
		m.checkpointer, m.member = false, membership.Member{}
	case "permit": // the fencer writes the node's boot into its record
		m.fence.Spec.BootID = args[0]
		w.sendFence(name)
	case "cut": // cut n1 from members, cut n1 from api, cut n1 from both
		m.cutMembers, m.cutAPI = args[1] != "api", args[1] != "members"
	case "heal":
		m.cutMembers, m.cutAPI = false, false
	case "clock": // clock n1 +1h
		ahead, err := time.ParseDuration(args[0])
		m.clock += ahead
		return err
	case "load": // load n1 memory=60 io=5 cpu=10
		values := map[string]int32{}
		for _, arg := range args {
			key, value, _ := strings.Cut(arg, "=")
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return fmt.Errorf("load %q: %w", arg, err)
			}
			values[key] = int32(n)
		}
		m.fence.Status.Load = &v1alpha1.NodeLoad{MemoryPressure: values["memory"], IOPressure: values["io"], CPUPressure: values["cpu"]}
		w.sendFence(name)
	case "shutting-down": // its checkpointer says so
		m.fence.Status.ShuttingDown = &metav1.MicroTime{Time: w.now}
		w.sendFence(name)
	case "fence-deleted":
		w.send("fence", func(now time.Time) { w.seen.Fence(now, m.fence, false) })
	case "node":
		return w.editNode(name, args)
	default:
		return fmt.Errorf("unknown command %q", command)
	}
	return nil
}

// editNode changes a Node object: node n1 cordoned | uncordoned | deleted |
// zone=z | label=k:v | taint=k[:v] | untaint=k | <condition>=<status>[ message…].
func (w *world) editNode(name string, args []string) error {
	m := w.machines[name]
	defer func() { w.sendNode(name) }()
	key, value, _ := strings.Cut(args[0], "=")
	first, second, _ := strings.Cut(value, ":")
	switch key {
	case "cordoned", "uncordoned":
		m.node.Spec.Unschedulable = key == "cordoned"
	case "deleted":
		m.node = nil
	case "zone":
		m.node.Labels[corev1.LabelTopologyZone] = value
	case "label":
		m.node.Labels[first] = second
	case "taint":
		m.node.Spec.Taints = append(m.node.Spec.Taints, corev1.Taint{Key: first, Value: second, Effect: corev1.TaintEffectNoSchedule})
	case "untaint":
		m.node.Spec.Taints = slices.DeleteFunc(m.node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == first })
	default:
		c := w.condition(name, corev1.NodeConditionType(key))
		c.Status, c.Message = corev1.ConditionStatus(value), strings.Join(args[1:], " ")
	}
	return nil
}

// since is a moment for people.
func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Sub(began).Round(10 * time.Millisecond).String()
}

// describe writes a fact as scenarios have it.
func describe(f Fact) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s because %s; alive until %s", f.Node, f.State, f.Reason, since(f.LastAlive))
	if f.Why != v1alpha1.MigrationNodeLost {
		fmt.Fprintf(&out, "; its loss would be %s", f.Why)
	}
	if f.OutOfService {
		out.WriteString("; out of service")
	}
	if f.Domain != "" {
		fmt.Fprintf(&out, "; in %s", f.Domain)
	}
	for _, signal := range f.Signals {
		fmt.Fprintf(&out, "\n        %s: %s", signal.Reason, signal.Message)
	}
	return out.String()
}
