package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// secureEvery is how long the pods of a node count as secured after a sign that it
// may go.
const secureEvery = 10 * time.Minute

// tellAfter is how long there must have been a reason for doing nothing before it
// is told: most nodes that look lost for a moment are not.
const tellAfter = 2 * time.Second

// held is why nothing is done.
type held struct {
	reason v1alpha1.HeldReason
	text   string
}

// guard is what speaks against declaring or fencing nodes in one step.
type guard struct {
	config Config
	paused string
	storms map[string]string // by failure domain; "" is the cluster
	// fences is how many nodes were fenced lately, allowed how many may be.
	fences, allowed int
}

func (m *Machine) newGuard(paused string, known []Node) guard {
	g := guard{config: m.config, paused: paused, storms: map[string]string{"": m.storm("nodes", known)}, fences: len(m.fences),
		allowed: max(m.config.MaxFences, int(m.config.LostShare*float64(len(known))))}
	if !m.config.PerDomain {
		return g
	}
	domains := map[string][]Node{}
	for _, k := range known {
		domains[k.Fact.Domain] = append(domains[k.Fact.Domain], k)
	}
	delete(domains, "")
	for domain, members := range domains {
		g.storms[domain] = m.storm("nodes of failure domain "+domain, members)
	}
	return g
}

// against says what speaks against an action for a node, if anything.
func (g *guard) against(kind Kind, fact detect.Fact) held {
	if kind != DeclareLost && kind != ConfirmFenced {
		return held{}
	}
	switch {
	case g.paused != "":
		return held{v1alpha1.HeldPaused, "an operator has paused recoveries: " + g.paused}
	case g.storms[""] != "":
		return held{v1alpha1.HeldStormGuard, g.storms[""]}
	case g.storms[fact.Domain] != "":
		return held{v1alpha1.HeldStormGuard, g.storms[fact.Domain]}
	case kind == DeclareLost:
		return held{}
	case g.fences >= g.allowed:
		return held{v1alpha1.HeldRateLimited, fmt.Sprintf("%d nodes were fenced within %s, as many as may be", g.fences, g.config.FencesWithin)}
	}
	return held{}
}

// storm says why nothing may be done when too many nodes look lost, else "".
// Nodes that were fenced and have not come back count, too: else a partition
// would be taken apart one node after the other. A fenced node whose Node object
// was deleted is no part of the cluster any more.
func (m *Machine) storm(what string, known []Node) string {
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
	limit := max(1, int(m.config.LostShare*float64(total)))
	if len(lost) <= limit {
		return ""
	}
	return fmt.Sprintf("%d of %d %s look lost (%s), at most %d may: the fault may be the network's or the watcher's; "+
		"bring a node back, or delete its Node object if it will not return",
		len(lost), total, what, strings.Join(lost, ", "), limit)
}

// doubts says what speaks against fencing a lost node whose wait is over: its peers.
func (n *node) doubts(now time.Time, proof v1alpha1.FenceProof) held {
	switch {
	case proof != v1alpha1.ProofWaited || n.enough():
		return held{}
	case n.apiFailed(now):
		return held{v1alpha1.HeldAPIUnreachable, fmt.Sprintf("at least half of its peers (%s) cannot read the API either, so its pods may be running; "+
			"see to the API, or taint the node node.kubernetes.io/out-of-service once it is surely powered off", strings.Join(n.fence.Peers, ", "))}
	}
	return held{v1alpha1.HeldTooFewPeers, fmt.Sprintf("too few of its peers (%s) answer to be sure that none keeps its pods running; "+
		"bring them back, or taint the node node.kubernetes.io/out-of-service once it is surely powered off", strings.Join(n.fence.Peers, ", "))}
}

// hold tells when there has been a reason for doing nothing for a moment, when it
// changes, and when it ends.
func (n *node) hold(now time.Time, fact detect.Fact, why held) (actions []Action, wake time.Time) {
	if n.unguarded != "" {
		if n.aliveSince.IsZero() && n.fence.State != v1alpha1.FenceFenced {
			why = held{v1alpha1.HeldFencerSilent, n.unguarded}
		} else {
			n.unguarded = ""
		}
	}
	if why.reason != n.held.reason {
		n.heldSince = now
	}
	n.held = why
	switch told := n.told; {
	case why.reason == told:
		return nil, time.Time{}
	case why.reason != "":
		if due := n.heldSince.Add(tellAfter); due.After(now) {
			return nil, due
		}
		n.told = why.reason
		return []Action{{Kind: ReportHeld, Held: why.reason, LostAt: fact.LostAt(), Why: fact.Why, Reason: why.text}}, time.Time{}
	default:
		n.told = ""
		reason := fact.Reason
		if fact.State.Lost() {
			reason = "nothing speaks against its recovery any more"
		}
		return []Action{{Kind: ReportReleased, Reason: reason}}, time.Time{}
	}
}

// secure wants checkpoints of the node's pods when there is a new sign that it may
// go.
func (n *node) secure(now time.Time, fact detect.Fact) []Action {
	if n.fence.State != v1alpha1.FenceRunning || fact.State != detect.Alive {
		return nil
	}
	var messages []string
	for _, signal := range fact.Signals {
		if at, done := n.secured[signal.Reason]; !done || now.Sub(at) >= secureEvery {
			messages = append(messages, signal.Message)
		}
	}
	if len(messages) == 0 {
		return nil
	}
	for _, signal := range fact.Signals {
		n.secured[signal.Reason] = now
	}
	return []Action{{Kind: Secure, Why: fact.Signals[0].Reason, Reason: strings.Join(slices.Compact(messages), "; ")}}
}
