package pages

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Daemon fills in the memory of the restored processes of one container.
type Daemon struct {
	source  Source
	options Options
	index   *index
	state   *state
	keep    keeping

	ctx    context.Context
	cancel context.CancelCauseFunc
	// work are all goroutines but the one that waits for them.
	work sync.WaitGroup
	done chan struct{}
	err  error // of Wait, once done is closed
	// released is closed once, by whoever lets go of everything.
	release sync.Once

	mu sync.Mutex // for what follows
	// spaces are all that there were, by their numbers; open counts those that are
	// not closed.
	spaces []*space
	open   int
	// absent are the processes that CRIU has not handed over yet.
	absent   map[int]*space
	complete chan struct{}

	// restored is whether all memory is registered: what is not then, never will be.
	restored atomic.Bool
	faults   faultQueue
	drains   drainQueue
	counts   counts
}

// Start makes a daemon that listens as lazy-pages.socket in workDir, the work
// folder of CRIU's restore, when it returns. The path may be of any length. When
// ctx ends the daemon ends as after an error.
//
// The restore has much to do before it hands over the first process; meanwhile the
// daemon lays out the source's chunks, which takes longer the more memory there is.
func Start(ctx context.Context, workDir string, source Source, options Options) (*Daemon, error) {
	listener, err := listen(workDir)
	if err != nil {
		return nil, fmt.Errorf("start the page daemon: listen in %s: %w", workDir, err)
	}
	d := newDaemon(ctx, source, options)
	d.work.Go(func() {
		err := d.layOut()
		if err == nil {
			d.keepAll()
			d.begin()
			err = d.restore(listener)
		}
		listener.Close()
		if err != nil {
			d.fail(err)
		}
	})
	go d.run()
	return d, nil
}

func newDaemon(ctx context.Context, source Source, options Options) *Daemon {
	d := &Daemon{source: source, options: options.complete(), index: &index{}, done: make(chan struct{}), complete: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	d.faults.ready.L, d.drains.ready.L = &d.faults.mu, &d.index.mu
	d.keep.keeper = d.options.Keeper
	return d
}

// layOut finds out what is to be filled in. Nothing else of the daemon works yet.
func (d *Daemon) layOut() error {
	l, err := layInto(d.index, d.source.Chunks(), func(int) bool { return false })
	if err != nil {
		return err
	}
	state, err := newState(l)
	if err != nil {
		return err
	}
	d.use(l, state)
	return nil
}

func (d *Daemon) use(l *layout, s *state) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.absent = s, l.spaces
}

// begin starts what answers faults.
func (d *Daemon) begin() {
	for range d.options.FaultWorkers {
		d.work.Go(d.answerFaults)
	}
	d.work.Go(d.keepAgain)
}

// restore takes the processes that a restore hands over.
func (d *Daemon) restore(listener *net.UnixListener) error {
	defer context.AfterFunc(d.ctx, func() { listener.Close() })()
	conn, err := listener.AcceptUnix()
	listener.Close()
	if err != nil {
		return fmt.Errorf("wait for the restore: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(d.ctx, func() { conn.Close() })()
	if err := receive(conn, d.attach); err != nil {
		return err
	}
	return d.allRestored()
}

// attach begins to serve a restored process.
func (d *Daemon) attach(pid, userfaultfd int) error {
	if link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", userfaultfd)); link != "anon_inode:[userfaultfd]" {
		unix.Close(userfaultfd)
		return fmt.Errorf("process %d came with a descriptor of %q, which is no userfaultfd", pid, link)
	}
	d.mu.Lock()
	s := d.absent[pid]
	delete(d.absent, pid)
	if s == nil {
		s = newSpace(d.index, pid)
	}
	d.counts.attached.CompareAndSwap(0, time.Now().UnixNano())
	d.mu.Unlock()
	return d.serve(s, userfaultfd, []record{{kind: recordAttach, a: uint64(pid)}})
}

// serve gives a space a number and begins to follow it, once the records are noted.
func (d *Daemon) serve(s *space, userfaultfd int, records []record) error {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(userfaultfd, true) // or poll would report an error
	}
	if err != nil {
		unix.Close(userfaultfd)
		return fmt.Errorf("serve process %d: %w", s.pid, err)
	}
	unix.CloseOnExec(userfaultfd)
	s.mu.Lock() // a shared chunk may be on its way here
	s.fd, s.stop = userfaultfd, stop
	s.mu.Unlock()
	d.mu.Lock()
	s.number = len(d.spaces)
	d.spaces = append(d.spaces, s)
	d.open++
	if d.ctx.Err() != nil {
		signal(stop) // those who end everything may have been here already
	}
	d.mu.Unlock()
	d.keep.add(s, d.options.Log)
	d.note(s, records)
	d.work.Go(func() { d.follow(s) })
	return nil
}

