package track

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrArenaFull is when pages do not fit into an Arena.
var ErrArenaFull = errors.New("the pages do not fit into the memory set aside for them")

const (
	// arenaStep is how memory is added: whole huge pages.
	arenaStep = 2 << 20
	// arenaMemory is after how many uses less of it is kept, where less was enough in all of them.
	arenaMemory = 8
)

// Arena is memory that pages are read into. What was reserved or used takes no
// page faults when it is used again. It is for concurrent use, but for Close.
type Arena struct {
	mutex sync.Mutex
	max   int64
	all   []byte // max bytes of addresses
	ready int64  // how much of it has memory
	used  int64
	uses  [arenaMemory]int64 // how much the latest uses took
	turn  int
}

// NewArena returns an arena that takes at most so much memory, in bytes. It takes none yet.
func NewArena(maxBytes int64) *Arena { return &Arena{max: maxBytes} }

// Reserve readies memory for so many more bytes. errors.Is(err, ErrArenaFull): that is more than the arena may have.
func (a *Arena) Reserve(bytes int64) error {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return a.reserve(bytes)
}

func (a *Arena) reserve(bytes int64) error {
	if bytes < 0 || bytes > a.max-a.used {
		return fmt.Errorf("%d bytes beside %d of %d: %w", bytes, a.used, a.max, ErrArenaFull)
	}
	if a.all == nil {
		all, err := unix.Mmap(-1, 0, int(roundUp(max(a.max, 1))), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return fmt.Errorf("set aside memory for pages: %w", err)
		}
		a.all = all
		// Without huge pages it works as well, a little slower.
		_ = unix.Madvise(all, unix.MADV_HUGEPAGE)
	}
	want := roundUp(a.used + bytes)
	if want <= a.ready {
		return nil
	}
	// A kernel that does not know it (before 5.14) takes the faults later.
	if err := unix.Madvise(a.all[a.ready:want], unix.MADV_POPULATE_WRITE); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("set aside memory for %d bytes of pages: %w", bytes, err)
	}
	a.ready = want
	return nil
}

// take returns memory of so many bytes, until Reset.
func (a *Arena) take(bytes int64) ([]byte, error) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if err := a.reserve(bytes); err != nil {
		return nil, err
	}
	start := a.used
	a.used += bytes
	return a.all[start:a.used:a.used], nil
}

// Reset gives back what was read into the arena: it must not be used any more.
// Memory that none of the latest uses needed goes back to the system.
func (a *Arena) Reset() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.uses[a.turn%arenaMemory] = a.used
	a.turn++
	a.used = 0
	if keep := toKeep(a.uses[:], a.ready); keep < a.ready {
		// It fails only where the kernel keeps the memory.
		if unix.Madvise(a.all[keep:a.ready], unix.MADV_DONTNEED) == nil {
			a.ready = keep
		}
	}
}

// toKeep is how much of an arena's ready memory is kept: all of it until it is
// more than twice what the largest of the latest uses took.
func toKeep(uses []int64, ready int64) int64 {
	var most int64
	for _, used := range uses {
		most = max(most, used)
	}
	if most = roundUp(most); ready > 2*most {
		return most
	}
	return ready
}

func roundUp(bytes int64) int64 { return (bytes + arenaStep - 1) / arenaStep * arenaStep }

// Close gives all memory back. What was read into the arena must not be used any more.
func (a *Arena) Close() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.all != nil {
		_ = unix.Munmap(a.all) // it fails for memory that is not mapped only
	}
	a.all, a.ready, a.used, a.max = nil, 0, 0, 0
}
