package main

import (
	"strconv"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// mode is how the API server answers.
type mode uint8

const (
	answering mode = iota
	slow           // it answers late, and commits late
	refusing       // connections are refused
	silent         // nothing comes back, and nothing is done
)

// api is the API server: one copy of each object, changed one request after the
// other.
type api struct {
	host    int
	mode    mode
	records [maxNodes]record
	objects [maxNodes]object
	heard   []heard // what watches have to bring
	calls   []call
	free    []int32
	version int64
	// holder of the watchers' leader Lease, and when it was renewed.
	holder  int
	renewed int64
}

// record is a node's Fence.
type record struct {
	// read is what a read brings; it is never changed, only replaced.
	read       *fence.Record
	generation int64
	proof      v1alpha1.FenceProof
	// fencedAt is when it was last written Fenced, lostAt the same for Lost.
	fencedAt, lostAt int64
	refutedAt        int64 // when it last went from Lost to Running
	refutations      int
}

func (r *record) view() decide.Fence {
	if r.read == nil {
		return decide.Fence{}
	}
	return decide.Fence{State: r.read.State, Generation: r.generation, BootID: r.read.BootID, Peers: r.read.Peers}
}

// object is a Node and its Lease.
type object struct {
	boot    string
	renewed int64 // the kubelet's wall clock
	tainted bool  // out-of-service, by an operator
}

// heard is one thing that a watch brings.
type heard struct {
	what  heardKind
	fence decide.Fence
	object
}

type heardKind uint8

const (
	heardFence heardKind = iota
	heardNode
)

// set writes a record's spec. Every caller has compared its version before.
func (w *world) set(i int, next fence.Record) {
	a := &w.api
	r := &a.records[i]
	if r.read != nil && next.Epoch < r.read.Epoch {
		w.fail("the epoch of %s goes back from %d to %d", names[i], r.read.Epoch, next.Epoch)
	}
	before := v1alpha1.FenceState("")
	if r.read != nil {
		before = r.read.State
	}
	a.version++
	next.Version = strconv.FormatInt(a.version, 10)
	r.read = &next
	r.generation++
	w.mark(uint64(a.version)<<16 ^ uint64(i)<<8 ^ uint64(len(next.State)))
	if w.trace != nil {
		w.tell("record %s: %s, epoch %d, %s, generation %d, peers %v", names[i], next.State, next.Epoch, next.BootID, r.generation, next.Peers)
	}
	switch {
	case next.State == v1alpha1.FenceLost:
		r.lostAt = w.now
		w.stats.Declarations++
	case next.State == v1alpha1.FenceFenced:
		r.fencedAt = w.now
		w.stats.Fencings++
	case before == v1alpha1.FenceLost:
		r.refutedAt = w.now
		r.refutations++
		w.stats.Refutations++
	case before == v1alpha1.FenceFenced:
		w.stats.Returns++
		r.refutedAt = w.now
	}
	w.bring(i, heard{what: heardFence, fence: r.view()})
	if next.State != before {
		w.trigger(stateTrigger(next.State, before), i)
	}
	w.check()
}

// bump is a write of a record's status: the version moves on, the generation stays.
func (w *world) bump(i int) {
	r := &w.api.records[i]
	if r.read == nil {
		return
	}
	w.api.version++
	next := *r.read
	next.Version = strconv.FormatInt(w.api.version, 10)
	r.read = &next
}

// callKind is what a request asks of the API server.
type callKind uint8

const (
	readRecord  callKind = iota // a node's fencer reads its record
	writeRecord                 // a node's fencer writes it
	swapRecord                  // a watcher writes it
	renewLead                   // a watcher renews its leader Lease or takes it
	reportNode                  // a kubelet renews its Lease and reports its boot
	ownPod                      // a node asks if a pod is still its own
	markPod                     // a leader marks a pod as lost
	checkFenced                 // a leader reads whether the pod's node is still fenced
	deletePod                   // a leader deletes a marked pod
	unmarkPod                   // a leader takes the mark off again
)

// call is one request to the API server.
type call struct {
	kind     callKind
	host     int    // where it comes from
	who      int    // which node or watcher asks
	process  uint32 // which start of it
	node     int    // what it is about
	pod      int
	uid      int32
	deadline int64
	sent     int64

	events int  // how many events still refer to it
	timed  bool // whether its end for want of an answer is in the queue
	done   bool // whether who asks has its answer, or waits no more

	started  fence.Instant
	decision fence.Decision
	action   decide.Action
	// expected is the generation, or the pod's version, that a write is compared with.
	expected int64

	ok   bool // the answer is an answer
	won  bool // what was asked for is so
	read *fence.Record
	view decide.Fence
}

// send starts a request.
func (w *world) send(c call) {
	a := &w.api
	c.sent = w.now
	var ref int32
	if n := len(a.free); n > 0 {
		ref, a.free = a.free[n-1], a.free[:n-1]
		a.calls[ref] = c
	} else {
		if ref = int32(len(a.calls)); ref == maxCalls {
			w.fail("more than %d requests are under way", maxCalls) // pointers to them would become stale
		}
		a.calls = append(a.calls, c)
	}
	if d, ok := w.travel(c.host, a.host); ok {
		w.callAfter(d, callArrives, ref)
	} else {
		w.resend(ref)
	}
}

// resend is a request that was lost on its way. Its sender's kernel may send it
// again, and it may then come long after its sender has given up.
func (w *world) resend(ref int32) {
	w.unanswered(ref)
	if w.random.chance(40) {
		w.callAfter(w.random.between(second/5, 6*second), callSentAgain, ref)
	}
}

func (w *world) callAfter(d int64, kind happening, ref int32) {
	c := &w.api.calls[ref]
	c.events++
	if kind != callTimesOut && w.now+d > c.deadline {
		w.unanswered(ref)
	}
	w.after(d, kind, c.who, 0, ref, c.process)
}

// unanswered makes a request end at its deadline.
func (w *world) unanswered(ref int32) {
	c := &w.api.calls[ref]
	if !c.timed && !c.done {
		c.timed = true
		w.callAfter(max(0, c.deadline-w.now), callTimesOut, ref)
	}
}

func (w *world) handleCall(e *event) {
	a := &w.api
	c := &a.calls[e.ref]
	if (e.kind == callAnswered || e.kind == callTimesOut) && !c.done {
		if until := w.stalledUntil(c); until > w.now {
			w.after(until-w.now, e.kind, c.who, 0, e.ref, e.gen)
			return
		}
	}
	c.events--
	switch e.kind {
	case callSentAgain:
		if d, ok := w.travel(c.host, a.host); ok {
			w.callAfter(d, callArrives, e.ref)
		}
	case callArrives:
		w.arrive(e.ref)
	case callCommits:
		if a.mode == silent || a.mode == refusing {
			w.unanswered(e.ref)
			break
		}
		w.commit(e.ref)
	case callAnswered, callTimesOut:
		if !c.done {
			c.done = true
			answer := *c
			if e.kind == callTimesOut {
				answer.ok, answer.won = false, false
			}
			w.answered(&answer)
		}
	}
	if a.calls[e.ref].events == 0 {
		a.calls[e.ref] = call{}
		a.free = append(a.free, e.ref)
	}
}

// arrive is a request that has come to the API server.
func (w *world) arrive(ref int32) {
	switch w.api.mode {
	case silent:
		w.unanswered(ref)
	case refusing:
		w.reply(ref, 0)
	case slow:
		delay := w.random.below(50 * millisecond)
		switch w.random.below(8) {
		case 0, 1:
			delay = w.random.below(second)
		case 2:
			delay = w.random.below(9 * second)
		}
		w.callAfter(delay, callCommits, ref)
	default:
		w.commit(ref)
	}
}

func (w *world) commit(ref int32) {
	w.execute(&w.api.calls[ref])
	w.api.calls[ref].ok = true
	var delay int64
	if w.api.mode == slow && w.random.chance(30) {
		delay = w.random.below(3 * second)
	}
	w.reply(ref, delay)
}

func (w *world) reply(ref int32, delay int64) {
	if d, ok := w.travel(w.api.host, w.api.calls[ref].host); ok {
		w.callAfter(delay+d, callAnswered, ref)
	} else {
		w.unanswered(ref)
	}
}

// answered hands an answer, or the lack of one, to whoever asked.
func (w *world) answered(c *call) {
	switch c.kind {
	case readRecord, writeRecord:
		w.fencerAnswered(c)
	case reportNode, ownPod:
		w.kubeletAnswered(c)
	default:
		w.watcherAnswered(c)
	}
}

// stalledUntil is until when the process that asked is stopped.
func (w *world) stalledUntil(c *call) int64 {
	switch c.kind {
	case readRecord, writeRecord:
		return w.nodes[c.who].fencerUntil()
	case reportNode, ownPod:
		return w.nodes[c.who].stalled
	}
	return w.watcherUntil(c.who)
}
