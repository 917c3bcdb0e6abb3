package fence

import (
	"container/heap"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// calm is when the last disturbance of a simulated world has ended.
const calm = 31 * time.Second

// TestNothingRunsTwice plays node, API and watcher against each other, with
// requests that are slow, are lost, or are answered to nobody, with clocks that
// drift apart as far as the terms allow, and with containers that start at any
// time. Once a fencing has been written, no copy of an older epoch may run on
// the node, not even for a moment. In the end, with the network whole again,
// the node has to be permitted again.
func TestNothingRunsTwice(t *testing.T) {
	fencings, refutations := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.Int64().Draw(t, "seed"), rapid.Float64Range(-permission.Default.Drift, permission.Default.Drift).Draw(t, "drift"))
		for range rapid.IntRange(0, 4).Draw(t, "cuts") {
			from := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "cutFromMs")) * time.Millisecond
			length := time.Duration(rapid.IntRange(100, 6_000).Draw(t, "cutForMs")) * time.Millisecond
			w.cuts = append(w.cuts, [2]time.Duration{from, from + length})
		}
		for range rapid.IntRange(1, 6).Draw(t, "suspicions") {
			w.at(time.Duration(rapid.IntRange(0, 25_000).Draw(t, "suspectedAtMs"))*time.Millisecond, w.declareLost)
		}
		for range rapid.IntRange(1, 8).Draw(t, "containers") {
			w.at(time.Duration(rapid.IntRange(0, 25_000).Draw(t, "startedAtMs"))*time.Millisecond, w.startContainer)
		}
		w.run(calm + 9*time.Second)
		if w.violation != "" {
			t.Fatalf("%s", w.violation)
		}
		if !w.permit.Decide(w.nodeClock(), NoContainer).Permitted {
			t.Fatalf("not permitted 9 s after the last disturbance; the record is %+v", w.record)
		}
		fencings += w.fencings
		refutations += w.refutations
	})
	if fencings == 0 || refutations == 0 {
		t.Errorf("%d fencings and %d refutations: the disturbances do not reach what they are to test", fencings, refutations)
	}
}

// world is one simulated node, its record in the API and a watcher. Time is the
// watcher's clock.
type world struct {
	random *rand.Rand
	drift  float64
	cuts   [][2]time.Duration // when the node's requests and answers are lost
	now    time.Duration
	queue  events

	record  *Record
	version int

	permit     *Permit
	containers []*simulated
	published  State

	fencings, refutations int
	violation             string
}

// simulated is a container of the simulated node.
type simulated struct {
	epoch                  int64
	running, frozen, dying bool
}

func newWorld(seed int64, drift float64) *world {
	w := &world{random: rand.New(rand.NewSource(seed)), drift: drift, permit: NewPermit(permission.Default, thisBoot)}
	w.at(0, w.pass)
	return w
}

// nodeClock runs slower than the watcher's where drift is positive.
func (w *world) nodeClock() Instant {
	return second + Instant(float64(w.now)/(1+w.drift))
}

func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int63n(int64(d) + 1))
}

// delay is what one way of a request takes: mostly little, sometimes long.
func (w *world) delay() time.Duration {
	if w.now < calm && w.random.Intn(10) == 0 {
		return w.upTo(3 * time.Second)
	}
	return w.upTo(30 * time.Millisecond)
}

func (w *world) connected() bool {
	for _, cut := range w.cuts {
		if w.now >= cut[0] && w.now < cut[1] {
			return false
		}
	}
	return true
}

// request sends something from the node to the API, which commits it, and
// brings back the answer. Either way may lose it; then the node gives up at its
// time limit, while the commit may still come.
func (w *world) request(commit func() any, answered func(result any, ok bool)) {
	done := false
	finish := func(result any, ok bool) {
		if !done {
			done = true
			answered(result, ok)
		}
	}
	w.after(permission.Default.Period, func() { finish(nil, false) })
	if !w.connected() {
		return
	}
	w.after(w.delay(), func() {
		result := commit()
		w.after(w.delay(), func() {
			if w.connected() {
				finish(result, true)
			}
		})
	})
}

