package pages

import (
	"encoding/binary"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's interface, from linux/userfaultfd.h.
const (
	ioctlCopy     = 0xc028aa03 // UFFDIO_COPY
	ioctlZeroPage = 0xc020aa04 // UFFDIO_ZEROPAGE
	ioctlWake     = 0x8010aa02 // UFFDIO_WAKE

	eventPageFault = 0x12
	eventFork      = 0x13
	eventRemap     = 0x14
	eventRemove    = 0x15
	eventUnmap     = 0x16

	messageBytes = 32
	// readMessages is how many messages are read at once.
	readMessages = 16
)

var pageSize = uint64(os.Getpagesize())

// message is one message of a userfaultfd.
type message struct {
	event byte
	// address of a fault; start and end of what was removed or unmapped; from, to
	// and length of what was moved; the new userfaultfd of a fork.
	a, b, c uint64
}

func parseMessage(raw []byte) message {
	m := message{event: raw[0]}
	x, y, z := binary.NativeEndian.Uint64(raw[8:]), binary.NativeEndian.Uint64(raw[16:]), binary.NativeEndian.Uint64(raw[24:])
	switch m.event {
	case eventPageFault:
		m.a = y // after flags
	case eventFork:
		m.a = uint64(binary.NativeEndian.Uint32(raw[8:]))
	default:
		m.a, m.b, m.c = x, y, z
	}
	return m
}

type uffdioCopy struct {
	dst    uint64
	src    unsafe.Pointer
	length uint64
	mode   uint64
	copied int64
}

type uffdioZeroPage struct {
	start, length uint64
	mode          uint64
	zeroed        int64
}

type uffdioRange struct{ start, length uint64 }

// copyPages puts data at an address of the process, wakes who waits for it, and
// returns how many bytes were put there. These may be fewer, or 0: then the error
// says what is the matter with the first page that is not.
func copyPages(fd int, address uint64, data []byte) (uint64, error) {
	return copyFrom(fd, address, unsafe.Pointer(unsafe.SliceData(data)), uint64(len(data)))
}

func copyFrom(fd int, address uint64, src unsafe.Pointer, length uint64) (uint64, error) {
	arg := uffdioCopy{dst: address, src: src, length: length}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlCopy, uintptr(unsafe.Pointer(&arg)))
	return outcome(arg.copied, errno)
}

// zeroPages makes pages of the process zero, else as copyPages.
func zeroPages(fd int, address, length uint64) (uint64, error) {
	arg := uffdioZeroPage{start: address, length: length}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlZeroPage, uintptr(unsafe.Pointer(&arg)))
	return outcome(arg.zeroed, errno)
}

func outcome(done int64, errno unix.Errno) (uint64, error) {
	if errno == 0 || done > 0 {
		return uint64(max(done, 0)), nil
	}
	return 0, errno
}

// wake lets all threads that wait for one of the pages try again.
func wake(fd int, address, length uint64) error {
	arg := uffdioRange{address, length}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlWake, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// wakeAll lets all threads of the process that wait for a page try again.
func wakeAll(fd int) {
	// The kernel refuses ranges that do not lie in the address space, the end of
	// which depends on the machine.
	const lowest = 1 << 16
	for bits := 56; bits > 30; bits-- {
		if wake(fd, lowest, 1<<bits-lowest-pageSize) == nil {
			return
		}
	}
}

// unreadable is a page that copying from fails with EFAULT.
var unreadable = sync.OnceValues(func() (unsafe.Pointer, error) {
	return unix.MmapPtr(-1, 0, nil, uintptr(pageSize), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
})

// probe tries to copy a page, which changes nothing: EAGAIN says that a change of
// the address space is under way, of which an event is to be read or its thread
// has yet to go on; ENOENT, that there is no memory at that address of which
// faults are reported; EFAULT, that there is.
func probe(fd int, address uint64) error {
	source, err := unreadable()
	if err != nil {
		return err
	}
	_, err = copyFrom(fd, address, source, pageSize)
	return err
}
