package track

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// region is memory that a model process has mapped.
type region struct {
	start, length uintptr
	writable      bool
}

func (r region) at(offset uintptr) *byte {
	return (*byte)(unsafe.Add(unsafe.Pointer(nil), r.start+offset))
}

func (r region) bytes() []byte { return unsafe.Slice(r.at(0), r.length) }

// touched takes what is read, so that the compiler does not leave the reading out.
var touched byte

// model is a process that does everything to its memory that a process may do.
type model struct {
	random  *rand.Rand
	regions []region
	pipe    [2]int
	value   byte
}

const (
	modelRegions = 12
	modelPages   = 64
)

// modelRole answers "do N" after so many random operations, "exec" after it has
// become another program, and lets threads write at all times after "wild".
func modelRole() {
	signal.Ignore(unix.SIGCHLD)
	seed, _ := strconv.ParseUint(os.Args[1], 10, 64)
	m := &model{random: rand.New(rand.NewPCG(seed, 1))}
	if err := unix.Pipe(m.pipe[:]); err != nil {
		panic(err)
	}
	answer("ready")
	commands(func(words []string) {
		switch words[0] {
		case "do":
			n, _ := strconv.Atoi(words[1])
			for range n {
				m.operate()
			}
		case "wild":
			for i := range 3 {
				go wild(uint64(i))
			}
		case "exec":
			if err := syscall.Exec("/proc/self/exe", []string{os.Args[0], fmt.Sprint(seed + 1)}, os.Environ()); err != nil {
				panic(err)
			}
		}
		answer("done")
	})
}

// wild writes all the time to memory of its own, now slowly, now fast, and maps it anew now and then.
func wild(seed uint64) {
	random := rand.New(rand.NewPCG(seed, 2))
	for {
		r := newRegion((1 + random.Uint64N(4*modelPages)) * pageSize)
		for range 20_000 {
			*r.at(uintptr(random.Uint64N(uint64(r.length)))) = byte(random.Uint32())
			if random.IntN(64) == 0 {
				runtime.Gosched()
			}
		}
		must(unmap(r.start, r.length))
	}
}

func newRegion(length uint64) region {
	start, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, uintptr(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	must(errno)
	return region{start, uintptr(length), true}
}

func unmap(start, length uintptr) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_MUNMAP, start, length, 0)
	return errno
}

func must(errno syscall.Errno) {
	if errno != 0 {
		panic(errno)
	}
}

