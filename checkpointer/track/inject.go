package track

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// errBusy is when nothing can be called for a process at this moment: a thread was
// stopped inside a restartable sequence, or its program is being replaced.
var errBusy = errors.New("no system call can be made for it")

// busyTries is how often a process is stopped anew after errBusy, which mostly is
// over within microseconds.
const busyTries = 100

// graceTime is how long a process that is being put back in order is waited for.
const graceTime = 100 * time.Millisecond

// userfaultfdUserMode is UFFD_USER_MODE_ONLY: without it a process without
// CAP_SYS_PTRACE, as in most containers, gets none. It limits what is handed to
// the descriptor's reader; asynchronous write protection hands out nothing, and
// resolves the kernel's own writes as well.
const userfaultfdUserMode = 1

// takeUserfaultfd makes a process create a userfaultfd of its memory, and takes
// it away from it. While that goes on the process is stopped, so that nothing
// of it sees the descriptor, nor passes it on. It gives up when ctx ends before
// the process is stopped. After that it must finish, for the process has
// foreign values in its registers: that is left to a thread in the background
// should somebody freeze the process meanwhile.
func takeUserfaultfd(ctx context.Context, p *process) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	type answer struct {
		fd  int
		err error
	}
	for try := 1; ; try++ {
		answers := make(chan answer, 1)
		onTracer(func() {
			// Its own handle of the process, for this may outlast the caller's.
			own, err := open(p.pid)
			if err != nil {
				answers <- answer{-1, err}
				return
			}
			defer own.Close()
			fd, err := stopAndTake(ctx, own)
			answers <- answer{fd, err}
		})
		select {
		case a := <-answers:
			if errors.Is(a.err, errBusy) && try < busyTries {
				continue
			}
			return a.fd, a.err
		case <-ctx.Done():
		}
		// Its own answer says more, and is there at once unless the process is frozen now.
		select {
		case a := <-answers:
			return a.fd, a.err
		case <-time.After(graceTime):
		}
		go func() {
			if a := <-answers; a.err == nil {
				unix.Close(a.fd)
			}
		}()
		return -1, fmt.Errorf("it does not run on after it was stopped: is its cgroup frozen? %w", ctx.Err())
	}
}

func stopAndTake(ctx context.Context, p *process) (fd int, err error) {
	options, err := seccompOptions(p)
	if err != nil {
		return -1, err
	}
	instruction, err := findSyscall(p)
	if err != nil {
		return -1, err
	}
	s, err := stop(ctx, p, options)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err = errors.Join(err, s.resume()); err != nil && fd >= 0 {
			unix.Close(fd)
			fd = -1
		}
	}()
	c := caller{stopped: s, tid: p.pid, instruction: instruction}
	if err := c.begin(); err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, c.finish()) }()

	remote, err := c.call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|userfaultfdUserMode)
	if err != nil {
		return -1, fmt.Errorf("let it create a userfaultfd: %w", err)
	}
	fd, err = unix.PidfdGetfd(p.pidfd, int(remote), 0)
	if err != nil {
		fd, err = -1, fmt.Errorf("take its userfaultfd: %w", err)
	}
	if _, closeErr := c.call(unix.SYS_CLOSE, uint64(remote)); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("let it close its userfaultfd: %w", closeErr))
	}
	return fd, err
}

// seccompOptions are ptrace's options to keep a process's seccomp filter from
// seeing the calls that are made for it, for it may end the process for them.
func seccompOptions(p *process) (int, error) {
	status, err := readStatus(p.pid)
	if err != nil {
		return 0, err
	}
	options := unix.PTRACE_O_TRACESYSGOOD
	if status["Seccomp"] == "" || status["Seccomp"] == "0" {
		return options, nil
	}
	own, err := readStatus(os.Getpid())
	if err != nil {
		return 0, err
	}
	if own["Seccomp"] != "" && own["Seccomp"] != "0" {
		return 0, errors.New("it has a seccomp filter, which only a process without one can suspend: run this one with seccomp Unconfined")
	}
	return options | unix.PTRACE_O_SUSPEND_SECCOMP, nil
}

