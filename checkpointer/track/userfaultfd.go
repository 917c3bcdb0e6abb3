package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Of linux/userfaultfd.h.
const (
	uffdAPI              = 0xaa
	uffdAPIRequest       = 0xc018aa3f // UFFDIO_API
	uffdRegister         = 0xc020aa00 // UFFDIO_REGISTER
	uffdWriteProtect     = 0xc018aa06 // UFFDIO_WRITEPROTECT
	uffdModeWP           = 1 << 1     // UFFDIO_REGISTER_MODE_WP
	uffdProtect          = 1 << 0     // UFFDIO_WRITEPROTECT_MODE_WP
	uffdFeatureWPNoPages = 1 << 13    // UFFD_FEATURE_WP_UNPOPULATED, which PAGEMAP_SCAN asks for
	uffdFeatureWPAsync   = 1 << 15    // UFFD_FEATURE_WP_ASYNC
)

// errNewMemory is when the memory that was followed is no more: its process has
// ended, or runs another program.
var errNewMemory = errors.New("its memory was replaced")

// uffd follows a process with asynchronous write protection: the kernel protects
// pages, and when one is written it unprotects it by itself and goes on. A page
// that is not protected was written. The descriptor lives here, not in the
// process, which notices nothing but the faults.
type uffd struct {
	process *process
	fd      int
	// followed are the areas that were registered when they were last looked at.
	followed memory.Set
}

func attachUserfaultfd(ctx context.Context, p *process) (*uffd, error) {
	u := &uffd{process: p, fd: -1}
	if err := u.take(ctx); err != nil {
		return nil, err
	}
	return u, nil
}

// take gets a descriptor for the memory that the process has now.
func (u *uffd) take(ctx context.Context) error {
	fd, err := takeUserfaultfd(ctx, u.process)
	if err != nil {
		return err
	}
	if err := enable(fd); err != nil {
		unix.Close(fd)
		return err
	}
	if u.fd >= 0 {
		unix.Close(u.fd)
	}
	u.fd, u.followed = fd, nil
	return nil
}

