// Package decide holds the watcher's judgement: when a node is declared lost,
// when it counts as fenced, when its pods are recovered, and when to do nothing.
// It is pure: what is known and a time go in, actions come out, and the answers
// to the actions go in again.
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
	// lostShare is the share of the known nodes that may look lost at a time; one
	// always may. It is below one half on purpose: the side of a partition that
	// still has the API must be the larger one.
	lostShare = 0.4
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

// Fence is what is known of a node's fence record.
type Fence struct {
	// State is empty when the record does not exist.
	State v1alpha1.FenceState
	// Generation is the object's metadata.generation. Of two views of one
	// record the one with the higher generation is the newer.
	Generation int64
	// BootID is the boot of the node that the permission was given to.
	BootID string
}

// Node is what is known of one node.
type Node struct {
	Fact  detect.Fact
	Fence Fence
}

// Kind is what an Action does.
type Kind string

// The kinds of actions. The first three write the fence record by
// compare-and-swap, and Answer must be called with what became of the write.
const (
	DeclareLost    Kind = "DeclareLost"    // write Running → Lost
	ConfirmFenced  Kind = "ConfirmFenced"  // write Lost → Fenced, epoch + 1
	Withdraw       Kind = "Withdraw"       // write Lost → Running: the node lives after all
	Recover        Kind = "Recover"        // the node is fenced: move its protected pods
	ReportRefuted  Kind = "ReportRefuted"  // tell that the node refuted its declaration
	ReportRefusal  Kind = "ReportRefusal"  // tell that too many nodes look lost to act
	ReportAllClear Kind = "ReportAllClear" // tell that a refusal is over
)

// Action is one thing to do.
type Action struct {
	Kind Kind
	// Node is empty for the reports about a refusal.
	Node string
	// LostAt goes with DeclareLost: the last moment at which the node was known
	// to be alive.
	LostAt time.Time
	// Reason says why, in a sentence.
	Reason string
}

// Machine decides. It is not safe for use from several goroutines.
type Machine struct {
	terms   permission.Terms
	nodes   map[string]*node
	refusal string
}

// node is what the machine remembers of a node between two steps.
type node struct {
	fence Fence
	// lostSince is when the record was first known to say Lost: the answer to
	// the declaration, or when it was first seen. Zero while it does not.
	lostSince time.Time
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
}

// New returns a machine that knows nothing yet. What it learns of records that
// say Lost already it treats as declared just then, which is the safe side.
func New(terms permission.Terms) *Machine {
	return &Machine{terms: terms, nodes: map[string]*node{}}
}

