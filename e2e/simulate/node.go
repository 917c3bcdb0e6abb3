package main

import (
	"slices"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
)

// node is one node: its clock, its fencer with the real Permit and Vouching, its
// kubelet and its containers.
type node struct {
	index int
	up    bool
	boot  int
	clock clock // CLOCK_BOOTTIME
	// skew is how far its wall clock is ahead.
	skew int64

	// stalled is until when the whole node stands still, and fencerStalled until
	// when its fencer does; see stallOf.
	stalled, fencerStalled int64
	stallFrom, stallTo     int64 // the last stall of either kind, or the fencer's absence
	stallSum               int64 // of the stalls that followed each other closely
	excusedTo              int64 // until when old copies may run because of a stall beyond the terms
	staleSince             int64 // since when old copies have been running, -1 if they do not
	frozenSince            int64
	restartedAt            int64 // when its fencer last ended, -1 for never

	// tardy is whether it takes all of the time that the terms allow to stop its pods.
	tardy    bool
	fencerUp bool
	process  uint32 // counts the fencer's starts
	permit   *fence.Permit
	vouching *fence.Vouching
	writing  bool
	lastGood fence.Instant // the start of the last read that showed Running by this boot
	passAt   int64         // when the next pass is in the queue; 0 for none
	passGen  uint32
	// permitted is what the last pass decided, until what it was decided by.
	permitted bool
	// The state file, which outlives the fencer but not the boot.
	publishedUntil fence.Instant
	publishedEpoch int64
	// extended is when a broken fencer may poll next, and asking whom it then counts on.
	extended fence.Instant
	asking   []string

	frozen    bool // the pods' cgroups are
	freezing  bool
	freezeGen uint32

	kubelet
	copies []running // containers that exist
}

// running is a container: a copy of a pod.
type running struct {
	pod      int
	uid      int32
	epoch    int64
	starting bool
}

func (n *node) fencerUntil() int64 { return max(n.stalled, n.fencerStalled) }

func (w *world) instant(n *node) fence.Instant { return n.clock.instant(w.now) }

// handleNode handles what happens at a node's fencer.
func (w *world) handleNode(e *event) {
	n := &w.nodes[e.a]
	switch e.kind {
	case stallEnds:
		w.check()
		return
	case frozen:
		if n.freezing && e.gen == n.freezeGen && n.up {
			n.freezing, n.frozen, n.frozenSince = false, true, w.now
			w.stats.Freezes++
			w.froze(n)
			w.check()
		}
		return
	case fencerStart:
		if n.up && !n.fencerUp && e.gen == n.process {
			w.startFencer(n)
		}
		return
	}
	if e.kind == fencerPass && e.gen != n.passGen || e.kind != fencerPass && e.gen != n.process || !n.up || !n.fencerUp {
		if e.kind == pollEnds {
			w.polls[e.ref].free = true
		}
		return
	}
	if until := n.fencerUntil(); until > w.now {
		if e.kind == fencerPass {
			n.passAt = until
		}
		w.after(until-w.now, e.kind, n.index, 0, e.ref, e.gen)
		return
	}
	switch e.kind {
	case fencerPass:
		n.passAt = 0
		w.pass(n)
	case membersSeen:
		w.seeMembers(n)
		w.after(3*second+w.random.below(second), membersSeen, n.index, 0, 0, n.process)
	case pollEnds:
		w.polls[e.ref].free = true
		w.endPoll(n, e.ref)
	}
}

// startFencer starts the fencer of a node, anew or for the first time in a boot.
func (w *world) startFencer(n *node) {
	now := w.instant(n)
	n.fencerUp = true
	n.process++
	n.permit = fence.NewPermit(w.terms, bootIDs[n.index][n.boot])
	n.permit.Resume(min(n.publishedUntil, now.Add(w.terms.Period)), n.publishedEpoch)
	started := now
	if w.broken.forgetPromises {
		started -= fence.Instant(w.terms.PromiseFor)
	}
	n.vouching = fence.NewVouching(w.terms, started)
	n.writing, n.lastGood, n.extended, n.asking = false, 0, 0, nil
	w.tell("%s: the fencer starts", names[n.index])
	w.seeMembers(n)
	w.after(w.random.below(3*second), membersSeen, n.index, 0, 0, n.process)
	w.pass(n)
}

