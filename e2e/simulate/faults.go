package main

import (
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
)

// faultKind is what a fault does.
type faultKind uint8

const (
	powerLoss       faultKind = iota // a node loses power; at the end it boots, if there is an end
	reboot                           // a node boots anew, faster than it is fenced
	cutNode                          // a node is cut off from everything
	cutAPI                           // a node is cut off from the API server
	cutAPIOneWay                     // one direction of that
	cutWatchers                      // a node is cut off from the watchers, and from the members that might help
	cutPeers                         // a node is cut off from the other nodes
	cutWatcherAPI                    // a watcher is cut off from the API server
	cutGroup                         // some of the nodes are cut off from the rest
	cutGroupAPI                      // some of the nodes are cut off from the API server alone
	flap                             // a node's link comes and goes
	lagging                          // a host's messages are late
	laggingWatchers                  // what the watchers send and hear is late
	lossy                            // a host's messages are lost now and then
	apiRefuses                       // the API server is down
	apiSilent                        // the API server is a black hole
	apiSlow                          // the API server answers and commits late
	fencerStall                      // a node's fencer stands still for a while within the terms
	fencerHang                       // … beyond the terms
	nodeStall                        // a whole node stands still within the terms
	nodeHang                         // … beyond the terms
	watcherStall                     // a watcher stands still
	fencerRestart                    // a node's fencer ends, and is started anew
	rollout                          // the fencers of some nodes end at about the same time, and are started anew
	watcherRestart                   // a watcher ends, and is started anew
	falseSuspicion                   // a watcher's membership suspects a living node
	hideMembers                      // a node's agent does not see some members
	wallJump                         // a node's wall clock jumps
	watchLag                         // what a watcher's watch brings is late
	statusWrites                     // a node's checkpointer writes the status of its Fence
	outOfService                     // an operator taints a node that is powered off, and takes the taint off late
	bothLead                         // both watchers believe that they lead
	faultKinds
)

var faultNames = [faultKinds]string{"power losses", "fast reboots", "nodes cut off", "nodes cut off from the API", "one-way cuts from the API",
	"nodes cut off from the watchers", "nodes cut off from their peers", "watchers cut off from the API", "partitions", "API cut off from some", "flapping links",
	"late messages", "late watchers", "lost messages", "API outages: refused", "API outages: silent", "slow API", "fencer stalls within the terms",
	"fencer stalls beyond the terms", "node stalls within the terms", "node stalls beyond the terms", "watcher stalls", "fencer restarts", "rollouts",
	"watcher restarts", "false suspicions", "hidden members", "wall-clock jumps", "late watches", "status writes", "out-of-service taints",
	"two leaders"}

// trigger is a moment of the protocol at which a fault may begin: what breaks a
// protocol seldom happens at a random time.
type trigger uint8

const (
	atTime     trigger = iota
	onRead             // a node's read is at the API server
	onLost             // a record becomes Lost
	onFenced           // a record becomes Fenced
	onRefuted          // a record goes from Lost to Running
	onReturned         // a record goes from Fenced to Running
	onPromise          // a peer answers about a node
	onMark             // a pod of a fenced node is marked as lost
	onPoll             // a node asks its peers
)

// fault is one thing that goes wrong. Its fields mean what its kind says.
type fault struct {
	kind  faultKind
	on    trigger
	delay int64 // after the trigger
	from  int64 // for atTime; else the trigger counts after this
	d     int64 // how long it lasts, 0 for ever
	node  int
	side  uint16 // a set of nodes
	way   int
	size  int64
	// begun is whether it has begun, counted whether that was counted, ended whether it is over.
	begun, counted, ended bool
}

// plan is what goes wrong in one history.
type plan struct {
	flavour              flavour
	faults               []fault
	hidden               [maxNodes]uint16
	armed                bool // whether any fault waits for a trigger
	pausedFrom, pausedTo int64
	// alone is whether no node has peers, as when nothing tells the fencers of members.
	alone     bool
	perDomain bool
	// beyondDrift is by how much of a million clocks run further apart than the terms allow.
	beyondDrift int64
}

// trigger begins the faults that wait for a moment of the protocol.
func (w *world) trigger(on trigger, node int) {
	if !w.plan.armed || w.now >= w.calmAt {
		return
	}
	for k := range w.plan.faults {
		f := &w.plan.faults[k]
		if f.on == on && !f.begun && w.now >= f.from && (f.node == node || f.way&4 != 0) {
			f.begun = true
			w.after(f.delay, faultBegins, 0, 0, int32(k), 0)
		}
	}
}

func (w *world) handleFault(e *event) {
	switch e.kind {
	case calmBegins:
		w.calm()
		return
	case faultBegins:
		f := &w.plan.faults[e.ref]
		if w.now >= w.calmAt {
			return
		}
		if !f.counted {
			f.counted = true
			w.stats.Faults[f.kind]++
		}
		f.begun = true
		if w.trace != nil {
			w.tell("FAULT: %s, %s, side %b, for %.3fs", faultNames[f.kind], names[f.node], f.side, float64(f.d)/1e9)
		}
		w.begin(f, e.ref)
		if f.d > 0 && f.kind != flap && f.kind != statusWrites {
			w.after(min(f.d, w.calmAt-w.now), faultEnds, 0, 0, e.ref, 0)
		}
	case faultEnds:
		f := &w.plan.faults[e.ref]
		if !f.ended {
			f.ended = true
			if w.trace != nil {
				w.tell("FAULT OVER: %s, %s", faultNames[f.kind], names[f.node])
			}
			w.finish(f, e.ref)
		}
	}
}

