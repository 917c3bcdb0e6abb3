package pages

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxPatience is how long a process may be in the middle of changing its address
// space, or lack the memory for a page, before that counts as an error.
const maxPatience = 30 * time.Second

// detourPause is how long a thread is given to tell of a change that it has made:
// it is about to, unless it has just lost its processor.
const detourPause = 10 * time.Millisecond

// follow reads what a userfaultfd has to say until its space is closed or the
// daemon ends. Whoever reads a fault answers it, which is faster than to wake
// another thread for it, and leaves following to another goroutine. There is one
// at any time.
func (d *Daemon) follow(s *space) {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.stop), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
			err = fmt.Errorf("its userfaultfd is broken: %#x", fds[0].Revents)
		}
		if err != nil {
			d.fail(fmt.Errorf("wait for faults of process %d: %w", s.pid, err))
			return
		}
		if fds[1].Revents != 0 {
			break
		}
		faults, err := d.readEvents(s)
		if err != nil {
			d.fail(err)
			return
		}
		if len(faults) > 0 && d.faults.own(d.options.FaultWorkers) {
			d.faults.put(faults[1:])
			d.work.Go(func() { d.follow(s) })
			d.answerFault(faults[0])
			d.faults.disown()
			return
		}
		d.faults.put(faults)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		return // until Stop
	}
	d.keep.remove(s, d.options.Log)
	unix.Close(s.fd)
	s.fd = -1
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open--; d.open == 0 && d.restored.Load() {
		d.completed()
	}
}

// readEvents reads what there is to read of a space and applies it. It returns the
// faults, which count as open.
func (d *Daemon) readEvents(s *space) ([]fault, error) {
	seen := time.Now()
	s.mu.Lock()
	pages, err := d.readLocked(s)
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("follow the memory of process %d: %w", s.pid, err)
	}
	var faults []fault
	for _, page := range pages {
		faults = append(faults, fault{s, page, seen})
	}
	d.faults.opened(len(faults), seen)
	d.finish(s)
	return faults, nil
}

// readLocked reads and applies changes, and returns the pages of faults. The
// space's lock is held alone: nothing is filled in between the moment when the
// process may go on and the one when it is known what it has changed. The shared
// state says busy until then, and for good after an error.
func (d *Daemon) readLocked(s *space) ([]uint64, error) {
	if s.closed {
		return nil, nil
	}
	d.state.busy().Add(1)
	faults, err := d.readAndApply(s)
	if err == nil {
		d.state.busy().Add(^uint32(0))
	}
	return faults, err
}

func (d *Daemon) readAndApply(s *space) ([]uint64, error) {
	if len(s.arrived) > 0 && !errors.Is(probe(s.fd, aside), unix.EAGAIN) {
		d.note(s, s.settle())
	}
	var faults []uint64
	var p patience
	for {
		more, read, err := s.read()
		if d.options.afterRead != nil {
			d.options.afterRead(len(read))
		}
		if err != nil {
			return nil, err
		}
		faults = append(faults, more...)
		if err := d.apply(s, read); err != nil {
			return nil, err
		}
		if len(s.detours) == 0 {
			return faults, nil
		}
		if len(read) == 0 && !errors.Is(probe(s.fd, aside), unix.EAGAIN) {
			d.note(s, s.settle())
			return faults, nil
		}
		// The thread that made room is about to tell. If those whose events were read
		// went on meanwhile, they could change the same addresses again.
		if !p.pause(d.ctx, detourPause) {
			return nil, errors.New("its address space does not settle")
		}
	}
}

// read reads messages, without waiting for any.
func (s *space) read() (faults []uint64, changes []message, err error) {
	n, err := unix.Read(s.fd, s.raw[:])
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read its userfaultfd: %w", err)
	}
	for raw := s.raw[:n]; len(raw) >= messageBytes; raw = raw[messageBytes:] {
		switch m := parseMessage(raw); m.event {
		case eventPageFault:
			faults = append(faults, m.a&^(pageSize-1))
		case eventFork, eventRemap, eventRemove, eventUnmap:
			changes = append(changes, m)
		default:
			return nil, nil, fmt.Errorf("unknown event %#x of the kernel", m.event)
		}
	}
	return faults, changes, nil
}

// apply does to a space what its process has done to its memory.
func (d *Daemon) apply(s *space, changes []message) error {
	for _, m := range changes {
		if m.event != eventFork {
			d.note(s, s.change(m))
			continue
		}
		if err := d.forked(s, int(m.a)); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) note(s *space, records []record) {
	for _, r := range records {
		r.space = uint32(s.number)
		d.state.note(r)
	}
}

// forked begins to serve a child that a process has just made.
func (d *Daemon) forked(parent *space, userfaultfd int) error {
	if d.restored.Load() && parent.missing.Load() == 0 {
		unix.Close(userfaultfd) // the child has everything
		return nil
	}
	child := newSpace(d.index, 0)
	parent.fork(child)
	child.detours = slices.Clone(parent.detours)
	settled := child.settle() // the events that are outstanding are not its own
	err := d.serve(child, userfaultfd, append([]record{{kind: recordFork, a: uint64(parent.number)}}, settled...))
	d.drains.wake()
	return err
}

// patience waits for what another thread is about to do: at first for almost no
// time, later longer.
type patience struct {
	since time.Time
	delay time.Duration
}

// wait returns false when it has taken too long altogether, or ctx has ended.
func (p *patience) wait(ctx context.Context) bool {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	passed := time.Since(p.since)
	if passed < 100*time.Microsecond {
		runtime.Gosched()
		return true
	}
	p.delay = min(max(2*p.delay, 20*time.Microsecond), 5*time.Millisecond)
	return p.pause(ctx, p.delay)
}

// pause waits for a time, else as wait.
func (p *patience) pause(ctx context.Context, delay time.Duration) bool {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(delay):
		return time.Since(p.since) < maxPatience
	}
}
