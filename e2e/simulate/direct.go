package main

// direct makes a suspicion of a living node, and what follows it at the protocol's
// own moments. At random times the worst would hardly ever come together.
func (w *world) direct(p *plan, latest int64, beyond bool) {
	r := &w.random
	p.armed = true
	suspicion := w.newFault(p, []faultKind{falseSuspicion, falseSuspicion, falseSuspicion, cutWatchers, cutNode, cutGroupAPI}, latest)
	node := suspicion.node
	suspicion.d = r.between(second, 8*second)
	suspicion.way |= int(r.below(2)) * 8
	first := len(p.faults) - 1
	switch r.below(8) {
	case 0, 1:
		w.breakProtocol(p, node, latest, beyond)
		return
	case 2, 3:
		w.cutInTime(p, first, latest)
	case 4:
		w.breakPromises(p, node, latest)
	case 5:
		w.failLater(p, node, latest)
	case 6:
		w.changePeers(p, node, latest)
	default:
		w.deleteLate(p, node, latest)
	}
	// Both watchers suspect the node, at once and just after one of its reads: its
	// permission then lasts as long as any can.
	suspicion = &p.faults[first]
	if suspicion.kind == falseSuspicion {
		suspicion.way |= 2 | 8
		suspicion.d = r.between(4*second, 8*second)
		if r.chance(70) {
			suspicion.on, suspicion.delay = onRead, r.upTo(5*millisecond)
		}
	}
}

// follow adds a fault that follows a moment of the protocol at a node.
func (w *world) follow(p *plan, kind faultKind, on trigger, node int, latest int64) *fault {
	f := w.newFault(p, []faultKind{kind}, latest)
	f.on, f.node, f.from, f.delay = on, node, 0, 0
	f.side |= 1 << node
	return f
}

// breakProtocol lets anything happen at any moment.
func (w *world) breakProtocol(p *plan, node int, latest int64, beyond bool) {
	r := &w.random
	for range r.between(1, 3) {
		kinds := sudden
		if beyond {
			kinds = append(kinds[:len(kinds):len(kinds)], fencerHang, nodeHang, nodeHang)
		}
		on := trigger(r.between(int64(onLost), int64(onMark)))
		if r.chance(40) {
			on = onLost
		}
		f := w.follow(p, kinds[r.below(int64(len(kinds)))], on, node, latest)
		f.delay = r.upTo(100 * millisecond)
		if r.chance(30) {
			f.delay = r.upTo(3 * second)
		}
		if r.chance(20) {
			f.node = int(r.below(int64(w.count)))
		}
		if on == onPoll {
			f.way |= 4
		}
	}
}

// cutInTime cuts the node off when it is declared lost: it never learns of that.
// What the watchers send may take long just then.
func (w *world) cutInTime(p *plan, first int, latest int64) {
	r, node := &w.random, p.faults[first].node
	f := w.follow(p, []faultKind{cutAPI, cutAPI, cutNode, cutGroup, cutGroupAPI}[r.below(5)], onLost, node, latest)
	f.d = r.between(4*second, 12*second)
	f.side &= uint16(r.next()) | 1<<node
	if r.chance(50) {
		f = w.follow(p, laggingWatchers, onRead, node, latest)
		f.from, f.d = p.faults[first].from, r.between(second/2, 2*second)
		p.alone = r.chance(50)
	}
}

// breakPromises cuts peers off from the API, and starts their fencers anew, as
// soon as they have promised.
func (w *world) breakPromises(p *plan, node int, latest int64) {
	r := &w.random
	f := w.follow(p, cutAPI, onLost, node, latest)
	f.d = r.between(4*second, 12*second)
	half, other := r.next(), r.next()
	side := uint16(half | other)
	f = w.follow(p, cutGroupAPI, onPromise, node, latest)
	f.side, f.delay, f.d = side, r.upTo(20*millisecond), r.between(3*second, 8*second)
	delay := f.delay
	f = w.follow(p, rollout, onPromise, node, latest)
	f.side, f.d = side&^(1<<node), r.upTo(int64(w.terms.Slack))
	f.delay = delay + r.upTo(200*millisecond)
}

// failLater lets the API fail for many when promises have run out, while the
// fenced node is still cut off.
func (w *world) failLater(p *plan, node int, latest int64) {
	r := &w.random
	f := w.follow(p, cutAPI, onLost, node, latest)
	f.d = 25 * second
	f = w.follow(p, []faultKind{apiSilent, apiRefuses, cutGroupAPI}[r.below(3)], onFenced, node, latest)
	f.delay, f.d = r.between(6*second, 11*second), r.between(2*second, 6*second)
	w.calmAt = max(w.calmAt, 26*second)
	w.end = w.calmAt + settleTime
}

// changePeers starts a node's fencer anew in a part of the cluster that is cut off
// from the other nodes, and then from the API too: what it wrote of its peers may
// have come to nothing.
func (w *world) changePeers(p *plan, node int, latest int64) {
	r := &w.random
	side := uint16(1)<<node | uint16(1)<<r.below(int64(w.count))
	f := w.newFault(p, []faultKind{cutGroup}, latest)
	f.side, f.way, f.d = side, f.way|2, r.between(6*second, 12*second)
	from := f.from
	f = w.newFault(p, []faultKind{fencerRestart}, latest)
	f.node, f.from, f.d = node, from+r.below(second/5), r.upTo(int64(w.terms.Slack))
	restarted := f.from + f.d
	f = w.follow(p, cutGroupAPI, onRead, node, latest)
	f.side, f.from, f.delay, f.d = side, restarted, r.upTo(2*millisecond), r.between(4*second, 9*second)
	f = w.newFault(p, []faultKind{cutGroupAPI}, latest)
	f.side, f.from, f.d = side&^(1<<node), restarted, r.between(4*second, 9*second)
}

// deleteLate makes the API server slow in the middle of a recovery, while the node
// comes back.
func (w *world) deleteLate(p *plan, node int, latest int64) {
	r := &w.random
	f := w.follow(p, cutAPI, onLost, node, latest)
	f.d = int64(w.terms.Wait()) + r.upTo(second/2)
	f = w.follow(p, apiSlow, onMark, node, latest)
	f.d = r.between(second/5, 4*second)
	if r.chance(50) {
		f.d = r.between(50*millisecond, second/2)
	}
}
