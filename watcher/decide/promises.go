package decide

import (
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// askEvery is how often the peers of a lost node are asked until enough have promised.
const askEvery = 500 * time.Millisecond

// promises is what the peers of a lost node have answered.
type promises struct {
	// asked is when each peer that promised was asked, and unreadable the same for
	// those that cannot read the API.
	asked, unreadable map[string]time.Time
	// since is when enough had promised; zero before that.
	since   time.Time
	nextAsk time.Time
}

// Promised takes in one peer's answer.
func (m *Machine) Promised(now time.Time, p Promise) {
	n := m.nodes[p.Node]
	if n == nil || n.fence.State != v1alpha1.FenceLost || n.fence.Generation != p.Generation || !n.promises.since.IsZero() {
		return
	}
	in := &n.promises
	if in.asked == nil {
		in.asked, in.unreadable = map[string]time.Time{}, map[string]time.Time{}
	}
	if !p.Promised {
		in.unreadable[p.Peer] = now
		return
	}
	in.asked[p.Peer] = p.Asked
	delete(in.unreadable, p.Peer)
	count := 0
	for _, peer := range n.fence.Peers {
		if at, ok := in.asked[peer]; ok && now.Sub(at) <= m.config.Terms.PromiseUsable() {
			count++
		}
	}
	if 2*count > len(n.fence.Peers) {
		in.since = now
	}
}

// enough says whether no peer's word can keep the node running any more.
func (n *node) enough() bool { return len(n.fence.Peers) == 0 || !n.promises.since.IsZero() }

// waitFrom is when the wait begins. While promises are missing it is a moment that
// is as good as any for looking again: the guard keeps the node from being fenced.
func (n *node) waitFrom() time.Time {
	if n.promises.since.After(n.lostSince) {
		return n.promises.since
	}
	return n.lostSince
}

// ask asks the peers of a lost node, again and again until enough have promised.
func (n *node) ask(now time.Time) (actions []Action, wake time.Time) {
	if n.enough() {
		return nil, time.Time{}
	}
	in := &n.promises
	if !now.Before(in.nextAsk) {
		in.nextAsk = now.Add(askEvery)
		actions = []Action{{Kind: AskPeers, Generation: n.fence.Generation, Peers: n.fence.Peers}}
	}
	return actions, in.nextAsk
}

// apiFailed says whether at least half of the peers answered lately that they
// cannot read the API.
func (n *node) apiFailed(now time.Time) bool {
	count := 0
	for _, at := range n.promises.unreadable {
		if now.Sub(at) <= 4*askEvery {
			count++
		}
	}
	return count > 0 && 2*count >= len(n.fence.Peers)
}
