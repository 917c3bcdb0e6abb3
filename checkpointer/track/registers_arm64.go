package track

// registers is struct user_pt_regs of asm/ptrace.h.
type registers struct {
	x      [31]uint64
	sp, pc uint64
	pstate uint64
}

// syscallInstruction makes a system call: svc #0.
var syscallInstruction = []byte{0x01, 0x00, 0x00, 0xd4}

const instructionAlignment = 4

// programCounter is the address of the next instruction.
func (r registers) programCounter() uint64 { return r.pc }

// forCall returns the registers for a system call by an instruction at an address.
func (r registers) forCall(instruction uint64, number int, args [3]uint64) registers {
	r.pc, r.x[8] = instruction, uint64(number)
	copy(r.x[:], args[:])
	return r
}

// result is what a system call has returned.
func (r registers) result() int64 { return int64(r.x[0]) }

// restartInterrupted does nothing here: the kernel has set the registers for the
// restart of a call before a thread stops, so that a sleep of a set length
// starts anew, and those of the few calls that return EINTR after a stop
// (signal(7)) are lost.
func restartInterrupted(tid int) error {
	_, err := getRegisters(tid)
	return err
}
