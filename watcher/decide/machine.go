package decide

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

const (
	// coolDown is how long after a refuted declaration the same node is not
	// declared again. It doubles with each refutation in a row, up to maxCoolDown.
	// A node that has come back from Fenced has as long to become a member again.
	coolDown    = 5 * time.Second
	maxCoolDown = time.Minute
	// steadyAfter is how long a node must have been alive without a break for
	// its refutations to be forgotten.
	steadyAfter = time.Minute
	// retryAfter is the pause before a failed write is tried again.
	retryAfter = 200 * time.Millisecond
)

// Machine decides. It is not safe for use from several goroutines.
type Machine struct {
	config Config
	nodes  map[string]*node
	fences []time.Time // when records were seen to become Fenced, within FencesWithin
}

// node is what the machine remembers of a node between two steps.
type node struct {
	fence Fence
	// lostSince is when the record was first known to say Lost: the answer to
	// the declaration, or when it was first seen. Zero while it does not.
	lostSince time.Time
	promises  promises
	// pending is whether a write of the record has not been answered yet.
	pending bool
	retryAt time.Time
	// recovered is whether Recover was given for this Fenced.
	recovered bool
	// refutations in a row, and until when no declaration is made.
	refutations int
	coolUntil   time.Time
	// aliveSince is since when the node has been alive without a break.
	aliveSince time.Time
	// ranBoot is the boot that has the permission, once its kubelet has reported
	// it: another boot reported after that began later.
	ranBoot string
	// ranUntil is when that boot was last known to be alive.
	ranUntil time.Time
	taint    taint
	// held is why nothing is done although the node looks lost, heldSince since
	// when, and told what was told of it. Unguarded is the sentence if the reason
	// is that nothing there stops its pods.
	held      held
	heldSince time.Time
	told      v1alpha1.HeldReason
	unguarded string
	// secured is when the pods were last secured, for each reason.
	secured map[v1alpha1.MigrationReason]time.Time
}

// New returns a machine that knows nothing yet. What it learns of records that
// say Lost already it treats as declared just then, which is the safe side.
func New(config Config) *Machine {
	return &Machine{config: config.complete(), nodes: map[string]*node{}}
}

// Step takes in all that is known and returns what to do, by node name, and
// when to step again if nothing changes before; zero means not at all.
func (m *Machine) Step(now time.Time, view View) (actions []Action, wake time.Time) {
	known := slices.Clone(view.Nodes)
	slices.SortFunc(known, func(a, b Node) int { return strings.Compare(a.Fact.Node, b.Fact.Node) })
	seen := map[string]bool{}
	for _, k := range known {
		actions = append(actions, m.take(now, k.Fact.Node, k.Fence)...)
		m.nodes[k.Fact.Node].watch(now, k.Fact)
		seen[k.Fact.Node] = true
	}
	// A record that is made anew counts its generations anew.
	maps.DeleteFunc(m.nodes, func(name string, _ *node) bool { return !seen[name] })
	m.fences = slices.DeleteFunc(m.fences, func(at time.Time) bool { return now.Sub(at) >= m.config.FencesWithin })
	guard := m.newGuard(view.Paused, known)
	at := func(t time.Time) {
		if !t.IsZero() && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
	}
	for _, k := range known {
		n := m.nodes[k.Fact.Node]
		next, due := n.next(m.config.Terms, k.Fact)
		var asked []Action
		if next.Proof == v1alpha1.ProofWaited {
			var again time.Time
			asked, again = n.ask(now)
			at(again)
		}
		why := guard.against(next.Kind, k.Fact)
		switch {
		case n.pending:
			why = n.held
		case next.Kind == "":
		case due.After(now):
			at(due)
			if next.Kind == DeclareLost && why.reason == "" && n.coolUntil.After(now) && n.refutations > 0 {
				why = held{v1alpha1.HeldCoolDown, fmt.Sprintf("it has refuted a declaration, and is not declared again for %s", n.coolUntil.Sub(now).Round(time.Millisecond))}
			}
		case why.reason != "":
		default:
			if next.Kind == ConfirmFenced {
				if why = n.doubts(now, next.Proof); why.reason != "" {
					break
				}
				guard.fences++
			}
			n.recovered = next.Kind == Recover
			n.pending = next.Kind != Recover
			next.Generation = n.fence.Generation
			actions = append(actions, next.of(k.Fact.Node))
		}
		holds, matured := n.hold(now, k.Fact, why)
		at(matured)
		for _, more := range [][]Action{asked, holds, n.secure(now, k.Fact)} {
			for _, a := range more {
				actions = append(actions, a.of(k.Fact.Node))
			}
		}
	}
	return actions, wake
}

func (a Action) of(node string) Action {
	a.Node = node
	return a
}

// Answer takes in what became of a write: the record as it is now, or failed
// when that is not known.
func (m *Machine) Answer(now time.Time, name string, fence Fence, failed bool) []Action {
	n := m.nodes[name]
	if n == nil {
		return nil
	}
	n.pending = false
	if failed {
		n.retryAt = now.Add(retryAfter)
		return nil
	}
	return m.take(now, name, fence)
}

// Unguarded takes in, before the answer to ConfirmFenced, that the declaration is
// withdrawn instead: the node lives, and nothing there stops its pods.
func (m *Machine) Unguarded(name, why string) {
	if n := m.nodes[name]; n != nil {
		n.unguarded = why
	}
}

