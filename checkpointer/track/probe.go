package track

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// errNotSeen is when a method does not notice what was written.
var errNotSeen = errors.New("it does not find what was written")

// Probe finds the best method that works on this kernel, by trying it on memory
// of its own. Kernels announce methods that they do not do. The error says why
// those that are better do not work; it is nil when the best one does.
func Probe() (Method, error) {
	var errs []error
	for _, method := range Methods {
		err := Works(method)
		if err == nil {
			return method, errors.Join(errs...)
		}
		errs = append(errs, fmt.Errorf("%s: %w", method, err))
	}
	return None, errors.Join(errs...)
}

// Works is nil when a method works on this kernel, and else says why it does not.
func Works(method Method) error {
	switch method {
	case Userfaultfd, SoftDirty:
		return try(method)
	case None:
		return nil
	}
	return fmt.Errorf("there is no method %q", method)
}

// try follows a few pages of this process and writes one of them.
func try(method Method) error {
	const pages = 4
	// A page on either side is out of reach: else the kernel may join the mapping with
	// a new one beside it, and then takes both for new.
	mapping, err := unix.Mmap(-1, 0, (pages+2)*int(pageSize), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(mapping) //nolint:errcheck // it fails for memory that is not mapped only
	own := mapping[pageSize:][:pages*pageSize]
	if err := unix.Mprotect(own, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	for i := range pages {
		own[i*int(pageSize)] = 1
	}
	start := uint64(uintptr(unsafe.Pointer(&own[0])))
	area := memory.Span{Start: start, End: start + uint64(len(own))}
	process, err := open(os.Getpid())
	if err != nil {
		return err
	}
	var tracker Tracker
	if method == SoftDirty {
		s, err := attachSoftDirty(process)
		if err != nil {
			process.Close()
			return err
		}
		s.alone = true
		tracker = s
	} else {
		fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|userfaultfdUserMode, 0, 0)
		if errno != 0 {
			process.Close()
			return fmt.Errorf("create a userfaultfd: %w", errno)
		}
		tracker = &uffd{process: process, fd: int(fd)}
		if err := enable(int(fd)); err != nil {
			tracker.Close()
			return err
		}
	}
	defer tracker.Close()
	for _, write := range []int{0, 2, -1, 1} {
		if write > 0 {
			own[write*int(pageSize)] = 2
		}
		runtime.KeepAlive(own)
		found, err := tracker.Written(memory.Set{area})
		if err != nil {
			return err
		}
		want := memory.Set{area}
		switch {
		case write < 0:
			want = nil
		case write > 0:
			page := start + uint64(write)*pageSize
			want = memory.Set{{Start: page, End: page + pageSize}}
		}
		if found.Bytes() != want.Bytes() || len(memory.Subtract(found, want)) > 0 {
			return fmt.Errorf("%w: of pages %s it names %v, and %v were", errNotSeen, area, found, want)
		}
	}
	return nil
}
