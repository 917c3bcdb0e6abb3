package pages

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// The state is a memory file of this layout, in the machine's byte order:
//
//	0   magic
//	8   version
//	12  busy: how many are reading events: one that is read, and not
//	    applied and noted yet, is lost with the process
//	16  restored: 1 when all processes are
//	20  full: 1 when records were lost for want of space
//	24  fingerprint of the source's chunks
//	32  how many chunks there are
//	40  how many records there are
//	4096  a bit for each chunk that is wanted nowhere any more
//	then  the records, of 32 bytes
const (
	stateMagic   = 0x7461747345474150 // "PAGEstat"
	stateVersion = 1

	busyOffset   = 12
	headerBytes  = 4096
	recordBytes  = 32
	stateRecords = 1 << 20
)

// kind is what a record tells.
type kind uint32

const (
	recordAttach kind = 1 + iota // a process: its number
	recordFork                   // a child: the space that it has come from
	recordForget                 // start, end
	recordDrop                   // start, end
	recordMove                   // from, to, length
	recordClose                  // nothing is wanted any more
)

type record struct {
	kind    kind
	space   uint32
	a, b, c uint64
}

func (r record) span() memory.Span { return memory.Span{Start: r.a, End: max(r.a, r.b)} }

// state is what a successor must know. It is memory that outlives the process as
// long as a keeper holds its descriptor.
type state struct {
	fd     int
	mu     sync.Mutex // for records
	mapped []byte
}

func stateBytes(chunks uint64) uint64 { return recordsOffset(chunks) + stateRecords*recordBytes }

func recordsOffset(chunks uint64) uint64 {
	return headerBytes + (chunks/8+headerBytes)/headerBytes*headerBytes
}

func newState(l *layout) (*state, error) {
	fd, err := unix.MemfdCreate("lifeboat-pages", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make the shared state: %w", err)
	}
	size := stateBytes(uint64(len(l.index.chunks))) // takes up memory only where it is written
	err = unix.Ftruncate(fd, int64(size))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	s := &state{fd: fd}
	if err == nil {
		s.mapped, err = unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the shared state: %w", err)
	}
	s.word64(0).Store(stateMagic)
	s.word32(8).Store(stateVersion)
	s.word64(24).Store(l.fingerprint)
	s.word64(32).Store(uint64(len(l.index.chunks)))
	return s, nil
}

// openState takes over the state of a former daemon.
func openState(fd int) (*state, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("look at the shared state: %w", err)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || stat.Size < headerBytes {
		return nil, errors.New("the shared state is none of a page daemon")
	}
	mapped, err := unix.Mmap(fd, 0, int(stat.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the shared state: %w", err)
	}
	s := &state{fd: fd, mapped: mapped}
	if s.word64(0).Load() != stateMagic || s.word32(8).Load() != stateVersion || s.chunks() > uint64(stat.Size)*8 ||
		stateBytes(s.chunks()) != uint64(stat.Size) || s.length() > stateRecords {
		s.unmap()
		return nil, errors.New("the shared state is none of a page daemon of this version")
	}
	return s, nil
}

func (s *state) word32(offset int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&s.mapped[offset]))
}

func (s *state) word64(offset int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&s.mapped[offset]))
}

func (s *state) busy() *atomic.Uint32     { return s.word32(busyOffset) }
func (s *state) restored() *atomic.Uint32 { return s.word32(16) }
func (s *state) full() *atomic.Uint32     { return s.word32(20) }
func (s *state) fingerprint() uint64      { return s.word64(24).Load() }
func (s *state) chunks() uint64           { return s.word64(32).Load() }
func (s *state) length() uint64           { return s.word64(40).Load() }

// Resumable reads from a dead daemon's state whether another one can go on. It
// cannot where the daemon died between reading what a process did to its memory
// and having noted it, or before all processes were restored.
func Resumable(state int) (bool, error) {
	var words [3]uint32
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&words)), unsafe.Sizeof(words))
	if n, err := unix.Pread(state, raw, busyOffset); err != nil || n != len(raw) {
		return false, fmt.Errorf("read the shared state: %d bytes: %w", n, errors.Join(err, io.ErrUnexpectedEOF))
	}
	busy, restored, full := words[0], words[1], words[2]
	return busy == 0 && restored == 1 && full == 0, nil
}

// note appends a record. It counts once it is whole.
func (s *state) note(r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.length()
	if n == stateRecords {
		s.full().Store(1)
		return
	}
	*s.at(n) = r
	s.word64(40).Store(n + 1)
}

func (s *state) at(i uint64) *record {
	return (*record)(unsafe.Pointer(&s.mapped[recordsOffset(s.chunks())+i*recordBytes]))
}

// records are all of them.
func (s *state) records() []record {
	return unsafe.Slice(s.at(0), s.length())
}

// fill notes that a chunk is wanted nowhere any more. The index's lock is held.
func (s *state) fill(i int) { s.mapped[headerBytes+i/8] |= 1 << (i % 8) }

func (s *state) filled(i int) bool { return s.mapped[headerBytes+i/8]>>(i%8)&1 == 1 }

// unmap leaves the descriptor open.
func (s *state) unmap() {
	// Fails only for memory that is not mapped.
	_ = unix.Munmap(s.mapped)
	s.mapped = nil
}

func (s *state) close() {
	s.unmap()
	unix.Close(s.fd)
}
