package main

import (
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// leaseTerm is how long a leader that does not renew its Lease keeps the lead.
const leaseTerm = 4 * second

// execute does at the API server what a request asks for, in one moment.
func (w *world) execute(c *call) {
	a := &w.api
	switch c.kind {
	case readRecord:
		c.read = a.records[c.node].read
		w.trigger(onRead, c.node)
	case writeRecord:
		w.commitWrite(c)
	case swapRecord:
		w.commitSwap(c)
	case renewLead:
		if c.won = a.holder == c.who || w.now-a.renewed > leaseTerm; c.won {
			a.holder, a.renewed = c.who, w.now
		}
	case reportNode:
		o := &a.objects[c.node]
		o.boot, o.renewed = bootIDs[c.node][c.uid], c.expected
		w.bring(c.node, heard{what: heardNode, object: *o})
	default:
		w.executePod(c)
	}
}

// commitWrite is a node's compare-and-swap.
func (w *world) commitWrite(c *call) {
	r := &w.api.records[c.node]
	n := &w.nodes[c.node]
	d := &c.decision
	if d.Write == fence.Create {
		if c.won = r.read == nil; c.won {
			w.set(c.node, fence.Record{State: v1alpha1.FenceRunning, Epoch: d.KillBelow + 1, BootID: bootIDs[c.node][c.uid]})
		}
		return
	}
	same := r.read != nil && d.Replaces != nil && r.read.Version == d.Replaces.Version
	if w.broken.refuteAnyway && d.Write == fence.Refute && !same {
		c.won = true
		next := *d.Replaces
		next.State = v1alpha1.FenceRunning
		w.set(c.node, next)
		return
	}
	if c.won = same; !same {
		return
	}
	if w.trace != nil {
		w.tell("%s writes: %s", names[n.index], d.Write)
	}
	next := *r.read
	next.State, next.BootID = v1alpha1.FenceRunning, bootIDs[c.node][c.uid]
	if d.Write == fence.SetPeers {
		next.Peers = d.Peers
	}
	w.set(c.node, next)
}

// commitSwap is a watcher's compare-and-swap. It compares what it decided upon by
// generation: writes of the status do not matter to it.
func (w *world) commitSwap(c *call) {
	r := &w.api.records[c.node]
	if r.read == nil || r.generation != c.expected {
		c.view = r.view()
		return
	}
	c.won = true
	next := *r.read
	switch c.action.Kind {
	case decide.DeclareLost:
		next.State = v1alpha1.FenceLost
		if w.watchers[w.api.holder].host == c.node {
			w.api.renewed = w.now - leaseTerm // the lead of a watcher on a lost node ends
		}
	case decide.ConfirmFenced:
		next.State = v1alpha1.FenceFenced
		next.Epoch++
		r.proof = c.action.Proof
		w.stats.Proofs[c.action.Proof]++
	case decide.Withdraw:
		next.State = v1alpha1.FenceRunning
	}
	if w.trace != nil {
		w.tell("w%d writes: %s %s %s: %s", c.who, c.action.Kind, names[c.node], c.action.Proof, c.action.Reason)
	}
	w.set(c.node, next)
	c.view = r.view()
}

// pod is a protected pod as the API has it.
type pod struct {
	uid     int32
	node    int // -1 while it is bound to none
	version int64
	marked  bool // its node was lost; it will be deleted
	bornAt  int64
}

// executePod is what requests do that concern a pod.
func (w *world) executePod(c *call) {
	p := &w.pods[c.pod]
	same := p.uid == c.uid && p.node == c.node
	switch c.kind {
	case ownPod:
		c.won = same && !p.marked
	case markPod:
		if c.won = same; same && !p.marked {
			p.marked = true
			p.version++
			w.trigger(onMark, c.node)
		}
		c.expected = p.version
	case checkFenced:
		r := w.api.records[c.node].read
		c.won = r != nil && r.State == v1alpha1.FenceFenced
	case deletePod:
		if c.won = same && p.version == c.expected; c.won {
			if w.trace != nil {
				w.tell("w%d deletes pod %d on %s", c.who, c.pod, names[c.node])
			}
			w.stats.Recoveries++
			p.uid++
			p.version++
			p.node, p.marked = -1, false
			w.tellKubelet(c.node, c.pod, -c.uid)
			w.after(w.random.between(20*millisecond, 200*millisecond), podPlaced, 0, c.pod, 0, 0)
		}
	case unmarkPod:
		if same && p.marked {
			p.marked = false
			p.version++
		}
	}
}

// place binds a successor to a node whose record says Running, chosen at random,
// as the plugin might for any reason.
func (w *world) place(i int) {
	p := &w.pods[i]
	var fit [maxNodes]int
	n := 0
	for j := range w.nodes {
		if r := w.api.records[j].read; r != nil && r.State == v1alpha1.FenceRunning {
			fit[n] = j
			n++
		}
	}
	if n == 0 || p.node >= 0 || w.api.mode == silent || w.api.mode == refusing {
		if p.node < 0 {
			w.after(500*millisecond, podPlaced, 0, i, 0, 0)
		}
		return
	}
	p.node, p.bornAt = fit[w.random.below(int64(n))], w.now
	p.version++
	w.tell("pod %d is bound to %s", i, names[p.node])
	w.tellKubelet(p.node, i, p.uid)
}