// take remembers the newest view of a record, and notes a refutation.
func (m *Machine) take(now time.Time, name string, fence Fence) (actions []Action) {
	n := m.nodes[name]
	if n == nil {
		n = &node{secured: map[v1alpha1.MigrationReason]time.Time{}}
		m.nodes[name] = n
	}
	if fence.State != "" && fence.Generation < n.fence.Generation {
		return nil // from before the machine's own last write
	}
	before := n.fence
	n.fence = fence
	if fence.State != v1alpha1.FenceFenced {
		n.recovered = false
	} else if before.State != "" && before.State != v1alpha1.FenceFenced {
		m.fences = append(m.fences, now)
	}
	if fence.State != v1alpha1.FenceLost {
		n.lostSince, n.promises = time.Time{}, promises{}
	} else if n.lostSince.IsZero() || fence.Generation != before.Generation {
		// A record that went from Lost to Lost was refuted and declared again
		// in between: the node may have read Running, so the wait starts anew.
		n.lostSince, n.promises = now, promises{}
	}
	if before.State == v1alpha1.FenceFenced && fence.State == v1alpha1.FenceRunning {
		n.coolUntil = now.Add(coolDown)
		n.taint.counts = false
	}
	if before.State == v1alpha1.FenceLost && fence.State == v1alpha1.FenceRunning {
		n.coolUntil = now.Add(min(coolDown<<n.refutations, maxCoolDown))
		if coolDown<<n.refutations < maxCoolDown {
			n.refutations++
		}
		if n.unguarded == "" {
			actions = append(actions, Action{Kind: ReportRefuted, Node: name,
				Reason: fmt.Sprintf("it is alive; it will not be declared lost again for %s", n.coolUntil.Sub(now))})
		}
	}
	return actions
}

// watch keeps account of how long the node has been alive, and of its boots.
func (n *node) watch(now time.Time, fact detect.Fact) {
	switch {
	case fact.State != detect.Alive:
		n.aliveSince = time.Time{}
	case n.aliveSince.IsZero():
		n.aliveSince = now
	case now.Sub(n.aliveSince) >= steadyAfter:
		n.refutations = 0
	}
	if fact.BootID != "" && fact.BootID == n.fence.BootID {
		n.ranBoot, n.ranUntil = fact.BootID, fact.LastAlive
	}
	n.taint.watch(now, n.fence.BootID, fact)
}

// next is what the node's record calls for, and when.
func (n *node) next(terms permission.Terms, fact detect.Fact) (Action, time.Time) {
	due := n.retryAt
	switch n.fence.State {
	case v1alpha1.FenceRunning:
		if n.rebooted(fact) {
			// Its pods ended with the boot, whatever else is known of it: it is declared
			// before the new boot takes the record over and starts them anew.
			return Action{Kind: DeclareLost, LostAt: n.ranUntil, Why: v1alpha1.MigrationNodeRebooted, Reason: "it has booted since"}, due
		}
		if !fact.State.Lost() {
			return Action{}, due
		}
		if n.coolUntil.After(due) {
			due = n.coolUntil
		}
		return Action{Kind: DeclareLost, LostAt: fact.LostAt(), Why: fact.Why, Reason: fact.Reason}, due
	case v1alpha1.FenceLost:
		if fact.State == detect.Alive && fact.LastAlive.After(n.lostSince) && !otherBoot(n.fence, fact) {
			return Action{Kind: Withdraw, Reason: fact.Reason}, due
		}
		proof, reason := n.proof(fact)
		if proof == v1alpha1.ProofWaited {
			if waited := n.waitFrom().Add(terms.Wait()); waited.After(due) {
				due = waited
			}
		}
		return Action{Kind: ConfirmFenced, Proof: proof, Reason: reason}, due
	case v1alpha1.FenceFenced:
		if !n.recovered {
			return Action{Kind: Recover}, time.Time{}
		}
	}
	return Action{}, due
}

// proof is what makes sure that the copies on a lost node run no more.
func (n *node) proof(fact detect.Fact) (v1alpha1.FenceProof, string) {
	switch {
	case n.rebooted(fact):
		return v1alpha1.ProofRebooted, "it has booted since"
	case n.taint.counts && fact.State != detect.Alive:
		return v1alpha1.ProofOutOfService, "it does not answer, and was tainted out-of-service"
	}
	return v1alpha1.ProofWaited, fact.Reason
}

// rebooted says whether the boot that has the permission has surely ended: it was
// reported, and then another one.
func (n *node) rebooted(fact detect.Fact) bool {
	return n.ranBoot != "" && n.ranBoot == n.fence.BootID && otherBoot(n.fence, fact)
}

// taint is somebody's word that a node is powered off. It speaks for the boot that
// had the permission when the taint came, and only if the node was silent from then
// on: often a node boots again before anybody takes the taint off.
type taint struct {
	// missing is whether the node was seen without one: only of a taint that is seen
	// to come is it known what it speaks for.
	missing bool
	counts  bool
	since   time.Time
	boot    string
}

// taintSlack is how long after the taint came the node may still seem to have lived:
// news of it take other ways.
const taintSlack = 3 * time.Second

func (t *taint) watch(now time.Time, boot string, fact detect.Fact) {
	switch {
	case !fact.OutOfService:
		*t = taint{missing: true}
	case t.missing:
		*t = taint{counts: true, since: now, boot: boot}
	case t.boot != boot, fact.LastAlive.After(t.since.Add(taintSlack)):
		t.counts = false
	}
}

// otherBoot says whether the kubelet reports another boot than the one that has
// the permission. That can be a later one, which ended the node's pods, or, where
// the report is old, an earlier one. Such a node is not asked back: it waits to be
// fenced, because checkpoints are better than to start anew there.
func otherBoot(fence Fence, fact detect.Fact) bool {
	return fence.BootID != "" && fact.BootID != "" && fence.BootID != fact.BootID
}
