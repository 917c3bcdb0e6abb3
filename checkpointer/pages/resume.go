package pages

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Resume goes on for a daemon that has died after its restore was complete. The
// source must be as the former one's. After an error the descriptors of kept are
// still the caller's, who must kill the container before they are closed.
func Resume(ctx context.Context, kept Kept, source Source, options Options) (*Daemon, error) {
	d, err := resume(ctx, kept, source, options)
	if err != nil {
		return nil, fmt.Errorf("go on for a former page daemon: %w", err)
	}
	now := time.Now().UnixNano()
	d.counts.attached.Store(now)
	d.counts.restored.Store(now)
	d.begin()
	for _, s := range d.spaces {
		if s.closed {
			continue
		}
		d.work.Go(func() { d.follow(s) })
		// What the former one has read of them is lost: they ask again.
		wakeAll(s.fd)
	}
	d.goOn()
	go d.run()
	return d, nil
}

func resume(ctx context.Context, kept Kept, source Source, options Options) (*Daemon, error) {
	state, err := openState(kept.State)
	if err != nil {
		return nil, err
	}
	d, err := replay(ctx, state, source, options)
	if err == nil {
		err = d.adopt(kept.Userfaultfds)
	}
	if err != nil {
		state.unmap()
		return nil, err
	}
	return d, nil
}

// replay does what the processes have done since their restore to the spaces of
// the source.
func replay(ctx context.Context, state *state, source Source, options Options) (*Daemon, error) {
	switch {
	case state.restored().Load() != 1:
		return nil, ErrNotRestored
	case state.busy().Load() != 0:
		return nil, ErrUnsafe
	case state.full().Load() != 0:
		return nil, fmt.Errorf("%w: there were more than %d", ErrUnsafe, stateRecords)
	}
	chunks := source.Chunks()
	if uint64(len(chunks)) != state.chunks() {
		return nil, fmt.Errorf("the source has %d chunks, and the former one had %d", len(chunks), state.chunks())
	}
	d := newDaemon(ctx, source, options)
	l, err := layInto(d.index, chunks, state.filled)
	if err != nil {
		return nil, err
	}
	if l.fingerprint != state.fingerprint() {
		return nil, errors.New("the source has other memory than the former one")
	}
	d.use(l, state)
	for i, r := range state.records() {
		if err := d.replayed(r); err != nil {
			return nil, fmt.Errorf("record %d of the shared state: %w", i, err)
		}
	}
	return d, nil
}

func (d *Daemon) replayed(r record) error {
	var s *space
	if r.kind != recordAttach && r.kind != recordFork {
		if int(r.space) >= len(d.spaces) {
			return fmt.Errorf("there is no space %d", r.space)
		}
		s = d.spaces[r.space]
	}
	span := r.span()
	switch r.kind {
	case recordAttach, recordFork:
		return d.replayedSpace(r)
	case recordForget:
		s.forget(span)
	case recordDrop:
		s.drop(span)
	case recordMove:
		s.move(r.a, r.b, r.c)
	case recordClose:
		s.died()
		s.closed = true
	default:
		return fmt.Errorf("unknown kind %d", r.kind)
	}
	return nil
}

func (d *Daemon) replayedSpace(r record) error {
	// Two may have been noted in the order of their locks, not of their numbers.
	for len(d.spaces) <= int(r.space) {
		if r.space > stateRecords {
			return fmt.Errorf("space %d is impossible", r.space)
		}
		d.spaces = append(d.spaces, nil)
	}
	var s *space
	if r.kind == recordAttach {
		s = d.absent[int(r.a)]
		delete(d.absent, int(r.a))
		if s == nil {
			s = newSpace(d.index, int(r.a))
		}
	} else {
		if r.a >= uint64(len(d.spaces)) || d.spaces[r.a] == nil {
			return fmt.Errorf("there is no parent %d", r.a)
		}
		s = newSpace(d.index, 0)
		d.spaces[r.a].fork(s)
	}
	s.number = int(r.space)
	d.spaces[r.space] = s
	return nil
}

// adopt gives the spaces their userfaultfds.
func (d *Daemon) adopt(userfaultfds []int) error {
	for number, s := range d.spaces {
		if s == nil {
			return fmt.Errorf("%w: there is no record of space %d", ErrUnsafe, number)
		}
		if s.closed {
			continue
		}
		if number >= len(userfaultfds) || userfaultfds[number] < 0 {
			return fmt.Errorf("%w: the keeper has no userfaultfd of space %d", ErrUnsafe, number)
		}
		s.fd = userfaultfds[number]
		d.open++
	}
	for _, s := range d.spaces {
		stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return err
		}
		s.stop = stop
	}
	d.keep.open = d.keep.keeper != nil
	d.keep.whole = d.keep.open
	return nil
}
