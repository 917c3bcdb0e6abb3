package main

import (
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
)

// flavour is the kind of a history.
type flavour uint8

const (
	mixed    flavour = iota // any faults, at any time
	directed                // few faults, at the protocol's own moments
	outage                  // the API fails, and nothing else
	loss                    // nodes lose power, and little else
	restarts                // fencers and watchers end and start, peers come and go
	flavours
)

var flavourNames = [flavours]string{"mixed", "directed", "API outage alone", "node losses", "restarts"}

// draw makes the plan of a history.
func (w *world) draw() plan {
	r := &w.random
	p := plan{faults: w.plan.faults[:0]}
	w.count = int(r.between(3, maxNodes))
	switch r.below(16) {
	case 0, 1, 2, 3, 4:
		p.flavour = mixed
	case 5, 6, 7, 8, 9:
		p.flavour = directed
	case 10, 11:
		p.flavour = outage
	case 12, 13:
		p.flavour = loss
	default:
		p.flavour = restarts
	}
	w.calmAt = r.between(8*second, 30*second)
	if p.flavour == mixed && r.chance(25) {
		w.calmAt += 15 * second
	}
	w.end = w.calmAt + settleTime
	latest := w.calmAt - 2*second
	beyond := r.chance(20)
	if p.flavour != outage && beyond && r.chance(50) {
		p.beyondDrift = r.below(10_000)
	}
	if p.flavour != outage && r.chance(4) {
		p.pausedFrom = r.below(latest)
		p.pausedTo = min(p.pausedFrom+r.below(10*second), w.calmAt)
	}
	p.perDomain = r.chance(10)
	p.alone = p.flavour != outage && r.chance(4)
	switch p.flavour {
	case outage:
		f := w.newFault(&p, []faultKind{apiRefuses, apiSilent}, latest)
		f.from = r.between(3*second, 5*second)
		f.d = r.between(second, w.calmAt-f.from)
		if r.chance(30) {
			w.newFault(&p, []faultKind{fencerRestart}, latest)
		}
	case loss:
		for range r.between(1, 2) {
			w.newFault(&p, []faultKind{powerLoss, powerLoss, reboot, outOfService}, latest)
		}
		if r.chance(50) {
			w.newFault(&p, mild, latest)
		}
	case directed:
		w.direct(&p, latest, beyond)
	case restarts:
		for range r.between(1, 3) {
			w.newFault(&p, []faultKind{fencerRestart, rollout, hideMembers, apiSlow, apiSilent, cutAPI, fencerRestart, watcherRestart}, latest)
		}
		w.direct(&p, latest, beyond)
	default:
		for range r.between(1, 5) {
			w.newFault(&p, kindsOf(beyond), latest)
		}
	}
	return p
}

var (
	mild    = []faultKind{lagging, lossy, watcherRestart, watchLag, statusWrites, wallJump, fencerStall, nodeStall, cutWatcherAPI}
	within  = []faultKind{powerLoss, powerLoss, reboot, cutGroupAPI, cutGroupAPI, cutNode, cutAPI, cutAPIOneWay, cutWatchers, cutPeers, cutWatcherAPI, cutGroup, cutGroup, flap, lagging, laggingWatchers, lossy, apiRefuses, apiSilent, apiSlow, fencerStall, nodeStall, watcherStall, watcherRestart, falseSuspicion, hideMembers, wallJump, watchLag, statusWrites, outOfService, bothLead}
	further = append([]faultKind{fencerHang, nodeHang, fencerRestart, nodeHang}, within...)
	// sudden are faults for the protocol's own moments.
	sudden = []faultKind{cutAPI, cutAPI, cutGroupAPI, cutGroupAPI, reboot, cutAPIOneWay, cutNode, cutGroup, apiSilent, apiRefuses, apiSlow, fencerStall, nodeStall, watcherStall, watcherRestart, fencerRestart, powerLoss, cutPeers, lagging, bothLead}
)

func kindsOf(beyond bool) []faultKind {
	if beyond {
		return further
	}
	return within
}

