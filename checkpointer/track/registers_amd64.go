package track

import "golang.org/x/sys/unix"

// registers is struct user_regs_struct of sys/user.h.
type registers struct {
	r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8 uint64
	rax, rcx, rdx, rsi, rdi, origRax               uint64
	rip, cs, eflags, rsp, ss, fsBase, gsBase       uint64
	ds, es, fs, gs                                 uint64
}

// syscallInstruction makes a system call.
var syscallInstruction = []byte{0x0f, 0x05}

const instructionAlignment = 1

// programCounter is the address of the next instruction.
func (r registers) programCounter() uint64 { return r.rip }

// forCall returns the registers for a system call by an instruction at an address.
func (r registers) forCall(instruction uint64, number int, args [3]uint64) registers {
	r.rip, r.rax = instruction, uint64(number)
	r.rdi, r.rsi, r.rdx = args[0], args[1], args[2]
	r.origRax = ^uint64(0) // nothing is to be restarted
	return r
}

// result is what a system call has returned.
func (r registers) result() int64 { return int64(r.rax) }

// errRestartNoHand is the kernel's ERESTARTNOHAND: the call starts again, unless
// a signal is handled; then it returns EINTR.
const errRestartNoHand = 514

// restartInterrupted makes a stopped thread repeat a system call that would
// return EINTR to it for no other reason than the stop: the calls that
// signal(7) names for that. None of them has done anything when it returns EINTR.
func restartInterrupted(tid int) error {
	r, err := getRegisters(tid)
	if err != nil {
		return err
	}
	if int64(r.rax) != -int64(unix.EINTR) {
		return nil
	}
	switch int64(r.origRax) {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2,
		unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_MSGRCV, unix.SYS_MSGSND,
		unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS, unix.SYS_IO_URING_ENTER,
		// Of sockets with a time limit.
		unix.SYS_READ, unix.SYS_READV, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
		unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG:
		r.rax = ^uint64(errRestartNoHand - 1)
		return setRegisters(tid, r)
	}
	return nil
}
