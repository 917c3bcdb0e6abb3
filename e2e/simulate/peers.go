package main

import (
	"slices"

	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// promiseTime is how long a watcher waits for a peer's promise.
const promiseTime = 500 * millisecond

// question is one message to a peer, and its answer.
type question struct {
	peer, about int
	// poll is the asking node's poll, or -1 where a watcher asks for a promise.
	poll      int32
	watcher   int
	serial    uint32 // the poll's
	process   uint32
	asked     int64 // true time
	record    int64 // the generation that the watcher asks about
	yes       bool
	readable  bool
	unrelated bool // free for another question
}

// poll is one round of a node's questions.
type poll struct {
	fence.Poll
	node    int
	process uint32
	pending int
	serial  uint32
	free    bool
}

func (w *world) newQuestion(q question) int32 {
	for i := range w.questions {
		if w.questions[i].unrelated {
			w.questions[i] = q
			return int32(i)
		}
	}
	w.questions = append(w.questions, q)
	return int32(len(w.questions) - 1)
}

func (w *world) newPoll(p poll) int32 {
	w.serial++
	p.serial = w.serial
	for i := range w.polls {
		if w.polls[i].free {
			p.Vouched = w.polls[i].Vouched[:0]
			w.polls[i] = p
			return int32(i)
		}
	}
	w.polls = append(w.polls, p)
	return int32(len(w.polls) - 1)
}

// poll asks a node's peers whether they cannot read the API either.
func (w *world) poll(n *node, now fence.Instant, peers []string) {
	w.stats.Polls++
	w.trigger(onPoll, n.index)
	ref := w.newPoll(poll{Poll: fence.Poll{Started: now, Asked: peers}, node: n.index, process: n.process, pending: len(peers)})
	w.after(int64(w.terms.ReadEvery), pollEnds, n.index, 0, ref, n.process)
	for _, peer := range peers {
		j := indexOf(peer)
		if d, ok := w.travel(n.index, j); ok {
			q := w.newQuestion(question{peer: j, about: n.index, poll: ref, serial: w.polls[ref].serial, process: n.process, asked: w.now})
			w.after(d, peerAsked, j, 0, q, 0)
		}
	}
}

// endPoll ends a poll: when enough have vouched, all have answered, or the time for it
// is over.
func (w *world) endPoll(n *node, ref int32) {
	p := &w.polls[ref]
	if p.pending < 0 || p.process != n.process {
		return
	}
	p.pending = -1
	now := w.instant(n)
	if w.trace != nil {
		w.tell("%s: %d of %d peers vouch", names[n.index], len(p.Vouched), len(p.Asked))
	}
	before := n.permit.Until()
	n.permit.Polled(now, fence.Poll{Started: p.Started, Asked: p.Asked, Vouched: slices.Clone(p.Vouched)})
	if n.permit.Until() > before {
		w.stats.Extensions++
	}
	enough := len(p.Asked) > 0 && 2*len(p.Vouched) >= len(p.Asked)
	if enough && (w.broken.revive || w.broken.peersUnsettled && now < before) {
		n.permit.Resume(p.Started.Add(w.terms.Period), 0)
	}
	w.pass(n)
}

// handleQuestion handles questions at the peer, and answers at whoever asked.
func (w *world) handleQuestion(e *event) {
	q := &w.questions[e.ref]
	if e.kind == peerAsked {
		w.askPeer(q, e)
		return
	}
	if q.poll >= 0 {
		n := &w.nodes[q.about]
		if until := n.fencerUntil(); until > w.now {
			w.after(until-w.now, e.kind, 0, 0, e.ref, 0)
			return
		}
		p := &w.polls[q.poll]
		if n.up && n.fencerUp && q.process == n.process && p.serial == q.serial && p.pending > 0 {
			p.pending--
			if q.yes {
				p.Vouched = append(p.Vouched, names[q.peer])
			}
			if p.pending == 0 || 2*len(p.Vouched) >= len(p.Asked) {
				w.endPoll(n, q.poll)
			}
		}
		w.questions[e.ref].unrelated = true
		return
	}
	x := &w.watchers[q.watcher]
	if until := w.watcherUntil(q.watcher); until > w.now {
		w.after(until-w.now, e.kind, 0, 0, e.ref, 0)
		return
	}
	q.unrelated = true
	if x.up && q.process == x.process && w.now-q.asked <= promiseTime && (q.yes || !q.readable) {
		now := x.clock.time(w.now)
		if q.yes {
			w.stats.Promises++
		}
		x.machine.Promised(now, decide.Promise{Node: names[q.about], Generation: q.record, Peer: names[q.peer],
			Promised: q.yes, Asked: x.clock.time(q.asked)})
		w.step(q.watcher)
	}
}

// askPeer is a question that has come to a peer's fencer.
func (w *world) askPeer(q *question, e *event) {
	n := &w.nodes[q.peer]
	if until := n.fencerUntil(); until > w.now && n.up && n.fencerUp {
		w.after(until-w.now, e.kind, 0, 0, e.ref, 0)
		return
	}
	if !n.up || !n.fencerUp {
		q.unrelated = true
		return
	}
	now := w.instant(n)
	to := q.about
	if q.poll >= 0 {
		q.yes = n.vouching.Vouch(now, names[q.about])
	} else {
		to = w.watchers[q.watcher].host
		q.yes = n.vouching.Promise(now, names[q.about])
		q.readable = n.vouching.Readable(now)
		w.trigger(onPromise, q.about)
	}
	if d, ok := w.travel(q.peer, to); ok {
		w.after(d, peerAnswered, 0, 0, e.ref, 0)
	} else {
		q.unrelated = true
	}
}