func enable(fd int) error {
	api := struct{ api, features, ioctls uint64 }{api: uffdAPI, features: uffdFeatureWPAsync | uffdFeatureWPNoPages}
	if err := ioctl(fd, uffdAPIRequest, unsafe.Pointer(&api)); err != nil {
		return fmt.Errorf("this kernel's userfaultfd has no asynchronous write protection (Linux 6.7 has): %w", err)
	}
	return nil
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// Pages that a scan looks for, beside content. All have content: a zero page is
// not protected, and what is written instead of it is another page.
var (
	written = query{flags: scanAndProtect, inverted: content.inverted, mask: content.mask | pageIsWritten, anyOf: content.anyOf}
	// protected are pages that look as if they were followed.
	protected = query{inverted: content.inverted | pageIsWritten, mask: content.mask | pageIsWritten, anyOf: content.anyOf}
	// unregistered are all addresses of areas that are not registered. The kernel passes over the others as a whole.
	unregistered = query{inverted: pageIsWPAllowed, mask: pageIsWPAllowed}
)

// Written implements Tracker.
//
// An area is followed when it is registered, and the kernel drops that from
// whatever is mapped anew or elsewhere. So the areas that are not registered come
// first, and of them all pages. An area that is replaced just after that look is
// passed over by the scan for written pages, and found unregistered next time.
// (PM_SCAN_CHECK_WPASYNC would find it now, but its error comes when a part of
// the pages is protected already, and without saying which were written.)
func (u *uffd) Written(areas memory.Set) (memory.Set, error) {
	found, err := u.look(areas)
	if err != nil {
		// What the scan had found is lost, and the pages are protected again.
		u.followed = nil
		return nil, fmt.Errorf("find what process %d has written: %w", u.process.pid, err)
	}
	return found, nil
}

func (u *uffd) look(areas memory.Set) (memory.Set, error) {
	pages, err := u.process.pagemap()
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	foreign, err := pages.scan(areas, unregistered)
	if err != nil {
		return nil, err
	}
	// Of what this tracker has not registered, something else may have been.
	fresh := memory.Union(memory.Subtract(areas, u.followed), foreign)
	u.followed = memory.Subtract(memory.Intersect(u.followed, areas), fresh)
	var all memory.Set // areas of which all pages count
	if len(fresh) > 0 {
		if all, err = u.follow(pages, fresh); err != nil {
			return nil, err
		}
	}
	found, err := pages.scan(u.followed, written)
	if err != nil {
		return nil, err
	}
	rest, err := pages.scan(all, content)
	if err != nil {
		return nil, err
	}
	return memory.Union(found, rest), nil
}

// follow registers areas, and returns all of them: their pages count as written
// this once, or each time where they cannot be registered.
func (u *uffd) follow(pages *pagemap, fresh memory.Set) (memory.Set, error) {
	registered, err := u.register(fresh)
	if errors.Is(err, errNewMemory) {
		if registered, err = u.renew(fresh); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	// Kernels before 6.13 leave pages that were moved (mremap) marked as
	// protected although they are not. Protecting them sets that right.
	stale, err := pages.scan(registered, protected)
	if err != nil {
		return nil, err
	}
	for _, span := range stale {
		arg := struct{ start, length, mode uint64 }{span.Start, span.Bytes(), uffdProtect}
		if err := ioctl(u.fd, uffdWriteProtect, unsafe.Pointer(&arg)); err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("protect %s: %w", span, err)
		}
	}
	u.followed = memory.Union(u.followed, registered)
	return fresh, nil
}

// register returns the areas that could be registered. An area cannot be while
// a restore fills in its pages (EBUSY), when the process has just unmapped it, or
// when it is of a kind that the kernel excludes.
func (u *uffd) register(areas memory.Set) (memory.Set, error) {
	var registered []memory.Span
	var lines memory.Set
	for _, span := range areas {
		err := u.registerSpan(span)
		if err == nil {
			registered = append(registered, span)
			continue
		}
		if u.isGone(span) {
			return nil, errNewMemory
		}
		// One mapping of several may be the reason.
		if lines == nil {
			if lines, err = mappings(u.process.pid); err != nil {
				return nil, err
			}
		}
		for _, mapping := range lines {
			if mapping = (memory.Span{Start: max(mapping.Start, span.Start), End: min(mapping.End, span.End)}); mapping.Start >= mapping.End {
				continue
			}
			if err := u.registerSpan(mapping); err == nil {
				registered = append(registered, mapping)
			}
		}
	}
	return memory.NewSet(registered...), nil
}

func (u *uffd) registerSpan(span memory.Span) error {
	arg := struct{ start, length, mode, ioctls uint64 }{span.Start, span.Bytes(), uffdModeWP, 0}
	return ioctl(u.fd, uffdRegister, unsafe.Pointer(&arg))
}

// isGone is whether the memory that the descriptor is for is no more.
func (u *uffd) isGone(span memory.Span) bool {
	// UFFDIO_REGISTER fails with ENOMEM then, as it does for other reasons.
	arg := struct{ start, length, mode uint64 }{span.Start, pageSize, uffdProtect}
	return errors.Is(ioctl(u.fd, uffdWriteProtect, unsafe.Pointer(&arg)), unix.ESRCH)
}

// renewTime is how long a process that runs a new program may take to stop.
const renewTime = 20 * time.Millisecond

// renew attaches to a process again that runs another program now. While it
// is frozen that is not possible: it is then tried with the next look.
func (u *uffd) renew(areas memory.Set) (memory.Set, error) {
	if err := u.process.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), renewTime)
	defer cancel()
	if err := u.take(ctx); err != nil {
		return nil, nil //nolint:nilerr // all its pages count as written
	}
	registered, err := u.register(areas)
	if errors.Is(err, errNewMemory) {
		return nil, nil // and replaced again
	}
	return registered, err
}

// Close implements Tracker. The kernel takes the protection off.
func (u *uffd) Close() error { return errors.Join(unix.Close(u.fd), u.process.Close()) }

// mappings returns every mapping of a process by itself: the spans may touch.
func mappings(pid int) (memory.Set, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, ended(err)
	}
	defer file.Close()
	areas, err := readMap(file)
	if err != nil {
		return nil, err
	}
	spans := make(memory.Set, len(areas))
	for i, a := range areas {
		spans[i] = a.span
	}
	return spans, nil
}