// Step takes in all that is known and returns what to do, by node name, and
// when to step again if nothing changes before; zero means not at all.
func (m *Machine) Step(now time.Time, known []Node) (actions []Action, wake time.Time) {
	known = slices.Clone(known)
	slices.SortFunc(known, func(a, b Node) int { return strings.Compare(a.Fact.Node, b.Fact.Node) })
	seen := map[string]bool{}
	for _, k := range known {
		actions = append(actions, m.take(now, k.Fact.Node, k.Fence)...)
		m.nodes[k.Fact.Node].watch(now, k.Fact)
		seen[k.Fact.Node] = true
	}
	// A record that is made anew counts its generations anew.
	maps.DeleteFunc(m.nodes, func(name string, _ *node) bool { return !seen[name] })
	refusal := m.storm(known)
	held := false
	at := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	for _, k := range known {
		n := m.nodes[k.Fact.Node]
		action, due := n.next(m.terms, k.Fact)
		switch {
		case action.Kind == "" || n.pending:
		case due.After(now):
			at(due)
		case refusal != "" && (action.Kind == DeclareLost || action.Kind == ConfirmFenced):
			held = true
		default:
			if action.Kind == Recover {
				n.recovered = true
			} else {
				n.pending = true
			}
			action.Node = k.Fact.Node
			actions = append(actions, action)
		}
	}
	return append(actions, m.report(refusal, held)...), wake
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

// take remembers the newest view of a record, and notes a refutation.
func (m *Machine) take(now time.Time, name string, fence Fence) (actions []Action) {
	n := m.nodes[name]
	if n == nil {
		n = &node{}
		m.nodes[name] = n
	}
	if fence.State != "" && fence.Generation < n.fence.Generation {
		return nil // from before the machine's own last write
	}
	before := n.fence
	n.fence = fence
	if fence.State != v1alpha1.FenceFenced {
		n.recovered = false
	}
	if fence.State != v1alpha1.FenceLost {
		n.lostSince = time.Time{}
	} else if n.lostSince.IsZero() || fence.Generation != before.Generation {
		// A record that went from Lost to Lost was refuted and declared again
		// in between: the node may have read Running, so the wait starts anew.
		n.lostSince = now
	}
	if before.State == v1alpha1.FenceFenced && fence.State == v1alpha1.FenceRunning {
		n.coolUntil = now.Add(coolDown)
	}
	if before.State == v1alpha1.FenceLost && fence.State == v1alpha1.FenceRunning {
		n.coolUntil = now.Add(min(coolDown<<n.refutations, maxCoolDown))
		if coolDown<<n.refutations < maxCoolDown {
			n.refutations++
		}
		actions = append(actions, Action{Kind: ReportRefuted, Node: name,
			Reason: fmt.Sprintf("it is alive; it will not be declared lost again for %s", n.coolUntil.Sub(now))})
	}
	return actions
}

// watch keeps account of how long the node has been alive.
func (n *node) watch(now time.Time, fact detect.Fact) {
	switch {
	case fact.State != detect.Alive:
		n.aliveSince = time.Time{}
	case n.aliveSince.IsZero():
		n.aliveSince = now
	case now.Sub(n.aliveSince) >= steadyAfter:
		n.refutations = 0
	}
}

// next is what the node's record calls for, and when.
func (n *node) next(terms permission.Terms, fact detect.Fact) (Action, time.Time) {
	due := n.retryAt
	switch n.fence.State {
	case v1alpha1.FenceRunning:
		if !fact.State.Lost() {
			return Action{}, due
		}
		if n.coolUntil.After(due) {
			due = n.coolUntil
		}
		return Action{Kind: DeclareLost, LostAt: fact.LastAlive, Reason: fact.Reason}, due
	case v1alpha1.FenceLost:
		if fact.State == detect.Alive && fact.LastAlive.After(n.lostSince) && !rebooted(n.fence, fact) {
			return Action{Kind: Withdraw, Reason: fact.Reason}, due
		}
		if waited := n.lostSince.Add(terms.Wait()); waited.After(due) {
			due = waited
		}
		return Action{Kind: ConfirmFenced, Reason: fact.Reason}, due
	case v1alpha1.FenceFenced:
		if !n.recovered {
			return Action{Kind: Recover}, time.Time{}
		}
	}
	return Action{}, due
}

// rebooted says whether the node is alive again after a boot that ended its
// pods. Their checkpoints are better than to start anew there, and the node waits
// to be fenced.
func rebooted(fence Fence, fact detect.Fact) bool {
	return fence.BootID != "" && fact.BootID != "" && fence.BootID != fact.BootID
}

// storm says why nothing may be done when too many nodes look lost, else "".
// Nodes that were fenced and have not come back count, too: else a partition
// would be taken apart one node after the other. A fenced node whose Node object
// was deleted is no part of the cluster any more.
func (m *Machine) storm(known []Node) string {
	total := 0
	var lost []string
	for _, k := range known {
		switch state := m.nodes[k.Fact.Node].fence.State; {
		case state == "", k.Fact.State == detect.Gone:
			continue
		case state != v1alpha1.FenceRunning, k.Fact.State.Lost():
			lost = append(lost, k.Fact.Node)
		}
		total++
	}
	limit := max(1, int(lostShare*float64(total)))
	if len(lost) <= limit {
		return ""
	}
	return fmt.Sprintf("%d of %d nodes look lost (%s), at most %d may: the fault may be the network's or the watcher's; "+
		"bring a node back, or delete its Node object if it will not return",
		len(lost), total, strings.Join(lost, ", "), limit)
}

// report tells a refusal when it begins or changes, and when it is over.
func (m *Machine) report(refusal string, held bool) []Action {
	before := m.refusal
	switch {
	case refusal == "" && before != "":
		m.refusal = ""
		return []Action{{Kind: ReportAllClear, Reason: "few enough nodes look lost"}}
	case refusal != "" && held && refusal != before:
		m.refusal = refusal
		return []Action{{Kind: ReportRefusal, Reason: refusal}}
	}
	return nil
}