// pass is one pass of the fencer, as its loop does them: at each tick and after
// each answer.
func (w *world) pass(n *node) {
	now := w.instant(n)
	oldest := int64(fence.NoContainer)
	for i := range n.copies {
		oldest = min(oldest, n.copies[i].epoch)
	}
	d := n.permit.Decide(now, oldest)
	w.enforce(n, d)
	n.publishedUntil, n.publishedEpoch = n.permit.Until(), n.permit.Epoch()
	if n.permitted != d.Permitted {
		n.permitted = d.Permitted
		w.tell("%s: permitted %t", names[n.index], d.Permitted)
	}
	if d.Read {
		w.send(call{kind: readRecord, host: n.index, who: n.index, process: n.process, node: n.index,
			deadline: w.now + int64(w.terms.Period), started: now})
	}
	if d.Write != fence.NoWrite {
		n.writing = true
		w.send(call{kind: writeRecord, host: n.index, who: n.index, process: n.process, node: n.index, uid: int32(n.boot),
			deadline: w.now + int64(w.terms.Period), decision: d})
		if d.Write == fence.SetPeers {
			n.asking = d.Peers
		}
	}
	asked := d.Asked
	if w.broken.pollSeldom && d.Poll {
		d.Poll = now >= n.extended
		if d.Poll {
			n.extended = now.Add(w.terms.ReadEvery)
		}
	}
	if w.broken.peersUnsettled && !d.Poll && now >= n.extended && n.asking != nil && now >= n.lastGood.Add(w.terms.VouchAfter) {
		d.Poll, asked = true, n.asking
		n.extended = now.Add(w.terms.PollEvery())
	}
	if w.broken.revive && !d.Poll && now >= n.extended && n.permit.State() == v1alpha1.FenceRunning && now >= n.permit.Until() {
		d.Poll, asked = true, w.api.records[n.index].read.Peers
		n.extended = now.Add(w.terms.ReadEvery)
	}
	if d.Poll {
		w.poll(n, now, asked)
	}
	w.nextPass(n, now)
}

// nextPass puts the next pass into the queue. While all is well, passes in which
// nothing can happen are left out: the next is that in which the next read begins.
// It comes late by as much as the terms allow.
func (w *world) nextPass(n *node, now fence.Instant) {
	wait := int64(0)
	if n.permitted && !n.writing && !n.freezing && now < n.lastGood.Add(w.terms.ReadEvery) {
		wait = max(0, n.clock.when(int64(n.lastGood.Add(w.terms.ReadEvery)))-w.now)
	}
	at := w.now + wait + w.random.upTo(int64(w.terms.Look))
	if n.permitted {
		// The end of the permission is seen within the time to look.
		ends := n.clock.when(int64(n.permit.Until()))
		late := w.random.upTo(int64(w.terms.Look))
		if n.tardy {
			// It is as late as it may be, and then stands still for as long as it may.
			late = int64(w.terms.Look + w.terms.Slack)
			if at >= ends {
				at = ends + late
			}
		}
		at = min(at, max(ends, w.now)+late)
	}
	at = max(at, w.now+millisecond)
	if n.passAt != 0 && n.passAt <= at && n.passAt > w.now {
		return
	}
	n.passAt = at
	n.passGen++
	w.after(at-w.now, fencerPass, n.index, 0, 0, n.passGen)
}

// enforce makes the node's pods follow a decision.
func (w *world) enforce(n *node, d fence.Decision) {
	for i := 0; i < len(n.copies); i++ {
		if c := n.copies[i]; c.epoch < d.KillBelow {
			w.kill(n, i, d.KillBelow)
			i--
		}
	}
	switch {
	case !d.Permitted && !n.frozen && !n.freezing:
		n.freezing = true
		n.freezeGen++
		stop := w.random.upTo(int64(w.terms.Stop))
		if n.tardy {
			stop = int64(w.terms.Stop)
		}
		w.after(stop, frozen, n.index, 0, 0, n.freezeGen)
	case d.Permitted && (n.frozen || n.freezing):
		if n.frozen {
			w.stats.Thaws++
			w.tell("%s: thawed after %.3fs", names[n.index], float64(w.now-n.frozenSince)/1e9)
		}
		n.frozen, n.freezing = false, false
		w.check()
	}
}

// kill ends a container of an older epoch.
func (w *world) kill(n *node, i int, below int64) {
	c := n.copies[i]
	if w.trace != nil {
		w.tell("%s: kills its copy of pod %d of epoch %d, below %d", names[n.index], c.pod, c.epoch, below)
	}
	if r := w.api.records[n.index].read; r == nil || c.epoch >= r.Epoch {
		w.fail("%s kills a copy of pod %d of epoch %d although its record was never fenced after that", names[n.index], c.pod, c.epoch)
	}
	w.stats.Kills++
	n.copies = slices.Delete(n.copies, i, i+1)
	w.check()
	w.retryContainer(n, c.pod, w.random.between(second/2, 3*second))
}

// fencerAnswered takes the answer to a read or a write of the record.
func (w *world) fencerAnswered(c *call) {
	n := &w.nodes[c.who]
	if !n.up || !n.fencerUp || c.process != n.process {
		return
	}
	now := w.instant(n)
	if c.kind == writeRecord {
		n.writing = false
		n.permit.Written(now)
	} else if c.ok {
		if r := c.read; r != nil && r.State == v1alpha1.FenceRunning && r.BootID == bootIDs[n.index][n.boot] {
			n.lastGood = max(n.lastGood, c.started)
		}
		n.permit.Answered(fence.Read{Started: c.started, Record: c.read})
		n.vouching.Read(c.started)
	}
	w.pass(n)
}

// seeMembers tells the fencer which members its agent sees.
func (w *world) seeMembers(n *node) {
	if w.plan.alone {
		return
	}
	now := w.instant(n)
	var alive []string
	for j := range w.nodes {
		o := &w.nodes[j]
		if j != n.index && o.up && w.now >= o.stalled && w.open(n.index, j) && w.open(j, n.index) && w.plan.hidden[n.index]&(1<<j) == 0 {
			alive = append(alive, names[j])
		}
	}
	n.permit.SetPeers(now, alive)
}
