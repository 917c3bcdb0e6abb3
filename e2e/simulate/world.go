package main

import (
	"bufio"
	"fmt"

	"strconv"

	"github.com/lifeboat-dev/lifeboat/api/permission"
)

const (
	maxNodes = 9
	// maxCalls is how many requests may be under way at a time.
	maxCalls = 4096
)

// The kinds of events.
const (
	fencerPass      happening = iota // a: node
	fencerStart                      // a: node
	frozen                           // a: node; its pods have stopped
	callSentAgain                    // ref: call; its sender's kernel tries once more
	callArrives                      // ref: call; at the API server
	callCommits                      // ref: call
	callAnswered                     // ref: call; at whoever called
	callTimesOut                     // ref: call
	peerAsked                        // ref: question; at the peer
	peerAnswered                     // ref: question; at whoever asked
	pollEnds                         // a: node, ref: poll
	membersSeen                      // a: node; its agent looks at the membership
	watchHeard                       // a: watcher, b: node, ref: view; the watch brings a record
	watchAgain                       // a: watcher; a broken watch is made anew
	watcherLooks                     // a: watcher; its loop's timer
	watcherStart                     // a: watcher
	watcherPings                     // a: watcher
	watcherLease                     // a: watcher; it renews its leader Lease or tries to take it
	guardAnswers                     // a: watcher, ref: call; the look at a node before it is fenced
	recoverLoop                      // a: watcher; the controller of fences
	kubeletStart                     // a: node
	kubeletReports                   // a: node; renews its Lease, and reports its boot
	kubeletHeard                     // a: node, b: pod; the kubelet's watch
	kubeletAgain                     // a: node; the kubelet's broken watch is made anew
	kubeletTries                     // a: node, b: pod; tries to start a container
	containerStarts                  // a: node, b: pod
	podEnds                          // a: node, b: pod; a deleted pod's container ends
	podPlaced                        // b: pod; the owner has made the successor, and it is bound
	stallEnds                        // a: node
	faultBegins                      // ref: fault
	faultEnds                        // ref: fault
	calmBegins                       // the last fault is over
)

// options say how histories are made.
type options struct {
	seed   uint64
	terms  permission.Terms
	broken broken
}

// world is one history under way. It is used for many histories, one after the
// other, so that little is allocated.
type world struct {
	options
	random random
	queue  queue
	now    int64
	end    int64
	calmAt int64
	plan   plan
	count  int    // of nodes
	kept   []call // requests that are not sent yet

	net       network
	api       api
	nodes     []node
	watchers  [2]watcher
	pods      []pod
	questions []question
	polls     []poll
	serial    uint32

	// invariants
	failure string
	stats   stats

	events uint64
	digest uint64        // of all that has happened
	trace  *bufio.Writer // nil unless the history is told
}

func newWorld(o options) *world {
	return &world{options: o, nodes: make([]node, maxNodes), stats: newStats()}
}

// names are the nodes' names; what a world does with names must not depend on
// more than the digit.
var names = [maxNodes]string{"n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"}

func indexOf(name string) int { return int(name[1] - '0') }

// bootIDs are the boots of each node; a history has few.
var bootIDs = func() (ids [maxNodes][32]string) {
	for i := range ids {
		for j := range ids[i] {
			ids[i][j] = names[i] + "-boot" + strconv.Itoa(j)
		}
	}
	return ids
}()

// play runs one history and returns its failure, empty if there is none.
func (w *world) play(history uint64) string {
	w.random = random{state: w.seed*0x9e3779b97f4a7c15 + history*0xd1342543de82ef95}
	w.random.next()
	w.queue.reset()
	w.digest = 0
	w.now, w.failure, w.events = 0, "", 0
	w.net = network{}
	w.questions, w.polls = w.questions[:0], w.polls[:0]
	w.nodes = w.nodes[:0]
	w.plan = w.draw()
	w.prepare()
	w.run()
	if w.failure == "" && w.unseen() {
		// Only its Lease tells of a node that no watcher has met as a member.
		w.end += leaseTime
		w.run()
	}
	if w.failure == "" {
		w.now = w.end
		w.atEnd()
	}
	w.stats.Histories++
	w.stats.Flavours[w.plan.flavour]++
	w.stats.Simulated += w.now
	w.stats.Events += w.events
	return w.failure
}

func (w *world) after(d int64, kind happening, a, b int, ref int32, gen uint32) {
	w.queue.put(event{at: w.now + d, kind: kind, a: int16(a), b: int16(b), ref: ref, gen: gen})
}

// run plays what happens until the end.
func (w *world) run() {
	for len(w.queue.heap) > 0 && w.failure == "" && w.queue.heap[0].at <= w.end {
		e := w.queue.take()
		w.now = e.at
		w.events++
		w.mark(uint64(e.at)<<8 ^ uint64(e.kind) ^ uint64(e.a)<<56 ^ uint64(e.b)<<48)
		w.handle(&e)
	}
}

// mark adds to the digest of all that has happened.
func (w *world) mark(v uint64) {
	w.digest = (w.digest ^ v) * 0x9e3779b97f4a7c15
	w.digest ^= w.digest >> 29
}

// tell writes a line of the trace. Callers check w.trace first where the arguments
// cost something.
func (w *world) tell(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%9.4fs  %s\n", float64(w.now)/1e9, fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("at %.4fs: ", float64(w.now)/1e9) + fmt.Sprintf(format, args...)
		w.tell("FAILURE: %s", w.failure)
	}
}

func (w *world) handle(e *event) {
	switch e.kind {
	case fencerPass, fencerStart, frozen, membersSeen, stallEnds, pollEnds:
		w.handleNode(e)
	case callSentAgain, callArrives, callCommits, callAnswered, callTimesOut:
		w.handleCall(e)
	case peerAsked, peerAnswered:
		w.handleQuestion(e)
	case watchHeard, watchAgain, watcherLooks, watcherStart, watcherPings, watcherLease, guardAnswers, recoverLoop:
		w.handleWatcher(e)
	case kubeletStart, kubeletReports, kubeletHeard, kubeletAgain, kubeletTries, containerStarts, podEnds, podPlaced:
		w.handleKubelet(e)
	default:
		w.handleFault(e)
	}
}
