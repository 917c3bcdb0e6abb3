package pages

import (
	"runtime"
	"sync"
)

// drainQueue is where drainers are in the source's order. The index's lock guards it.
type drainQueue struct {
	ready  sync.Cond // on the index's lock
	next   int
	closed bool
}

// drain fills in what nobody has asked for, until the daemon ends.
func (d *Daemon) drain() {
	for {
		batch := d.nextBatch()
		if batch == nil {
			return
		}
		err := d.read(batch, func(c *chunk, data []byte) error {
			// Those that were read may have waited for this processor.
			runtime.Gosched()
			n, err := d.fill(c, data)
			d.counts.drained.Add(n * int64(pageSize))
			return err
		})
		d.index.mu.Lock()
		for _, c := range batch {
			c.drained = false
			if c.wanted() { // by a child, or a part of a piece, that has come meanwhile
				d.drains.next = 0
				d.drains.ready.Broadcast()
			}
		}
		d.index.mu.Unlock()
		if err != nil {
			d.fail(err)
			return
		}
	}
}

// nextBatch returns the next chunks that are wanted somewhere, or nil at the end.
func (d *Daemon) nextBatch() []*chunk {
	d.index.mu.Lock()
	defer d.index.mu.Unlock()
	q := &d.drains
	for {
		if q.closed {
			return nil
		}
		most := d.options.BatchBytes
		if d.faults.recent() {
			most /= 4 // a fault may have to wait for the processor
		}
		var batch []*chunk
		bytes := 0
		begin := q.next
		for ; q.next < len(d.index.chunks) && bytes < most; q.next++ {
			c := d.index.chunks[q.next]
			if c.drained {
				continue
			}
			if !c.wanted() {
				d.state.fill(q.next)
				continue
			}
			c.drained = true
			batch = append(batch, c)
			bytes += c.bytes
		}
		if len(batch) > 0 {
			return batch
		}
		if begin > 0 {
			q.next = 0 // for what has been forked meanwhile
			continue
		}
		q.ready.Wait()
	}
}

// wanted is whether a space wants anything of the chunk. The index's lock is held.
func (c *chunk) wanted() bool {
	for _, p := range c.pieces {
		if p.wanted.Load() != 0 {
			return true
		}
	}
	return false
}

// wake lets drainers look again.
func (q *drainQueue) wake() {
	q.ready.L.Lock()
	defer q.ready.L.Unlock()
	q.next = 0
	q.ready.Broadcast()
}

func (q *drainQueue) close() {
	q.ready.L.Lock()
	defer q.ready.L.Unlock()
	q.closed = true
	q.ready.Broadcast()
}
