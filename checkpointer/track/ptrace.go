package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ptraceGetSigmask    = 0x420a
	ptraceSetSigmask    = 0x420b
	ptraceGetRseq       = 0x420f
	ptraceGetDispatch   = 0x4210
	ptraceSyscallStop   = unix.SIGTRAP | 0x80
	noteRegisters       = 1 // NT_PRSTATUS
	sigmaskBytes        = 8
	allSignals          = ^uint64(0)
	yieldsBeforeWaiting = 500
)

// stopTime is how long a process may take to stop: those of its threads that have
// stopped wait for the others. A variable because emulated machines, on which
// the tests run as well, take longer.
var stopTime = 500 * time.Millisecond

func ptrace(request, tid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// onTracer calls do on a thread of its own, for to the kernel the tracer of a
// process is a thread. When do returns the thread ends, and with it the tracing
// of whatever do has not detached from.
func onTracer(do func()) {
	go func() {
		// Never unlocked: that ends the thread with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			do()
			return
		}
		// The first thread does not end so. Held here, it cannot be chosen again.
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		onTracer(func() {
			defer close(done)
			do()
		})
		<-done
	}()
}

// stopped is a process whose threads are all stopped by ptrace. It is used on
// the thread that has stopped it.
type stopped struct {
	process *process
	threads map[int]bool
}

// stop stops every thread of a process. options are ptrace's, for its first
// thread. Signals that arrive meanwhile are delivered, and system calls that
// were interrupted go on, when it is resumed. When stop fails, it resumes what has
// stopped, and the end of the calling thread lets go of the rest.
func stop(ctx context.Context, p *process, options int) (*stopped, error) {
	s := &stopped{process: p, threads: map[int]bool{}}
	if err := s.stopAll(ctx, options); err != nil {
		return nil, errors.Join(err, s.resume())
	}
	return s, nil
}

func (s *stopped) stopAll(ctx context.Context, options int) error {
	// A thread that is not stopped yet may make others, so the list is complete
	// only when nothing is new in it although all the others were stopped.
	for {
		fresh, err := s.seize(options)
		if err != nil {
			return err
		}
		if len(fresh) == 0 {
			break
		}
		for _, tid := range fresh {
			if !s.threads[tid] {
				continue // it has ended while another was waited for
			}
			if err := s.wait(ctx, tid); err != nil {
				return err
			}
		}
	}
	for tid := range s.threads {
		if err := restartInterrupted(tid); err != nil {
			return fmt.Errorf("thread %d: %w", tid, err)
		}
	}
	return s.process.alive()
}

// seize begins to stop the threads that are not known yet, and returns them.
func (s *stopped) seize(options int) ([]int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", s.process.pid))
	if err != nil {
		return nil, ended(err)
	}
	var fresh []int
	for _, entry := range entries {
		tid, err := strconv.Atoi(entry.Name())
		if err != nil || s.threads[tid] {
			continue
		}
		data := 0
		if tid == s.process.pid {
			data = options
		}
		err = ptrace(unix.PTRACE_SEIZE, tid, 0, uintptr(data))
		if err == nil {
			err = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0)
		}
		switch {
		case err == nil:
			s.threads[tid] = true
			fresh = append(fresh, tid)
		case errors.Is(err, unix.ESRCH) && tid != s.process.pid:
			// It has ended.
		case errors.Is(err, unix.EPERM) && tid != s.process.pid && unstoppable(s.process.pid, tid):
			// It runs no code of the process.
		default:
			return nil, s.refused(err)
		}
	}
	return fresh, nil
}

// refused explains why a process cannot be traced.
func (s *stopped) refused(err error) error {
	status, statusErr := readStatus(s.process.pid)
	if statusErr != nil {
		return statusErr
	}
	if err := s.process.alive(); err != nil {
		return err
	}
	if thread := status["TracerPid"]; thread != "0" {
		return fmt.Errorf("%w: thread %s of another process traces it already, as debuggers do: end that first", err, thread)
	}
	return fmt.Errorf("trace it: %w", err)
}

// unstoppable is whether a thread is ending, or is one that the kernel made to do a process's input and output.
func unstoppable(pid, tid int) bool {
	stat := readStat(pid, tid)
	return stat.state == "" || stat.state == "Z" || stat.state == "X" || stat.flags&(flagUserWorker|flagIOWorker) != 0
}

// wait waits until a thread that was told to has stopped.
func (s *stopped) wait(ctx context.Context, tid int) error {
	for {
		status, err := s.await(ctx, tid)
		switch {
		case err != nil:
			return fmt.Errorf("thread %d does not stop: is it in a frozen cgroup, or waiting for a disk? %w", tid, err)
		case !status.Stopped():
			delete(s.threads, tid)
			if tid == s.process.pid {
				return ErrEnded
			}
			return nil
		case int(status)>>16 == unix.PTRACE_EVENT_STOP:
			return nil
		}
		// A signal was about to be delivered when the thread was told to stop: it gets it first.
		if err := ptrace(unix.PTRACE_CONT, tid, 0, uintptr(status.StopSignal())); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("thread %d: deliver signal %d: %w", tid, status.StopSignal(), err)
		}
	}
}

// await waits for the next thing that ptrace tells of a thread. Most are told
// within microseconds, and a blocking wait could not end with ctx.
func (s *stopped) await(ctx context.Context, tid int) (unix.WaitStatus, error) {
	delay := 20 * time.Microsecond
	for turn := 0; ; turn++ {
		var status unix.WaitStatus
		n, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil)
		switch {
		case n == tid:
			return status, nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return 0, err
		case turn < yieldsBeforeWaiting:
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(delay):
			delay = min(2*delay, 5*time.Millisecond)
		}
		s.bury(tid)
	}
}

// bury takes note of the threads that were killed, but for one: the end of the
// first thread is told only when that of all others was heard.
func (s *stopped) bury(but int) {
	for tid := range s.threads {
		if tid != but && readStat(s.process.pid, tid).state == "Z" {
			var status unix.WaitStatus
			if n, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil); err != nil || n == tid && !status.Stopped() {
				delete(s.threads, tid)
			}
		}
	}
}

// resume lets all threads run on.
func (s *stopped) resume() error {
	var errs []error
	for tid := range s.threads {
		if err := ptrace(unix.PTRACE_DETACH, tid, 0, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("let thread %d run on: %w", tid, err))
		}
	}
	return errors.Join(errs...)
}

func getRegisters(tid int) (registers, error) {
	var r registers
	iov := unix.Iovec{Base: (*byte)(unsafe.Pointer(&r)), Len: uint64(unsafe.Sizeof(r))}
	if err := ptrace(unix.PTRACE_GETREGSET, tid, noteRegisters, uintptr(unsafe.Pointer(&iov))); err != nil {
		return r, fmt.Errorf("read its registers: %w", err)
	}
	if iov.Len != uint64(unsafe.Sizeof(r)) {
		return r, errors.New("it is a 32-bit program")
	}
	return r, nil
}

func setRegisters(tid int, r registers) error {
	iov := unix.Iovec{Base: (*byte)(unsafe.Pointer(&r)), Len: uint64(unsafe.Sizeof(r))}
	if err := ptrace(unix.PTRACE_SETREGSET, tid, noteRegisters, uintptr(unsafe.Pointer(&iov))); err != nil {
		return fmt.Errorf("set its registers: %w", err)
	}
	return nil
}
