package main

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

const (
	// lookEvery, writeTime and guardTime are the watcher's.
	lookEvery = 500 * millisecond
	writeTime = 2 * second
	guardTime = 100 * millisecond
	// leadTime is how long a leader trusts a renewal of its Lease.
	leadTime = 3 * second
)

// watcher is one watcher: the real Machine and facts, what its caches hold, and
// its view of the membership.
type watcher struct {
	index   int
	host    int
	up      bool
	process uint32
	stalled int64
	clock   clock
	machine *decide.Machine

	looks     uint32 // the number of its loop's timer
	watch     uint32 // counts its watches
	broken    bool
	delivered int64
	watchLag  int64

	cache     [maxNodes]decide.Fence
	sightings *detect.Sightings
	sighted   [maxNodes]object // what it last saw of each Node
	members   [maxNodes]member
	lies      [maxNodes]int64 // until when its membership has the node as suspect, wrongly
	view      []decide.Node

	leadsUntil int64
	held       [maxNodes]v1alpha1.HeldReason
	busy       [maxPods]bool
}

// watcherUntil is until when a watcher stands still.
func (w *world) watcherUntil(i int) int64 {
	x := &w.watchers[i]
	if x.host < len(w.nodes) {
		return max(x.stalled, w.nodes[x.host].stalled)
	}
	return x.stalled
}

func (w *world) startWatcher(i int) {
	x := &w.watchers[i]
	x.process++
	x.up = true
	terms := w.terms
	if w.broken.noDrift {
		terms.Drift = 0
	}
	if w.broken.noWait {
		terms.Period, terms.Look, terms.Stop, terms.Slack = 0, 0, 0, 0
	}
	x.machine = decide.New(decide.Config{Terms: terms, PerDomain: w.plan.perDomain})
	x.held, x.busy, x.leadsUntil = [maxNodes]v1alpha1.HeldReason{}, [maxPods]bool{}, 0
	x.sightings = detect.NewSightings(detect.DefaultPressure)
	for j := range w.nodes {
		x.cache[j] = decide.Fence{}
		x.sighted[j] = object{}
		x.members[j] = member{Member: membership.Member{Name: names[j], Kind: membership.Checkpointer}}
	}
	x.watch++
	x.broken = true
	w.tell("w%d: starts on host %d", i, x.host)
	w.after(0, watchAgain, i, 0, 0, x.watch)
	w.after(w.random.below(250*millisecond), watcherPings, i, 0, 0, x.process)
	w.after(w.random.below(second), watcherLease, i, 0, 0, x.process)
	w.after(w.random.below(500*millisecond), recoverLoop, i, 0, 0, x.process)
}

func (w *world) stopWatcher(i int) {
	x := &w.watchers[i]
	w.tell("w%d: ends", i)
	x.up = false
	x.process++
	x.watch++
}

func (w *world) handleWatcher(e *event) {
	i := int(e.a)
	x := &w.watchers[i]
	if e.kind == watcherStart {
		if !x.up && e.gen == x.process && (x.host >= len(w.nodes) || w.nodes[x.host].up) {
			w.startWatcher(i)
		}
		return
	}
	if !x.up {
		return
	}
	if until := w.watcherUntil(i); until > w.now {
		w.after(until-w.now, e.kind, i, int(e.b), e.ref, e.gen)
		return
	}
	switch e.kind {
	case watchHeard:
		if e.gen == x.watch && !x.broken {
			w.watched(x, int(e.b), &w.api.heard[e.ref])
		}
	case watchAgain:
		if e.gen == x.watch {
			w.list(x)
		}
	case watcherLooks:
		if e.gen == x.looks {
			w.step(i)
		}
	case watcherPings:
		if e.gen == x.process {
			w.pings(x)
			w.after(250*millisecond, watcherPings, i, 0, 0, x.process)
		}
	case watcherLease:
		if e.gen == x.process {
			w.send(call{kind: renewLead, host: x.host, who: i, process: x.process, deadline: w.now + 3*second/2, expected: w.now})
			w.after(second, watcherLease, i, 0, 0, x.process)
		}
	case guardAnswers:
		if e.gen == x.process {
			w.guarded(x, e.ref)
		}
	case recoverLoop:
		if e.gen == x.process {
			if w.now < x.leadsUntil {
				for j := range w.nodes {
					w.recoverNode(x, j)
				}
			}
			w.after(500*millisecond, recoverLoop, i, 0, 0, x.process)
		}
	}
}

