package pages

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// fill puts a chunk's content wherever it is wanted, and returns how many pages
// that were.
func (d *Daemon) fill(c *chunk, data []byte) (int64, error) {
	d.index.mu.Lock()
	pieces := c.pieces // they only become more
	d.index.mu.Unlock()
	var filled int64
	for _, p := range pieces {
		n, err := d.fillPiece(p, data, ^uint64(0))
		filled += n
		if err != nil {
			return filled, err
		}
	}
	return filled, nil
}

// fillPiece puts the content of those of a piece's pages that are in the mask and wanted.
func (d *Daemon) fillPiece(p *piece, data []byte, mask uint64) (int64, error) {
	if need := uint64(p.offset) + uint64(p.pages)*pageSize; uint64(len(data)) < need {
		return 0, fmt.Errorf("chunk %d came with %d bytes and not with %d", p.chunk.id, len(data), need)
	}
	var filled int64
	var waited patience
	for p.wanted.Load()&mask != 0 {
		p.space.mu.RLock()
		n, err := d.put(p, data, mask)
		p.space.mu.RUnlock()
		filled += n
		if err == nil {
			break
		}
		if err := d.setback(p.space, err, &waited); err != nil {
			return filled, err
		}
	}
	d.finish(p.space)
	return filled, nil
}

// setback waits after a page could not be put, until it makes sense to try again.
func (d *Daemon) setback(s *space, err error, waited *patience) error {
	switch {
	case errors.Is(err, unix.EAGAIN): // the process is changing its address space, and may wait until that is read
		faults, err := d.readEvents(s)
		if err != nil {
			return err
		}
		d.faults.put(faults)
	case errors.Is(err, unix.ENOMEM): // its cgroup is full: the kernel may yet reclaim something
	default:
		return fmt.Errorf("fill in memory of process %d: %w", s.pid, err)
	}
	if !waited.wait(d.ctx) {
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		return fmt.Errorf("fill in memory of process %d: for %v: %w", s.pid, maxPatience, err)
	}
	return nil
}

// put is one attempt of fillPiece. The space's lock is held, shared. An EAGAIN or
// ENOMEM is no failure yet.
func (d *Daemon) put(p *piece, data []byte, mask uint64) (filled int64, err error) {
	s := p.space
	if s.closed || s.fd < 0 { // it has all, or has not been handed over yet
		return 0, nil
	}
	restored := d.restored.Load() // before anything is tried
	most := piecePages
	for left := p.wanted.Load() & mask; left != 0; {
		first := uint64(bits.TrailingZeros64(left))
		n := uint64(min(bits.TrailingZeros64(^(left >> first)), most))
		address, offset := p.address+first*pageSize, uint64(p.offset)+first*pageSize
		copied, err := copyPages(s.fd, address, data[offset:offset+n*pageSize])
		tried := max(copied/pageSize, 1)
		switch {
		case copied > 0:
			filled += p.take(pageBits(first, tried))
		case errors.Is(err, unix.EEXIST):
			p.take(pageBits(first, 1))
			err = wake(s.fd, address, pageSize)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return filled, err
			}
		case errors.Is(err, unix.ENOENT) && n > 1: // they may lie in two mappings
			most = 1
			continue
		case errors.Is(err, unix.ENOENT):
			// What was just moved away has left this behind too: only its event tells where to.
			if again := probe(s.fd, address); errors.Is(again, unix.EAGAIN) {
				return filled, again
			}
			if restored {
				d.unmapped(p, first)
			}
		case errors.Is(err, unix.ESRCH):
			s.died()
			return filled, nil
		default:
			return filled, err
		}
		left &^= pageBits(first, tried)
	}
	return filled, nil
}

// unmapped forgets a page at whose address there is no memory any more.
func (d *Daemon) unmapped(p *piece, page uint64) {
	start := p.address + page*pageSize
	p.take(pageBits(page, 1))
	d.state.note(record{kind: recordForget, space: uint32(p.space.number), a: start, b: start + pageSize})
	// Fails only for a process that has ended.
	_ = wake(p.space.fd, start, pageSize)
}

// died makes nothing wanted any more, of a process that has ended or become
// another program.
func (s *space) died() {
	for _, p := range s.pieces {
		p.take(p.wanted.Load())
	}
}

// read reads chunks of the source, and asks for a retry as long as that is wanted.
func (d *Daemon) read(chunks []*chunk, visit func(c *chunk, data []byte) error) error {
	left := make(map[int]*chunk, len(chunks))
	ids := make([]int, 0, len(chunks))
	for _, c := range chunks {
		left[c.id] = c
	}
	var failed error // of visit, which no retry mends
	for attempts := 1; ; attempts++ {
		ids = ids[:0]
		for _, c := range chunks {
			if left[c.id] != nil {
				ids = append(ids, c.id)
			}
		}
		if len(ids) == 0 {
			return nil
		}
		err := d.source.Read(d.ctx, ids, func(id int, data []byte) error {
			c := left[id]
			if c == nil {
				return nil // asked for, and here already
			}
			if failed = visit(c, data); failed == nil {
				delete(left, id)
			}
			return failed
		})
		if failed != nil {
			return failed
		}
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d of %d chunks did not come", len(left), len(ids))
		}
		if err != nil {
			d.counts.failures.Add(1)
			if !d.options.Retry(d.ctx, err, attempts) {
				return fmt.Errorf("read the memory of the container: %w", err)
			}
			if d.ctx.Err() != nil {
				return context.Cause(d.ctx)
			}
		}
	}
}

// zeroWindow is up to how far the pages after one without content are made zero
// with it: whoever allocates memory touches the next one soon.
const zeroWindow = 1 << 16

// zero makes a page zero for which a process waits, or returns the piece that
// wants it. The space's lock is held, shared.
func (d *Daemon) zero(s *space, page uint64) (*piece, uint64, error) {
	if s.closed {
		return nil, 0, nil
	}
	if p, bit := s.wants(page); p != nil {
		return p, bit, nil
	}
	length := s.unwanted(page, page/zeroWindow*zeroWindow+max(zeroWindow, pageSize))
	_, err := zeroPages(s.fd, page, length)
	if errors.Is(err, unix.ENOENT) && length > pageSize { // the mapping ends before
		_, err = zeroPages(s.fd, page, pageSize)
	}
	switch {
	case err == nil:
		d.counts.zeroFaults.Add(1)
		return nil, 0, nil
	case errors.Is(err, unix.EEXIST):
		err = wake(s.fd, page, pageSize)
	case errors.Is(err, unix.ENOENT):
		if again := probe(s.fd, page); errors.Is(again, unix.EAGAIN) {
			return nil, 0, again
		}
		err = wake(s.fd, page, pageSize) // it is no longer there to be waited for
	}
	if errors.Is(err, unix.ESRCH) {
		s.died()
		return nil, 0, nil
	}
	return nil, 0, err
}
