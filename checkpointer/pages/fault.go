package pages

import (
	"sync"
	"sync/atomic"
	"time"
)

// fault is a page that a process waits for.
type fault struct {
	space *space
	page  uint64
	seen  time.Time
}

// faultQueue are the faults that nobody answers yet. They are no more than the
// threads of the container.
type faultQueue struct {
	mu     sync.Mutex
	ready  sync.Cond
	faults []fault
	closed bool
	// open counts the faults that are not answered yet; last is when the last one
	// came, in nanoseconds since 1970.
	open, last atomic.Int64
	// owned counts the faults that those answer who have read them.
	owned atomic.Int64
}

// opened counts faults that were just read.
func (q *faultQueue) opened(n int, seen time.Time) {
	if n > 0 {
		q.open.Add(int64(n))
		q.last.Store(seen.UnixNano())
	}
}

// own is whether the caller may answer a fault itself, without more than most
// being answered that way.
func (q *faultQueue) own(most int) bool {
	if q.owned.Add(1) <= int64(most) {
		return true
	}
	q.owned.Add(-1)
	return false
}

func (q *faultQueue) disown() { q.owned.Add(-1) }

// put leaves faults to the workers.
func (q *faultQueue) put(faults []fault) {
	if len(faults) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.faults = append(q.faults, faults...)
	q.ready.Broadcast()
}

func (q *faultQueue) get() (fault, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.faults) == 0 && !q.closed {
		q.ready.Wait()
	}
	if q.closed {
		return fault{}, false
	}
	f := q.faults[0]
	q.faults = q.faults[1:]
	return f, true
}

func (q *faultQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ready.Broadcast()
}

// recent is whether a fault is open, or came a moment ago.
func (q *faultQueue) recent() bool {
	const moment = 5 * time.Millisecond
	return q.open.Load() > 0 || time.Now().UnixNano()-q.last.Load() < int64(moment)
}

func (d *Daemon) answerFaults() {
	for {
		f, more := d.faults.get()
		if !more {
			return
		}
		d.answerFault(f)
	}
}

func (d *Daemon) answerFault(f fault) {
	answered, err := d.answer(f)
	if err != nil {
		d.fail(err)
		return
	}
	if answered {
		d.faults.open.Add(-1)
		d.counts.fault(time.Since(f.seen))
	}
}

// answer answers a fault. It returns false where that is left to whoever already
// reads the chunk.
func (d *Daemon) answer(f fault) (bool, error) {
	var waited patience
	for {
		f.space.mu.RLock()
		p, bit, err := d.zero(f.space, f.page)
		f.space.mu.RUnlock()
		if err != nil {
			if err := d.setback(f.space, err, &waited); err != nil {
				return false, err
			}
			continue
		}
		if p == nil {
			d.finish(f.space)
			return true, nil
		}
		if !p.chunk.take(d.index, f) {
			return false, nil
		}
		there := false
		err = d.read([]*chunk{p.chunk}, func(c *chunk, data []byte) error {
			n, err := d.fillPiece(p, data, pageBits(bit, 1))
			there = n > 0
			if err == nil {
				var more int64
				more, err = d.fill(c, data)
				n += more
			}
			d.counts.faultBytes.Add(n * int64(pageSize))
			return err
		})
		d.faults.put(p.chunk.give(d.index))
		if err != nil || there {
			return there, err
		}
	}
}

// take makes the caller the one that reads the chunk because of faults, or leaves
// the fault to whom it is.
func (c *chunk) take(x *index, f fault) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.reading {
		c.waiting = append(c.waiting, f)
		return false
	}
	c.reading = true
	return true
}

// give ends take, and returns the faults that were left to the caller.
func (c *chunk) give(x *index) []fault {
	x.mu.Lock()
	defer x.mu.Unlock()
	c.reading = false
	waiting := c.waiting
	c.waiting = nil
	return waiting
}