// findSyscall returns the address of an instruction in a process that makes a
// system call, so that none needs to be written into it: of the vDSO where it
// has one, else of any program or library in it.
func findSyscall(p *process) (uint64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil {
		return 0, ended(err)
	}
	var candidates []memory.Span
	for line := range strings.Lines(string(content)) {
		a, err := parseArea(strings.TrimSuffix(line, "\n"))
		switch {
		case err != nil:
			return 0, err
		case !strings.HasPrefix(a.permissions, "r-x") || a.name == "[vsyscall]":
		case a.name == "[vdso]":
			candidates = slices.Insert(candidates, 0, a.span)
		default:
			candidates = append(candidates, a.span)
		}
	}
	buf := make([]byte, 1<<20)
	for _, span := range candidates {
		for at := span.Start; at < span.End; at += uint64(len(buf)) {
			part := memory.Span{Start: at, End: min(span.End, at+uint64(len(buf)))}
			n, err := readRanges(p.pid, []memory.Span{part}, buf[:part.Bytes()])
			if err != nil {
				break
			}
			if i := indexInstruction(buf[:n]); i >= 0 {
				return at + uint64(i), nil
			}
		}
	}
	if err := p.alive(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("%w: its program has no instruction for one", errBusy)
}

// indexInstruction finds the instruction in code that begins at a page. What
// follows it does not matter: it is not reached.
func indexInstruction(code []byte) int {
	for from := 0; ; from++ {
		i := bytes.Index(code[from:], syscallInstruction)
		if i < 0 {
			return -1
		}
		if from += i; from%instructionAlignment == 0 {
			return from
		}
	}
}

// caller makes system calls on behalf of a stopped thread.
type caller struct {
	stopped     *stopped
	tid         int
	instruction uint64
	registers   registers
	blocked     uint64
}

// begin saves what the calls change, and keeps signals from being handled in between.
func (c *caller) begin() error {
	code := make([]byte, len(syscallInstruction))
	span := memory.Span{Start: c.instruction, End: c.instruction + uint64(len(code))}
	if n, err := readRanges(c.tid, []memory.Span{span}, code); err != nil || !bytes.Equal(code[:n], syscallInstruction) {
		return fmt.Errorf("%w: its program is another one now", errBusy)
	}
	var err error
	if c.registers, err = getRegisters(c.tid); err != nil {
		return err
	}
	if err := c.callable(); err != nil {
		return err
	}
	if err := ptrace(ptraceGetSigmask, c.tid, sigmaskBytes, uintptr(unsafe.Pointer(&c.blocked))); err != nil {
		return fmt.Errorf("read which signals it blocks: %w", err)
	}
	all := allSignals
	if err := ptrace(ptraceSetSigmask, c.tid, sigmaskBytes, uintptr(unsafe.Pointer(&all))); err != nil {
		return fmt.Errorf("block its signals: %w", err)
	}
	return nil
}

// callable fails where a call would not go unnoticed.
func (c *caller) callable() error {
	var dispatch struct{ mode, selector, offset, length uint64 } // struct ptrace_sud_config
	err := ptrace(ptraceGetDispatch, c.tid, unsafe.Sizeof(dispatch), uintptr(unsafe.Pointer(&dispatch)))
	if err == nil && dispatch.mode != 0 {
		return errors.New("it handles its system calls itself (PR_SET_SYSCALL_USER_DISPATCH), as emulators do")
	}
	var rseq struct { // struct ptrace_rseq_configuration
		address         uint64
		size, signature uint32
		flags, unused   uint32
	}
	err = ptrace(ptraceGetRseq, c.tid, unsafe.Sizeof(rseq), uintptr(unsafe.Pointer(&rseq)))
	if err != nil || rseq.address == 0 {
		return nil //nolint:nilerr // a kernel that cannot tell (before 5.13) has nothing else that is used here
	}
	// A call makes the kernel forget that the thread was inside a sequence, and so
	// to start the sequence again.
	pointer, err := c.words(rseq.address+8, 1)
	if err != nil || pointer[0] == 0 {
		return err
	}
	sequence, err := c.words(pointer[0], 3) // struct rseq_cs
	if err != nil {
		return err
	}
	if start, length := sequence[1], sequence[2]; c.registers.programCounter()-start < length {
		return fmt.Errorf("%w: it is inside a restartable sequence (rseq)", errBusy)
	}
	return nil
}

// words reads from the thread's memory.
func (c *caller) words(address uint64, n int) ([]uint64, error) {
	buf := make([]byte, 8*n)
	if got, err := readRanges(c.tid, []memory.Span{{Start: address, End: address + uint64(len(buf))}}, buf); got != len(buf) {
		return nil, fmt.Errorf("read its memory at %x: %w", address, err)
	}
	words := make([]uint64, n)
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(buf[8*i:])
	}
	return words, nil
}

// call makes one system call. It waits without a limit: between its start and
// finish the thread must not run on. PTRACE_SYSCALL, and not PTRACE_SINGLESTEP,
// because the kernel would reset the process's handler of SIGTRAP for the latter.
func (c *caller) call(number int, args ...uint64) (int64, error) {
	var three [3]uint64
	copy(three[:], args)
	if err := setRegisters(c.tid, c.registers.forCall(c.instruction, number, three)); err != nil {
		return 0, err
	}
	for range 2 { // its entry and its exit
		if err := c.runTo(unix.PTRACE_SYSCALL, func(status unix.WaitStatus) bool { return status.StopSignal() == ptraceSyscallStop }); err != nil {
			return 0, err
		}
	}
	after, err := getRegisters(c.tid)
	if err != nil {
		return 0, err
	}
	if result := after.result(); result >= 0 {
		return result, nil
	}
	return 0, unix.Errno(-after.result())
}

// runTo lets the thread run until it stops in a certain way.
func (c *caller) runTo(request int, there func(unix.WaitStatus) bool) error {
	for signal := 0; ; {
		if err := ptrace(request, c.tid, 0, uintptr(signal)); err != nil {
			return ended(err)
		}
		status, err := c.stopped.await(context.Background(), c.tid)
		if err != nil {
			return err
		}
		if !status.Stopped() {
			return ErrEnded
		}
		if there(status) {
			return nil
		}
		// SIGSTOP is the one signal that cannot be blocked and does not end the process: it gets it, and runs on for now.
		signal = 0
		if int(status)>>16 != unix.PTRACE_EVENT_STOP && status.StopSignal() != ptraceSyscallStop {
			signal = int(status.StopSignal())
		}
	}
}

// finish puts everything back as it was.
func (c *caller) finish() error {
	// Whether an interrupted call starts again is decided where the kernel looks for
	// signals, so that is where the thread must stop to get its registers back.
	if err := ptrace(unix.PTRACE_INTERRUPT, c.tid, 0, 0); err != nil {
		return ended(err)
	}
	err := c.runTo(unix.PTRACE_CONT, func(status unix.WaitStatus) bool { return int(status)>>16 == unix.PTRACE_EVENT_STOP })
	if err != nil {
		return err
	}
	err = setRegisters(c.tid, c.registers)
	if maskErr := ptrace(ptraceSetSigmask, c.tid, sigmaskBytes, uintptr(unsafe.Pointer(&c.blocked))); maskErr != nil {
		err = errors.Join(err, fmt.Errorf("unblock its signals: %w", maskErr))
	}
	return err
}
