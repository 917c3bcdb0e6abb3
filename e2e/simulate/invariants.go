package main

import (
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// settleTime is how long after the last fault everything must be well again.
	settleTime = 22 * second
	// leaseTime is how much longer it may take to notice the loss of a node that was
	// lost before any watcher that is left was started.
	leaseTime = 45 * second
)

// check looks at who runs. It is called whenever that may have changed.
func (w *world) check() {
	var running, excused [maxPods]int8
	for i := range w.nodes {
		n := &w.nodes[i]
		stale := false
		if n.up && !n.frozen && n.stalled <= w.now {
			r := w.api.records[i].read
			for k := range n.copies {
				c := &n.copies[k]
				if c.starting {
					continue
				}
				running[c.pod]++
				if r != nil && c.epoch < r.Epoch {
					stale = true
					excused[c.pod]++
				}
			}
		}
		w.checkStale(n, stale)
	}
	for p := range w.pods {
		switch {
		case running[p] <= 1:
		case excused[p] == 0:
			w.fail("pod %d runs twice, and no stall explains it", p)
		default:
			w.stats.Overlaps++
		}
	}
}

// checkStale looks at a node's copies of epochs before the last fencing. They may
// not run, unless the node stood still for longer than the terms allow, or clocks
// ran further apart, and then no longer than that explains.
func (w *world) checkStale(n *node, stale bool) {
	if !stale && n.staleSince < 0 {
		return
	}
	allowed := n.excusedTo
	if drift := w.plan.beyondDrift; drift > 0 {
		allowed = max(allowed, w.api.records[n.index].fencedAt+2*int64(w.terms.Period)/1e6*drift+millisecond)
	}
	if w.now > allowed {
		r := &w.api.records[n.index]
		w.fail("%s runs a copy of an older epoch %.1f ms after it was fenced (%s), and no stall explains it",
			names[n.index], float64(w.now-r.fencedAt)/1e6, r.proof)
	}
	switch {
	case stale && n.staleSince < 0:
		n.staleSince = w.now
		w.stats.Beyond++
		w.tell("%s runs copies of an older epoch: a stall beyond the terms, or drift", names[n.index])
	case !stale:
		w.stats.LongestBeyond = max(w.stats.LongestBeyond, w.now-n.staleSince)
		n.staleSince = -1
	}
}

// froze is called when a node's pods have been frozen. When only the API fails,
// none may be, unless fencers were started anew in the outage: such a one has no
// permission that peers could extend, and speaks for nobody for a while.
func (w *world) froze(n *node) {
	w.tell("%s: frozen", names[n.index])
	if w.plan.flavour != outage || n.restartedAt >= 0 {
		return
	}
	peers, silent := w.api.records[n.index].read.Peers, 0
	for _, peer := range peers {
		if w.nodes[indexOf(peer)].restartedAt >= 0 {
			silent++
		}
	}
	if len(peers) > 0 && 2*(len(peers)-silent) >= len(peers) {
		w.fail("%s is frozen although only the API fails, and %d of its %d peers have run all the time", names[n.index], len(peers)-silent, len(peers))
	}
}

// atEnd looks at the end of a history if everything is well again.
func (w *world) atEnd() {
	for i := range w.nodes {
		n, r := &w.nodes[i], &w.api.records[i]
		if !n.up || w.excused(i) {
			continue
		}
		switch {
		case r.read == nil || r.read.State != v1alpha1.FenceRunning:
			w.fail("the faults are over, but the record of %s is %+v", names[i], r.read)
		case n.frozen || !n.permitted:
			w.fail("the faults are over, but %s has no permission", names[i])
		}
	}
	for p := range w.pods {
		pod := &w.pods[p]
		if pod.node < 0 {
			w.fail("pod %d has no node", p)
			continue
		}
		n := &w.nodes[pod.node]
		if w.excused(pod.node) || w.now-pod.bornAt < 8*second && pod.bornAt > 0 {
			continue
		}
		if i := n.find(p, pod.uid); i < 0 || n.copies[i].starting {
			w.fail("pod %d does not run, nor does anything hold its recovery from %s; its record is %+v, the watchers say %q and %q",
				p, names[pod.node], w.api.records[pod.node].read, w.watchers[0].held[pod.node], w.watchers[1].held[pod.node])
		}
	}
}

// excused says whether something holds the recovery of a node's pods rightly: a
// guard against storms, a node that has just refuted a declaration, a recovery
// that has just begun, or no watcher at all.
func (w *world) excused(i int) bool {
	r := &w.api.records[i]
	if r.lostAt > w.now-12*second || r.fencedAt > w.now-12*second || r.refutedAt > w.now-5*second {
		return true
	}
	watchers := 0
	met := w.watchers[0].up && w.watchers[0].members[i].State != "" || w.watchers[1].up && w.watchers[1].members[i].State != ""
	for k := range w.watchers {
		x := &w.watchers[k]
		if !x.up || met && x.members[i].State == "" {
			continue // one that has not met the node leaves it to the other for now
		}
		switch x.held[i] {
		case v1alpha1.HeldStormGuard, v1alpha1.HeldRateLimited, v1alpha1.HeldCoolDown:
		case v1alpha1.HeldTooFewPeers:
			if !w.tooFew(i) {
				watchers++
			}
		default:
			watchers++
		}
	}
	return watchers == 0
}

// unseen says whether a node is gone that no watcher has met as a member.
func (w *world) unseen() bool {
	for i := range w.nodes {
		met := w.nodes[i].up
		for k := range w.watchers {
			met = met || w.watchers[k].up && w.watchers[k].members[i].State != ""
		}
		if !met {
			return w.watchers[0].up || w.watchers[1].up
		}
	}
	return false
}

// tooFew says whether so many of a node's peers are gone that no majority is left.
func (w *world) tooFew(i int) bool {
	there, peers := 0, w.api.records[i].read.Peers
	for _, peer := range peers {
		if n := &w.nodes[indexOf(peer)]; n.up && n.fencerUp {
			there++
		}
	}
	return 2*there <= len(peers)
}