// newFault draws a fault of one of some kinds.
func (w *world) newFault(p *plan, kinds []faultKind, latest int64) *fault {
	r := &w.random
	f := fault{kind: kinds[r.below(int64(len(kinds)))], from: r.between(second, latest), node: int(r.below(int64(w.count))),
		side: uint16(r.next()), way: int(r.below(16)) &^ 4}
	f.d = r.between(second/5, 6*second)
	if r.chance(30) {
		f.d = r.between(6*second, 20*second)
	}
	switch f.kind {
	case powerLoss:
		if r.chance(50) {
			f.d = 0
		}
	case reboot:
		f.d = r.between(second/2, 4*second)
	case lagging, laggingWatchers:
		f.size = r.between(5*millisecond, 800*millisecond)
	case lossy:
		f.size = r.between(10, 400)
	case fencerStall, nodeStall:
		f.d = r.upTo(int64(w.terms.Slack))
	case fencerHang, nodeHang:
		f.d = int64(w.terms.Slack) + r.upTo(5*second)
	case watcherStall:
		f.d = r.upTo(6 * second)
	case fencerRestart, rollout:
		f.d = r.between(second/5, 3*second)
		if r.chance(60) {
			f.d = r.upTo(int64(w.terms.Slack))
		}
	case falseSuspicion:
		f.d = r.between(second/2, 5*second)
	case flap:
		f.size = r.between(second/5, 3*second/2)
		f.way = int(r.between(2, 8)) // how often
	case wallJump:
		f.size = r.between(-3600*second, 3600*second)
		if r.chance(50) {
			f.size = r.between(-3*second, 3*second)
		}
	case watchLag:
		f.size = r.between(50*millisecond, 4*second)
	case statusWrites:
		f.size = r.between(20*millisecond, second)
	}
	p.faults = append(p.faults, f)
	return &p.faults[len(p.faults)-1]
}

// prepare makes the world as it is when a history begins: all is well, and has
// been for a while.
func (w *world) prepare() {
	r := &w.random
	w.api = api{host: w.count, calls: w.api.calls[:0], free: w.api.free[:0], heard: w.api.heard[:0]}
	if cap(w.api.calls) == 0 {
		w.api.calls = make([]call, 0, maxCalls)
	}
	w.kept = w.kept[:0]
	w.nodes = w.nodes[:w.count]
	w.pods = w.pods[:0]
	// The watchers' clocks run the fastest, the nodes' the slowest that the terms allow.
	edge := int64(w.terms.Drift*1e6)/2 - 50
	for i := range w.nodes {
		n := &w.nodes[i]
		copies := n.copies[:0]
		*n = node{index: i, up: true, boot: 1, copies: copies, staleSince: -1, stallTo: -10 * second, restartedAt: -1}
		n.clock = clock{base: 1000 * second, ppm: r.upTo(2*edge) - edge}
		if n.tardy = r.chance(30); n.tardy {
			n.stallTo, n.stallSum = 1<<60, int64(w.terms.Slack) // no further stall is within the terms
		}
		if n.tardy || r.chance(40) {
			n.clock.ppm = -edge
		}
		n.clock.ppm -= w.plan.beyondDrift
		if r.chance(10) {
			n.skew = r.between(-10*second, 10*second)
		}
	}
	for i := range w.nodes {
		n := &w.nodes[i]
		peers := make([]string, 0, maxNodes)
		for j := range w.nodes {
			if j != i && !w.plan.alone && !r.chance(10) {
				peers = append(peers, names[j])
			}
		}
		w.api.records[i] = record{generation: 1, read: &fence.Record{Version: "1", State: v1alpha1.FenceRunning, Epoch: 1,
			BootID: bootIDs[i][1], Peers: peers}, fencedAt: -1, refutedAt: -1}
		w.api.objects[i] = object{boot: bootIDs[i][1]}
		n.publishedUntil, n.publishedEpoch = w.instant(n).Add(w.terms.Period), 1
		n.permitted = true
		w.startFencer(n)
		// It has run for long: it has nothing to be silent about.
		n.vouching = fence.NewVouching(w.terms, w.instant(n)-fence.Instant(w.terms.PromiseFor)-1)
		n.watch = 1
		w.after(r.below(10*second), kubeletReports, i, 0, 0, 1)
		for range r.between(1, 2) {
			p := len(w.pods)
			w.pods = append(w.pods, pod{uid: 1, node: i, version: 1})
			n.believes[p] = 1
			n.ran[p], n.ranUID[p] = 1, 1
			n.copies = append(n.copies, running{pod: p, uid: 1, epoch: 1})
		}
	}
	w.api.version = 1
	apart := r.chance(30)
	for k := range w.watchers {
		view := w.watchers[k].view
		w.watchers[k] = watcher{index: k, host: int(r.below(int64(w.count))), view: view}
		if apart {
			w.watchers[k].host = w.count + 1 + k
		}
		w.watchers[k].clock = clock{ppm: r.upTo(2*edge) - edge}
		if r.chance(40) {
			w.watchers[k].clock.ppm = edge
		}
	}
	if !apart && w.watchers[0].host == w.watchers[1].host {
		w.watchers[1].host = (w.watchers[0].host + 1) % w.count
	}
	for k := range w.watchers {
		w.startWatcher(k)
	}
	for k := range w.plan.faults {
		if f := &w.plan.faults[k]; f.on == atTime {
			w.after(f.from, faultBegins, 0, 0, int32(k), 0)
		}
	}
	w.after(w.calmAt, calmBegins, 0, 0, 0, 0)
}