// operate does one thing.
func (m *model) operate() {
	m.value++
	if len(m.regions) == 0 {
		m.regions = append(m.regions, newRegion(modelPages*pageSize))
	}
	i := m.random.IntN(len(m.regions))
	r := &m.regions[i]
	page := uintptr(m.random.Uint64N(uint64(r.length)/pageSize)) * uintptr(pageSize)
	some := min(r.length-page, uintptr((1+m.random.Uint64N(8))*pageSize))
	advise := func(advice int) {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start+page, some, uintptr(advice))
		must(errno)
	}
	switch choice := m.random.IntN(100); {
	case choice < 40: // write
		if r.writable {
			for offset := page; offset < page+some; offset += uintptr(pageSize) {
				*r.at(offset + uintptr(m.random.Uint64N(pageSize))) = m.value
			}
		}
	case choice < 46: // map, next to another now and then
		if len(m.regions) < modelRegions {
			length := (1 + m.random.Uint64N(modelPages)) * pageSize
			if m.random.IntN(6) == 0 {
				length = 3 * hugePage
			}
			fresh := newRegion(length)
			if length > hugePage {
				_, _, _ = unix.Syscall(unix.SYS_MADVISE, fresh.start, fresh.length, unix.MADV_HUGEPAGE)
			}
			m.regions = append(m.regions, fresh)
		}
	case choice < 50: // unmap
		must(unmap(r.start, r.length))
		m.regions = append(m.regions[:i], m.regions[i+1:]...)
	case choice < 58: // move, grow, shrink
		length := uintptr((1 + m.random.Uint64N(modelPages)) * pageSize)
		start, _, errno := unix.Syscall6(unix.SYS_MREMAP, r.start, r.length, length, unix.MREMAP_MAYMOVE, 0, 0)
		if errno == 0 {
			r.start, r.length = start, length
		} else if errno != unix.EFAULT { // of several mappings
			panic(errno)
		}
	case choice < 62: // move to where something else was
		other := newRegion(uint64(r.length))
		*other.at(page) = m.value
		start, _, errno := unix.Syscall6(unix.SYS_MREMAP, r.start, r.length, r.length, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, other.start, 0)
		if errno == 0 {
			r.start = start
		} else { // of several mappings, some may have been moved
			must(unmap(other.start, other.length))
			must(unmap(r.start, r.length))
			m.regions = append(m.regions[:i], m.regions[i+1:]...)
		}
	case choice < 68: // drop
		advise(unix.MADV_DONTNEED)
	case choice < 70:
		advise(unix.MADV_FREE)
	case choice < 76: // drop and read
		advise(unix.MADV_DONTNEED)
		m.read(r, page, some)
	case choice < 80:
		m.read(r, page, some)
	case choice < 84: // read-only and back
		protection := unix.PROT_READ | unix.PROT_WRITE
		if r.writable {
			protection = unix.PROT_READ
		}
		_, _, errno := unix.Syscall(unix.SYS_MPROTECT, r.start, r.length, uintptr(protection))
		must(errno)
		r.writable = !r.writable
	case choice < 86: // a part out of reach: it splits the mapping
		_, _, errno := unix.Syscall(unix.SYS_MPROTECT, r.start+page, some, unix.PROT_NONE)
		must(errno)
		if m.random.IntN(3) > 0 { // else it stays so
			_, _, errno = unix.Syscall(unix.SYS_MPROTECT, r.start, r.length, unix.PROT_READ|unix.PROT_WRITE)
			must(errno)
			r.writable = true
			break
		}
		m.regions = append(m.regions[:i], m.regions[i+1:]...)
	case choice < 92: // the kernel writes
		if r.writable {
			buf := make([]byte, 64)
			for j := range buf {
				buf[j] = m.value
			}
			if _, err := unix.Write(m.pipe[1], buf); err != nil {
				panic(err)
			}
			if _, err := unix.Read(m.pipe[0], r.bytes()[page:][:64]); err != nil {
				panic(err)
			}
		}
	case choice < 94: // replace a part
		if r.writable {
			_, _, errno := unix.Syscall6(unix.SYS_MMAP, r.start+page, some, unix.PROT_READ|unix.PROT_WRITE,
				unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED, ^uintptr(0), 0)
			must(errno)
			if m.random.IntN(2) == 0 {
				*r.at(page) = m.value
			}
		}
	case choice < 96: // lock and unlock
		_, _, _ = unix.Syscall(unix.SYS_MLOCK, r.start+page, some, 0)
		m.read(r, page, some)
		_, _, _ = unix.Syscall(unix.SYS_MUNLOCK, r.start+page, some, 0)
	case choice < 98: // a child that shares the pages for a moment
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if pid == 0 && errno == 0 {
			if r.writable {
				*r.at(page) = m.value + 1
			}
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		must(errno)
		if r.writable {
			*r.at(page) = m.value
		}
	default: // a thread, and memory of Go's own heap
		done := make(chan byte)
		go func() {
			runtime.LockOSThread()
			heap := make([]byte, 1+int(m.value))
			heap[0] = m.value
			done <- heap[0]
		}()
		<-done
	}
}

// read reads pages, which maps the zero page where nothing was written.
func (m *model) read(r *region, page, length uintptr) {
	for offset := page; offset < page+length; offset += uintptr(pageSize) {
		touched = *r.at(offset)
	}
}
