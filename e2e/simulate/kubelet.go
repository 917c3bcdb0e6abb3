package main

import (
	"slices"
)

const (
	maxPods = 2 * maxNodes
	// ownTime is how long a node waits for the answer whether a pod is its own.
	ownTime = 2 * second
)

// kubelet is what a node's kubelet knows and does.
type kubelet struct {
	watch uint32 // counts its watches
	// broken is whether its watch is dead, which it takes a while to notice.
	broken    bool
	delivered int64
	believes  [maxPods]int32 // the UID of each pod that it believes its own, 0 for none
	trying    [maxPods]bool
	// ran is the epoch under which each pod's container was last started here, and
	// ranUID the UID of that pod.
	ran    [maxPods]int64
	ranUID [maxPods]int32
}

// tellKubelet sends a kubelet that a pod is bound to it, or, with a negative UID,
// that it was deleted.
func (w *world) tellKubelet(i, p int, uid int32) {
	n := &w.nodes[i]
	d, ok := w.travel(w.api.host, i)
	if !ok {
		w.breakKubelet(n)
		return
	}
	at := max(w.now+d, n.delivered)
	n.delivered = at
	w.after(at-w.now, kubeletHeard, i, p, uid, n.watch)
}

func (w *world) breakKubelet(n *node) {
	if !n.broken {
		n.broken = true
		n.watch++
		w.after(w.random.between(second/5, 8*second), kubeletAgain, n.index, 0, 0, n.watch)
	}
}

func (w *world) handleKubelet(e *event) {
	if e.kind == podPlaced {
		w.place(int(e.b))
		return
	}
	n, p := &w.nodes[e.a], int(e.b)
	if e.kind == kubeletStart {
		if n.up && e.gen == uint32(n.boot) {
			n.watch++
			n.broken = true
			w.after(0, kubeletAgain, n.index, 0, 0, n.watch)
			w.after(w.random.below(3*second), kubeletReports, n.index, 0, 0, uint32(n.boot))
		}
		return
	}
	if !n.up {
		return
	}
	if n.stalled > w.now {
		w.after(n.stalled-w.now, e.kind, n.index, p, e.ref, e.gen)
		return
	}
	switch e.kind {
	case kubeletReports:
		if e.gen == uint32(n.boot) {
			w.send(call{kind: reportNode, host: n.index, who: n.index, node: n.index, uid: int32(n.boot),
				expected: w.now + n.skew, deadline: w.now + 5*second})
			w.after(9*second+w.random.below(2*second), kubeletReports, n.index, 0, 0, e.gen)
		}
	case kubeletHeard:
		if e.gen == n.watch && !n.broken {
			w.hear(n, p, e.ref)
		}
	case kubeletAgain:
		if e.gen == n.watch {
			w.listPods(n)
		}
	case kubeletTries:
		if e.gen == uint32(n.boot) {
			n.trying[p] = false
			w.tryContainer(n, p)
		}
	case containerStarts:
		if e.gen == uint32(n.boot) {
			w.startContainer(n, p, e.ref)
		}
	case podEnds:
		w.endContainer(n, p, e.ref)
	}
}

// hear takes in what the watch brought.
func (w *world) hear(n *node, p int, uid int32) {
	switch {
	case uid > 0 && n.believes[p] != uid:
		n.believes[p] = uid
		w.retryContainer(n, p, w.random.between(10*millisecond, 100*millisecond))
	case uid < 0 && n.believes[p] == -uid:
		n.believes[p] = 0
		w.after(w.random.below(second), podEnds, n.index, p, -uid, 0)
	}
}

// listPods makes a broken watch anew: the kubelet learns all that it missed.
func (w *world) listPods(n *node) {
	if mode := w.api.mode; mode == silent || mode == refusing || !w.open(n.index, w.api.host) || !w.open(w.api.host, n.index) {
		w.after(w.random.between(second/2, 2*second), kubeletAgain, n.index, 0, 0, n.watch)
		return
	}
	n.broken = false
	for p := range w.pods {
		uid := w.pods[p].uid
		if w.pods[p].node != n.index {
			uid = -n.believes[p]
		} else if old := n.believes[p]; old != 0 && old != uid {
			w.hear(n, p, -old)
		}
		if uid != 0 {
			w.hear(n, p, uid)
		}
	}
}