// begin begins a fault.
func (w *world) begin(f *fault, ref int32) {
	n := &w.nodes[f.node]
	x := &w.watchers[f.way&1]
	switch f.kind {
	case powerLoss, reboot, outOfService:
		if n.up {
			w.powerOff(n)
			if f.kind == outOfService {
				w.taint(f.node, true)
			}
		}
	case apiRefuses, apiSilent, apiSlow:
		w.api.mode = [...]mode{refusing, silent, slow}[f.kind-apiRefuses]
		if f.kind != apiSlow {
			for k := range w.watchers {
				w.breakWatch(&w.watchers[k])
			}
			for k := range w.nodes {
				w.breakKubelet(&w.nodes[k])
			}
		}
	case lagging:
		w.net.lag[f.host()] += f.size
	case laggingWatchers:
		for k := range w.watchers {
			w.net.lag[w.watchers[k].host] += f.size
		}
	case lossy:
		w.net.loss[f.host()] += int(f.size)
	case fencerStall, fencerHang:
		w.stall(n, f.d, false)
	case nodeStall, nodeHang:
		w.stall(n, f.d, true)
	case watcherStall:
		x.stalled = max(x.stalled, w.now+f.d)
	case fencerRestart:
		w.restartFencer(n, f.d)
	case rollout:
		for k := range w.nodes {
			if f.side&(1<<k) != 0 {
				w.restartFencer(&w.nodes[k], w.random.upTo(f.d))
			}
		}
	case watcherRestart:
		if x.up {
			w.stopWatcher(x.index)
			w.after(f.d, watcherStart, x.index, 0, 0, x.process)
		}
	case falseSuspicion:
		for k := range w.watchers {
			if x := &w.watchers[k]; f.way&8 != 0 || k == f.way&1 {
				x.lies[f.node] = w.now + f.d
				if m := &x.members[f.node]; f.way&2 != 0 && x.up && m.State == membership.Alive {
					m.State, m.misses, m.dies = membership.Suspect, patience, w.now+deathAfter
					w.step(k)
				}
			}
		}
	case hideMembers:
		w.plan.hidden[f.node] |= f.side
		if n.up && n.fencerUp {
			w.seeMembers(n)
		}
	case wallJump:
		n.skew += f.size
	case watchLag:
		x.watchLag = f.size
	case statusWrites:
		w.bump(f.node)
		if f.d -= f.size; f.d > 0 {
			w.after(f.size, faultBegins, 0, 0, ref, 0)
		}
	case bothLead:
		for k := range w.watchers {
			w.watchers[k].leadsUntil = max(w.watchers[k].leadsUntil, w.now+f.d)
		}
	default:
		w.link(f, 1)
		if f.kind == flap {
			w.after(f.size, faultEnds, 0, 0, ref, 0)
		}
	}
}

// finish ends a fault.
func (w *world) finish(f *fault, ref int32) {
	n := &w.nodes[f.node]
	switch f.kind {
	case powerLoss, reboot:
		w.powerOn(n)
	case outOfService:
		w.powerOn(n)
		if f.way&2 != 0 && w.now < w.calmAt {
			// The operator sees that the node is back, and takes the taint off then.
			f.way, f.ended = f.way&^2, false
			w.after(w.random.between(second/10, 5*second), faultEnds, 0, 0, ref, 0)
			return
		}
		w.taint(f.node, false)
	case apiRefuses, apiSilent, apiSlow:
		w.api.mode = answering
	case lagging:
		w.net.lag[f.host()] -= f.size
	case laggingWatchers:
		for k := range w.watchers {
			w.net.lag[w.watchers[k].host] -= f.size
		}
	case lossy:
		w.net.loss[f.host()] -= int(f.size)
	case watchLag:
		w.watchers[f.way&1].watchLag = 0
	case hideMembers:
		w.plan.hidden[f.node] = 0
	case flap:
		w.link(f, -1)
		if f.way--; f.way > 0 && w.now < w.calmAt {
			f.ended = false
			w.after(w.random.between(second/10, 3*second/2), faultBegins, 0, 0, ref, 0)
		}
	case cutNode, cutAPI, cutAPIOneWay, cutWatchers, cutPeers, cutWatcherAPI, cutGroup, cutGroupAPI:
		w.link(f, -1)
	}
}

// stateTrigger is the moment at which a record changes its state.
func stateTrigger(state, before v1alpha1.FenceState) trigger {
	switch {
	case state == v1alpha1.FenceLost:
		return onLost
	case state == v1alpha1.FenceFenced:
		return onFenced
	case before == v1alpha1.FenceFenced:
		return onReturned
	}
	return onRefuted
}
