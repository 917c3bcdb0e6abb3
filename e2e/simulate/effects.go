package main

// host is the host of a fault that can concern any.
func (f *fault) host() int {
	if f.way&8 != 0 {
		return int(f.side) % maxHosts
	}
	return f.node
}

// link cuts links or joins them again.
func (w *world) link(f *fault, by int) {
	api := w.api.host
	hosts := api + 3
	both := func(a, b int) {
		if a != b {
			w.net.cut(a, b, by)
			w.net.cut(b, a, by)
		}
	}
	switch f.kind {
	case cutNode, flap:
		for h := range hosts {
			both(f.node, h)
		}
	case cutAPI:
		both(f.node, api)
	case cutAPIOneWay:
		if f.way&1 == 0 {
			w.net.cut(f.node, api, by)
		} else {
			w.net.cut(api, f.node, by)
		}
	case cutWatchers:
		for k := range w.watchers {
			if w.watchers[k].host != f.node {
				both(f.node, w.watchers[k].host)
			}
		}
		for h := range w.nodes {
			if f.side&(1<<h) != 0 && h != w.watchers[0].host && h != w.watchers[1].host {
				both(f.node, h)
			}
		}
	case cutPeers:
		for h := range w.nodes {
			both(f.node, h)
		}
	case cutWatcherAPI:
		both(w.watchers[f.way&1].host, api)
	case cutGroupAPI:
		for a := range w.nodes {
			if f.side&(1<<a) != 0 {
				both(a, api)
			}
		}
	case cutGroup:
		for a := range w.nodes {
			for b := range hosts {
				inside := b < len(w.nodes) && f.side&(1<<b) != 0
				if f.side&(1<<a) != 0 && !inside && (b != api || f.way&2 == 0) {
					both(a, b)
				}
			}
		}
	}
}

func (w *world) taint(i int, on bool) {
	o := &w.api.objects[i]
	o.tainted = on
	w.bring(i, heard{what: heardNode, object: *o})
}

// stall makes a node, or its fencer alone, stand still.
func (w *world) stall(n *node, d int64, whole bool) {
	if !n.up {
		return
	}
	to := w.now + d
	if w.now-n.stallTo > 5*second {
		n.stallSum = 0
	}
	n.stallSum += d
	n.stallFrom, n.stallTo = w.now, max(n.stallTo, to)
	if n.stallSum > int64(w.terms.Slack) {
		n.excusedTo = max(n.excusedTo, n.stallTo+int64(w.terms.Look+w.terms.Stop)+millisecond)
	}
	if whole {
		n.stalled = max(n.stalled, to)
		if n.freezing {
			n.freezing = false // what was under way is done anew afterwards
			n.freezeGen++
		}
	} else {
		n.fencerStalled = max(n.fencerStalled, to)
	}
	w.after(d, stallEnds, n.index, 0, 0, 0)
	w.check()
}

// restartFencer ends a node's fencer; the next one starts after d.
func (w *world) restartFencer(n *node, d int64) {
	if !n.up || !n.fencerUp {
		return
	}
	w.stall(n, d, false)
	n.fencerStalled = 0
	n.fencerUp = false
	n.process++
	n.passGen++
	n.passAt = 0
	n.restartedAt = w.now
	w.after(d, fencerStart, n.index, 0, 0, n.process)
}

// calm ends all faults but the loss of nodes that stay lost.
func (w *world) calm() {
	w.tell("CALM")
	for k := range w.plan.faults {
		f := &w.plan.faults[k]
		if f.begun && !f.ended && f.d > 0 {
			f.ended = true
			w.finish(f, int32(k))
		}
	}
	w.net = network{}
	w.api.mode = answering
	for k := range w.watchers {
		w.watchers[k].lies, w.watchers[k].watchLag = [maxNodes]int64{}, 0
	}
	w.plan.hidden = [maxNodes]uint16{}
}
