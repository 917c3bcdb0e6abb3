package track

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Categories of pages in linux/fs.h.
const (
	pageIsWPAllowed = 1 << 0 // it is in an area whose writes userfaultfd follows
	pageIsWritten   = 1 << 1 // it is not write-protected by userfaultfd
	pageIsPresent   = 1 << 3
	pageIsSwapped   = 1 << 4
	pageIsZero      = 1 << 5 // it is the zero page
	pageIsSoftDirty = 1 << 7
	pageIsGuard     = 1 << 8 // it is a guard page of MADV_GUARD_INSTALL (Linux 6.15)
)

const (
	pagemapScan    = 0xc0606610 // PAGEMAP_SCAN
	scanAndProtect = 1 << 0     // PM_SCAN_WP_MATCHING
	scanRegions    = 8192       // how many regions one call returns at most
)

// scanArg is struct pm_scan_arg of linux/fs.h. A page matches when, with the
// inverted categories flipped, it has all of mask, and some of anyOf unless
// that is 0.
type scanArg struct {
	size, flags, start, end, walkEnd uint64
	vec, vecLen, maxPages            uint64
	inverted, mask, anyOf, returned  uint64
}

type scanRegion struct{ start, end, categories uint64 }

// query says which pages a scan looks for.
type query struct{ flags, inverted, mask, anyOf uint64 }

// content matches what Populated returns.
var content = query{inverted: pageIsZero | pageIsGuard, mask: pageIsZero | pageIsGuard, anyOf: pageIsPresent | pageIsSwapped}

// pagemap is an open /proc/PID/pagemap: of the memory that the process had when it was opened.
type pagemap struct {
	file *os.File
	vec  []scanRegion
	// noScan and noGuards are whether the kernel cannot scan, or knows no guard pages.
	noScan, noGuards bool
}

func (p *process) pagemap() (*pagemap, error) {
	file, err := p.file("pagemap", os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &pagemap{file: file}, nil
}

func (m *pagemap) Close() error { return m.file.Close() }

// scan returns the pages of the areas that a query matches. The kernel handles each
// page in one step: with scanAndProtect, no write is lost between look and protection.
func (m *pagemap) scan(areas memory.Set, q query) (memory.Set, error) {
	if m.vec == nil {
		m.vec = make([]scanRegion, scanRegions)
	}
	var found memory.Set
	for _, span := range areas {
		for start := span.Start; start < span.End; {
			inverted, mask := q.inverted, q.mask
			if m.noGuards {
				inverted, mask = inverted&^pageIsGuard, mask&^pageIsGuard
			}
			arg := scanArg{flags: q.flags, start: start, end: span.End, vec: uint64(uintptr(unsafe.Pointer(&m.vec[0]))), vecLen: scanRegions,
				inverted: inverted, mask: mask, anyOf: q.anyOf, returned: pageIsZero}
			arg.size = uint64(unsafe.Sizeof(arg))
			n, _, errno := unix.Syscall(unix.SYS_IOCTL, m.file.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
			switch {
			case errno == unix.EINTR:
				continue
			case errno == unix.EINVAL && mask&pageIsGuard != 0:
				m.noGuards = true
				continue
			case errno != 0:
				return nil, fmt.Errorf("scan the pages %s: %w", memory.Span{Start: start, End: span.End}, errno)
			}
			for _, region := range m.vec[:n] {
				found = extend(found, memory.Span{Start: region.start, End: region.end})
			}
			start = arg.walkEnd
		}
	}
	return found, nil
}

// extend adds a span to a set, commonly above all of it. Of a process that runs
// the kernel can tell a page twice, where its tables change under the scan.
func extend(set memory.Set, span memory.Span) memory.Set {
	last := len(set) - 1
	switch {
	case last < 0 || set[last].End < span.Start:
		return append(set, span)
	case set[last].Start <= span.Start:
		set[last].End = max(set[last].End, span.End)
		return set
	}
	return memory.NewSet(append(set, span)...)
}

// populated returns the pages of the areas that have content.
func (m *pagemap) populated(areas memory.Set) (memory.Set, error) {
	return m.either(areas, content, entryPresent|entrySwapped)
}

// softDirty returns the pages of the areas that have content and are soft-dirty.
func (m *pagemap) softDirty(areas memory.Set) (memory.Set, error) {
	q := content
	q.mask |= pageIsSoftDirty
	return m.either(areas, q, entrySoftDirty)
}

// either scans where the kernel can (Linux 6.7, and soft-dirty a little later),
// or else reads the entry of each page; of those some bit must be set.
func (m *pagemap) either(areas memory.Set, q query, bits uint64) (memory.Set, error) {
	if !m.noScan {
		found, err := m.scan(areas, q)
		if !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
			return found, err
		}
		m.noScan = true
	}
	zero := zeroFrames()
	var found memory.Set
	err := m.each(areas, func(page, entry uint64) {
		if entry&(entryPresent|entrySwapped) != 0 && entry&bits != 0 && !zero.contains(entry) {
			found = extend(found, memory.Span{Start: page, End: page + pageSize})
		}
	})
	return found, err
}

// Bits of an entry of /proc/PID/pagemap.
const (
	entryPresent   uint64 = 1 << 63
	entrySwapped   uint64 = 1 << 62
	entrySoftDirty uint64 = 1 << 55
	entryFrame     uint64 = 1<<55 - 1
)

// each passes the entry of every page of the areas to visit: for kernels that cannot scan (before 6.7).
func (m *pagemap) each(areas memory.Set, visit func(page, entry uint64)) error {
	buf := make([]byte, 64<<10)
	for _, span := range areas {
		for page := span.Start; page < span.End; {
			want := min(uint64(len(buf)), (span.End-page)/pageSize*8)
			n, err := m.file.ReadAt(buf[:want], int64(page/pageSize*8))
			if n < 8 {
				return fmt.Errorf("read the page entries of %s: %w", memory.Span{Start: page, End: span.End}, errors.Join(err, unix.EIO))
			}
			for i := 0; i+8 <= n; i += 8 {
				visit(page, binary.NativeEndian.Uint64(buf[i:]))
				page += pageSize
			}
		}
	}
	return nil
}

// Populated returns the pages of the areas that have content: present or
// swapped, and not the zero page.
func Populated(pid int, areas memory.Set) (memory.Set, error) {
	populated, err := populated(pid, areas)
	if err != nil {
		return nil, fmt.Errorf("find which pages process %d has: %w", pid, err)
	}
	return populated, nil
}

func populated(pid int, areas memory.Set) (memory.Set, error) {
	process, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer process.Close()
	pages, err := process.pagemap()
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	return pages.populated(areas)
}