// bring sends a change to the watchers' watches.
func (w *world) bring(i int, h heard) {
	w.api.heard = append(w.api.heard, h)
	ref := int32(len(w.api.heard) - 1)
	for k := range w.watchers {
		x := &w.watchers[k]
		if !x.up || x.broken {
			continue
		}
		d, ok := w.travel(w.api.host, x.host)
		if !ok {
			w.breakWatch(x)
			continue
		}
		x.delivered = max(x.delivered, w.now+d+w.random.below(x.watchLag))
		w.after(x.delivered-w.now, watchHeard, k, i, ref, x.watch)
	}
}

func (w *world) breakWatch(x *watcher) {
	if !x.broken {
		x.broken = true
		x.watch++
		w.after(w.random.between(second/10, 3*second), watchAgain, x.index, 0, 0, x.watch)
	}
}

// list makes a broken watch anew.
func (w *world) list(x *watcher) {
	if mode := w.api.mode; mode == silent || mode == refusing || !w.open(x.host, w.api.host) || !w.open(w.api.host, x.host) {
		w.after(w.random.between(second/10, second), watchAgain, x.index, 0, 0, x.watch)
		return
	}
	x.broken = false
	x.delivered = w.now
	for j := range w.nodes {
		w.recorded(x, j, w.api.records[j].view())
		w.sight(x, j, &w.api.objects[j])
	}
	w.step(x.index)
}

// watched takes in what the watch brought.
func (w *world) watched(x *watcher, j int, h *heard) {
	if h.what == heardFence {
		w.recorded(x, j, h.fence)
		w.step(x.index)
		return
	}
	if before := x.sighted[j]; before.boot != h.boot || before.tainted != h.tainted {
		w.sight(x, j, &h.object)
		w.step(x.index)
	} else {
		w.sight(x, j, &h.object)
	}
}

// recorded takes in a record as the watch brought it.
func (w *world) recorded(x *watcher, j int, view decide.Fence) {
	x.cache[j] = view
	x.sightings.Fence(x.clock.time(w.now), &v1alpha1.Fence{
		ObjectMeta: metav1.ObjectMeta{Name: names[j], Generation: view.Generation},
		Spec:       v1alpha1.FenceSpec{State: view.State, BootID: view.BootID, Peers: view.Peers},
	}, true)
}

// sight takes in a Node object and its Lease. The node's wall clock is seen against
// the watcher's.
func (w *world) sight(x *watcher, j int, o *object) {
	now := x.clock.time(w.now)
	if before := &x.sighted[j]; before.boot != o.boot || before.tainted != o.tainted {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: names[j]}}
		node.Status.NodeInfo.BootID = o.boot
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		if o.tainted {
			node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}}
		}
		x.sightings.Node(now, node, true)
	}
	if o.renewed != 0 {
		x.sightings.Lease(now, names[j], x.clock.time(0).Add(time.Duration(o.renewed)), true)
	}
	x.sighted[j] = *o
}

// step is one round of the watcher's loop.
func (w *world) step(i int) {
	x := &w.watchers[i]
	now := x.clock.time(w.now)
	x.view = x.view[:0]
	for j := range w.nodes {
		if x.cache[j].State == "" {
			continue
		}
		x.view = append(x.view, decide.Node{Fact: x.sightings.Fact(now, names[j], x.members[j].Member), Fence: x.cache[j]})
	}
	view := decide.View{Nodes: x.view}
	if w.plan.pausedFrom <= w.now && w.now < w.plan.pausedTo {
		view.Paused = "tried out"
	}
	actions, wake := x.machine.Step(now, view)
	actions = w.believe(x, actions)
	next := lookEvery
	if !wake.IsZero() {
		next = min(next, max(0, x.clock.when(int64(wake.Sub(epoch)))-w.now))
	}
	x.looks++
	w.after(max(next, 100_000), watcherLooks, i, 0, 0, x.looks)
	w.carryOut(x, actions)
}