// allRestored is told when CRIU has restored all processes.
func (d *Daemon) allRestored() error {
	d.mu.Lock()
	for pid, s := range d.absent {
		if s.missing.Load() > 0 {
			d.mu.Unlock()
			return fmt.Errorf("%w: there is memory of process %d, which was not handed over", ErrNotRestored, pid)
		}
	}
	d.mu.Unlock()
	d.counts.restored.Store(time.Now().UnixNano())
	d.state.restored().Store(1)
	d.goOn()
	return nil
}

// goOn begins to fill in what nobody has asked for.
func (d *Daemon) goOn() {
	d.restored.Store(true)
	for range d.options.Drainers {
		d.work.Go(d.drain)
	}
	d.mu.Lock()
	spaces := append([]*space(nil), d.spaces...)
	if d.open == 0 {
		d.completed()
	}
	d.mu.Unlock()
	for _, s := range spaces {
		d.finish(s)
	}
}

// completed is called once no space is open any more. d.mu is held.
func (d *Daemon) completed() {
	select {
	case <-d.complete:
	default:
		close(d.complete)
	}
}

// finish closes a space that wants nothing any more: it is the process's own now.
func (d *Daemon) finish(s *space) {
	if s.missing.Load() > 0 || !d.restored.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.missing.Load() > 0 {
		return
	}
	s.closed = true
	d.state.note(record{kind: recordClose, space: uint32(s.number)})
	signal(s.stop)
}

// signal makes an eventfd readable for good.
func signal(eventfd int) {
	// Fails only where it was called 2^64 times.
	_, _ = unix.Write(eventfd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// fail ends the daemon with an error. The first one counts.
func (d *Daemon) fail(err error) { d.cancel(err) }

// run waits for the end.
func (d *Daemon) run() {
	select {
	case <-d.complete:
	case <-d.ctx.Done():
		d.err = context.Cause(d.ctx)
		if errors.Is(d.err, context.Canceled) || errors.Is(d.err, context.DeadlineExceeded) {
			d.err = fmt.Errorf("the page daemon ended early: %w", d.err)
		}
	}
	d.cancel(ErrStopped)
	d.faults.close()
	d.drains.close()
	d.mu.Lock()
	for _, s := range d.spaces {
		signal(s.stop)
	}
	d.mu.Unlock()
	d.work.Wait()
	d.counts.done.Store(time.Now().UnixNano())
	if d.err == nil {
		d.letGo(true)
	}
	close(d.done)
}

// letGo closes everything, here and, if so told, at the keeper.
func (d *Daemon) letGo(drop bool) {
	d.release.Do(func() {
		if drop {
			d.keep.drop(d.options.Log)
		} else {
			d.keep.leave()
		}
		for _, s := range d.spaces {
			if s.fd >= 0 {
				unix.Close(s.fd)
				s.fd = -1
			}
			unix.Close(s.stop)
		}
		if d.state != nil { // it was laid out
			d.state.close()
		}
	})
}

// Wait returns when the daemon has ended: nil when every page is filled in and
// the userfaultfds are closed.
//
// After an error pages may be missing and the userfaultfds are still open, so
// that processes wait for them. The caller must first kill the container and
// then call Stop: closed while a process lives, its missing pages turn into zeros.
func (d *Daemon) Wait() error {
	<-d.done
	return d.err
}

// Done is closed when Wait would return.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Stop ends the daemon if it has not ended yet, and closes everything. It is for
// a restore that did not take place, and for a container that was killed.
func (d *Daemon) Stop() {
	d.cancel(ErrStopped)
	<-d.done
	d.letGo(true)
}

// Leave ends the daemon without closing anything that its keeper holds, for an
// orderly end of this process: another daemon goes on from there. It is an error
// if the keeper does not hold everything; the daemon then goes on.
func (d *Daemon) Leave() error {
	select {
	case <-d.done:
		if d.err == nil {
			return nil // there is nothing left to do
		}
	default:
	}
	if !d.restored.Load() {
		return errors.New("leave a container to the keeper: it is still being restored")
	}
	if err := d.keep.held(); err != nil {
		return fmt.Errorf("leave a container to the keeper: %w", err)
	}
	d.cancel(ErrStopped)
	<-d.done
	if d.err == nil {
		return nil
	}
	if err := d.keep.held(); err != nil { // a child may have come meanwhile
		return fmt.Errorf("leave a container to the keeper: %w; it must be killed", err)
	}
	d.letGo(false)
	return nil
}