func (w *world) retryContainer(n *node, p int, d int64) {
	if n.believes[p] != 0 && !n.trying[p] {
		n.trying[p] = true
		w.after(d, kubeletTries, n.index, p, 0, uint32(n.boot))
	}
}

func (n *node) find(p int, uid int32) int {
	return slices.IndexFunc(n.copies, func(c running) bool { return c.pod == p && c.uid == uid })
}

// tryContainer is the kubelet's attempt to start a pod's container: it is
// registered under the node's epoch, and the node asks the API if the pod is still
// its own.
func (w *world) tryContainer(n *node, p int) {
	uid := n.believes[p]
	if uid == 0 || n.find(p, uid) >= 0 {
		return
	}
	if w.instant(n) >= n.publishedUntil {
		w.retryContainer(n, p, second/2)
		return
	}
	n.copies = append(n.copies, running{pod: p, uid: uid, epoch: n.publishedEpoch, starting: true})
	w.send(call{kind: ownPod, host: n.index, who: n.index, process: uint32(n.boot), node: n.index, pod: p, uid: uid, deadline: w.now + ownTime})
}

// kubeletAnswered takes the answer whether a pod is the node's own.
func (w *world) kubeletAnswered(c *call) {
	n := &w.nodes[c.who]
	if c.kind == reportNode || !n.up || c.process != uint32(n.boot) {
		return
	}
	i := n.find(c.pod, c.uid)
	if i < 0 {
		w.retryContainer(n, c.pod, second)
		return
	}
	own := c.won
	if !c.ok {
		// Nobody tells. The pod ran here under the permission that the node has, so
		// it cannot have been moved.
		own = w.broken.trustKubelet || n.ran[c.pod] == n.copies[i].epoch && n.ranUID[c.pod] == c.uid
	}
	if !own {
		n.copies = slices.Delete(n.copies, i, i+1)
		w.retryContainer(n, c.pod, second)
		return
	}
	w.after(w.random.below(1200*millisecond), containerStarts, n.index, c.pod, c.uid, uint32(n.boot))
}

// startContainer is the moment at which a container begins to run.
func (w *world) startContainer(n *node, p int, uid int32) {
	i := n.find(p, uid)
	if i < 0 {
		w.retryContainer(n, p, second)
		return
	}
	c := &n.copies[i]
	if n.frozen || w.instant(n) >= n.publishedUntil {
		// Its cgroup is frozen, or will be before it comes to anything.
		n.copies = slices.Delete(n.copies, i, i+1)
		w.retryContainer(n, p, second/2)
		return
	}
	c.starting = false
	n.ran[p], n.ranUID[p] = c.epoch, uid
	w.stats.Starts++
	w.tell("%s: pod %d starts, epoch %d", names[n.index], p, c.epoch)
	w.check()
}

func (w *world) endContainer(n *node, p int, uid int32) {
	if i := n.find(p, uid); i >= 0 && n.believes[p] != uid {
		n.copies = slices.Delete(n.copies, i, i+1)
		w.check()
	}
}

// powerOff ends everything on a node at once.
func (w *world) powerOff(n *node) {
	w.tell("%s: power off", names[n.index])
	n.up, n.fencerUp = false, false
	n.process++
	n.copies = n.copies[:0]
	n.frozen, n.freezing, n.permitted = false, false, false
	n.freezeGen++
	n.passGen++
	n.passAt = 0
	n.kubelet = kubelet{watch: n.watch + 1}
	w.check()
	for i := range w.watchers {
		if w.watchers[i].host == n.index {
			w.stopWatcher(i)
		}
	}
}

// powerOn boots a node.
func (w *world) powerOn(n *node) {
	if n.up {
		return
	}
	n.boot++
	n.up = true
	n.stalled, n.fencerStalled = 0, 0
	n.publishedUntil, n.publishedEpoch = 0, 0
	n.clock.start, n.clock.base = w.now, 0
	w.tell("%s: boots, %s", names[n.index], bootIDs[n.index][n.boot])
	w.after(w.random.between(second/10, 2*second), fencerStart, n.index, 0, 0, n.process)
	w.after(w.random.between(second/10, 3*second), kubeletStart, n.index, 0, 0, uint32(n.boot))
	for i := range w.watchers {
		if w.watchers[i].host == n.index {
			w.after(w.random.between(second, 4*second), watcherStart, i, 0, 0, w.watchers[i].process)
		}
	}
}