// believe adds what a broken watcher takes as a proof.
func (w *world) believe(x *watcher, actions []decide.Action) []decide.Action {
	if !w.broken.otherBoot {
		return actions
	}
	for k := range x.view {
		view, name := &x.view[k].Fence, x.view[k].Fact.Node
		if boot := x.sighted[indexOf(name)].boot; view.State == v1alpha1.FenceLost && boot != "" && boot != view.BootID {
			actions = append(actions, decide.Action{Kind: decide.ConfirmFenced, Node: name, Proof: v1alpha1.ProofRebooted, Generation: view.Generation})
		}
	}
	return actions
}

// carryOut does what the machine decided.
func (w *world) carryOut(x *watcher, actions []decide.Action) {
	for k := range actions {
		a := &actions[k]
		j := indexOf(a.Node)
		w.mark(uint64(len(a.Kind))<<32 ^ uint64(j)<<8 ^ uint64(x.index))
		if w.trace != nil {
			w.tell("w%d decides: %s %s: %s", x.index, a.Kind, a.Node, a.Reason)
		}
		switch a.Kind {
		case decide.DeclareLost, decide.Withdraw:
			w.swap(x, j, *a)
		case decide.ConfirmFenced:
			w.lookBefore(x, j, *a)
		case decide.AskPeers:
			w.askPromises(x, j, a)
		case decide.Recover:
			w.recoverNode(x, j)
		case decide.ReportHeld:
			x.held[j] = a.Held
			w.stats.Refusals[a.Held]++
		case decide.ReportReleased:
			x.held[j] = ""
		}
	}
}

// swap writes a record by compare-and-swap with what was decided upon.
func (w *world) swap(x *watcher, j int, a decide.Action) {
	w.send(call{kind: swapRecord, host: x.host, who: x.index, process: x.process, node: j, action: a,
		expected: a.Generation, deadline: w.now + writeTime})
}

// lookBefore looks at a node before it is fenced, see guarded.
func (w *world) lookBefore(x *watcher, j int, a decide.Action) {
	d := w.random.between(millisecond, guardTime)
	ref := w.hold(call{kind: swapRecord, host: x.host, who: x.index, process: x.process, node: j, action: a, expected: a.Generation})
	w.after(d, guardAnswers, x.index, 0, ref, x.process)
}

// hold keeps a request that is not sent yet.
func (w *world) hold(c call) int32 {
	w.kept = append(w.kept, c)
	return int32(len(w.kept) - 1)
}

// guarded withdraws a declaration instead of fencing when the node's kubelet can be
// reached but its fencer does not answer: then nothing may have stopped its pods.
func (w *world) guarded(x *watcher, ref int32) {
	c := w.kept[ref]
	n := &w.nodes[c.node]
	reached := n.up && n.stalled <= w.now && w.open(x.host, n.index) && w.open(n.index, x.host)
	if reached && c.action.Proof == v1alpha1.ProofWaited && (!n.fencerUp || n.fencerStalled > w.now) {
		c.action.Kind = decide.Withdraw
		x.machine.Unguarded(names[c.node], "its fencer does not answer")
		w.stats.Unguarded++
	}
	c.deadline = w.now + writeTime
	w.send(c)
}

// askPromises asks a node's peers not to vouch for it any more.
func (w *world) askPromises(x *watcher, j int, a *decide.Action) {
	now := x.clock.time(w.now)
	for _, peer := range a.Peers {
		if w.broken.ignorePromises {
			x.machine.Promised(now, decide.Promise{Node: a.Node, Generation: a.Generation, Peer: peer, Promised: true, Asked: now})
			continue
		}
		p := indexOf(peer)
		if d, ok := w.travel(x.host, p); ok {
			q := w.newQuestion(question{peer: p, about: j, poll: -1, watcher: x.index, process: x.process, asked: w.now, record: a.Generation})
			w.after(d, peerAsked, p, 0, q, 0)
		}
	}
}

// watcherAnswered takes the answer to a watcher's request.
func (w *world) watcherAnswered(c *call) {
	x := &w.watchers[c.who]
	if !x.up || c.process != x.process {
		return
	}
	switch c.kind {
	case renewLead:
		if c.ok && c.won {
			x.leadsUntil = c.expected + leadTime
		} else if c.ok {
			x.leadsUntil = 0
		}
	case swapRecord:
		now := x.clock.time(w.now)
		if w.broken.countEarly {
			now = x.clock.time(c.sent)
		}
		w.carryOut(x, x.machine.Answer(now, names[c.node], c.view, !c.ok))
		w.step(x.index)
	default:
		w.recoverAnswered(x, c)
	}
}