// pass is one pass of the fencer; the next follows a tick later. Together with
// the time to freeze it stays inside the terms' margin.
func (w *world) pass() {
	w.after(w.upTo(passEvery), w.pass)
	now := w.nodeClock()
	oldest := int64(NoContainer)
	for _, c := range w.containers {
		oldest = min(oldest, c.epoch)
	}
	d := w.permit.Decide(now, oldest)
	w.published = State{Epoch: w.permit.Epoch(), PermittedUntil: w.permit.Until()}
	for _, c := range w.containers {
		w.enforce(c, d)
	}
	if d.Read {
		w.request(func() any { return clone(w.record) }, func(result any, ok bool) {
			if ok {
				w.permit.Answered(Read{Started: now, Record: result.(*Record)})
			}
		})
	}
	if d.Write != NoWrite {
		w.request(func() any { w.commitWrite(d); return nil }, func(any, bool) { w.permit.Written(w.nodeClock()) })
	}
}

// enforce carries out a decision on one container.
func (w *world) enforce(c *simulated, d Decision) {
	switch {
	case c.epoch < d.KillBelow:
		if !c.dying {
			c.dying, c.running = true, false
			w.after(w.upTo(500*time.Millisecond), func() { w.remove(c) })
		}
	case !d.Permitted && !c.frozen:
		c.frozen = true
		w.after(w.upTo(permission.Default.Stop+permission.Default.Slack), func() { c.running = c.running && !c.frozen })
	case d.Permitted && c.frozen:
		c.frozen, c.running = false, true
		w.check("was thawed")
	}
}

func (w *world) remove(c *simulated) {
	for i, other := range w.containers {
		if other == c {
			w.containers = append(w.containers[:i], w.containers[i+1:]...)
			return
		}
	}
}

// startContainer is the container runtime, which starts nothing protected
// without a permission.
func (w *world) startContainer() {
	if w.nodeClock() < w.published.PermittedUntil {
		w.containers = append(w.containers, &simulated{epoch: w.published.Epoch, running: true})
		w.check("was started")
	}
}

// commitWrite is the API's side of the node's compare-and-swap.
func (w *world) commitWrite(d Decision) {
	switch {
	case d.Write == Create && w.record == nil:
		w.commit(Record{State: v1alpha1.FenceRunning, Epoch: d.KillBelow + 1, BootID: thisBoot})
	case d.Write != Create && w.record != nil && w.record.Version == d.Replaces.Version:
		if d.Write == Refute {
			w.refutations++
		}
		w.commit(Record{State: v1alpha1.FenceRunning, Epoch: w.record.Epoch, BootID: thisBoot})
	}
}

func (w *world) commit(r Record) {
	w.version++
	r.Version = fmt.Sprint(w.version)
	w.record = &r
}

// declareLost is the watcher. It reaches the API at all times; its answers are
// late now and then.
func (w *world) declareLost() {
	if w.record == nil || w.record.State != v1alpha1.FenceRunning {
		return
	}
	lost := *w.record
	lost.State = v1alpha1.FenceLost
	w.commit(lost)
	declared := w.record.Version
	w.after(w.upTo(100*time.Millisecond)+permission.Default.Wait(), func() {
		if w.record.Version != declared {
			return
		}
		fenced := *w.record
		fenced.State, fenced.Epoch = v1alpha1.FenceFenced, fenced.Epoch+1
		w.commit(fenced)
		w.fencings++
		w.check("ran when its successor could start")
	})
}

// check looks for a container that runs although a newer epoch was fenced.
func (w *world) check(what string) {
	for _, c := range w.containers {
		if c.running && w.record != nil && c.epoch < w.record.Epoch && w.violation == "" {
			w.violation = fmt.Sprintf("at %s a container of epoch %d %s in epoch %d", w.now, c.epoch, what, w.record.Epoch)
		}
	}
}

func clone(r *Record) *Record {
	if r == nil {
		return nil
	}
	c := *r
	return &c
}

// run plays all events until end.
func (w *world) run(end time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= end {
		next := heap.Pop(&w.queue).(event)
		w.now = next.at
		next.happen()
	}
	w.now = end
}

func (w *world) at(when time.Duration, happen func()) {
	heap.Push(&w.queue, event{at: when, order: w.random.Int(), happen: happen})
}

func (w *world) after(delay time.Duration, happen func()) { w.at(w.now+delay, happen) }

// event is something that happens; events of the same moment happen in any order.
type event struct {
	at     time.Duration
	order  int
	happen func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
