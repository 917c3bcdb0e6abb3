package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// buffers has memory that it shares with a child and that has no file, as a database has:
// it writes pages, gives some back, and checks all against what it remembers in memory of
// its own. The child counts up a number there.
func buffers([]string) {
	const pages = 16 << 10
	shared := must(unix.Mmap(-1, 0, pages*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS))
	small := must(unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS))
	counter := (*uint64)(unsafe.Pointer(&small[0]))
	countInChild(counter)
	versions := make([]uint32, pages)
	write := func(p int) {
		versions[p]++
		for at := 0; at < 4096; at += 64 {
			binary.LittleEndian.PutUint64(shared[p*4096+at:], uint64(p)<<32|uint64(versions[p])|uint64(at)<<20)
		}
	}
	for p := range pages * 3 / 4 {
		write(p)
	}
	fmt.Println("ready")
	last := uint64(0)
	for round := 1; ; round++ {
		for range 40 {
			write(rand.IntN(pages))
		}
		for range 10 {
			p := rand.IntN(pages)
			if err := unix.Madvise(shared[p*4096:(p+1)*4096], unix.MADV_REMOVE); err != nil {
				fmt.Println("error", err)
			}
			versions[p] = 0
		}
		for p := range pages {
			for at := 0; at < 4096; at += 64 {
				want := uint64(p)<<32 | uint64(versions[p]) | uint64(at)<<20
				if versions[p] == 0 {
					want = 0
				}
				if got := binary.LittleEndian.Uint64(shared[p*4096+at:]); got != want {
					fmt.Printf("error page %d at %d: %x, want %x\n", p, at, got, want)
				}
			}
		}
		now := atomic.LoadUint64(counter)
		if now < last || round > 20 && now == 0 {
			fmt.Println("error counter", last, now)
		}
		last = now
		fmt.Println("checked", round, now)
	}
}

// countInChild forks a child that counts, and ends with its parent.
//
//go:norace
func countInChild(counter *uint64) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		check(errno)
	}
	if pid != 0 {
		return
	}
	syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0)
	pause := syscall.Timespec{Nsec: 1_000_000}
	for {
		*counter++
		syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
	}
}

// TestSharedMemoryIsOfOneMoment: what processes share without a file is copied ahead of the
// pause, and comes back as it was in it.
func TestSharedMemoryIsOfOneMoment(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "database", "1")
	c := started(t, source, "c1", "main", "buffers")
	c.Output.WaitFor(t, "checked 3 ")
	kept := generations(t, newEngine(t), source, c, 5, func(int) {
		seen := len(c.Output.Lines())
		nodetest.Eventually(t, 10*time.Second, "a round passes", func() bool { return len(c.Output.Lines()) > seen+1 })
	})
	noErrors(t, c)
	var bytes int64
	for _, k := range kept.dump.Kept {
		bytes += k.Length
	}
	if bytes < 16<<20 { // of 64 MiB, of which little is written
		t.Errorf("%d bytes of the last generation are left to its base", bytes)
	}
	if left, err := filepath.Glob(filepath.Join(kept.dir, "*", ImagesDir, "shared-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	c.Delete(t)
	goal := nodetest.NewPod(t, "database", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"buffers"}})
	restore(t, kept, r, true)
	nodetest.Eventually(t, 10*time.Second, "it goes on", func() bool { return len(r.Output.Lines()) > 5 })
	noErrors(t, r)
	before, after := "", ""
	nodetest.Eventually(t, 10*time.Second, "the child goes on", func() bool {
		line := strings.Fields(r.Output.Last("checked "))
		if len(line) < 2 {
			return false
		}
		before, after = after, line[1]
		return before != "" && before != after
	})
}

// TestSharedMemoryIsNotMixedUp: an image of a process's own memory is never taken for one of
// shared memory, and nothing of ours is left behind.
func TestSharedMemoryIsNotMixedUp(t *testing.T) {
	folder := t.TempDir()
	mapped := must(unix.Mmap(-1, 0, 2*sharedEnough, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS))
	defer func() { check(unix.Munmap(mapped)) }()
	for at := 0; at < len(mapped); at += 4096 {
		mapped[at] = 1
	}
	s, err := readShared(t.Context(), folder, func() ([]int, error) { return []int{os.Getpid()}, nil }, nil)
	if err != nil || s == nil {
		t.Fatalf("%v, %v", s, err)
	}
	if err := s.lead(); err != nil {
		t.Fatal(err)
	}
	check(os.WriteFile(filepath.Join(folder, "pages-1.img"), nil, 0o600))
	lists, err := filepath.Glob(filepath.Join(folder, sharedPagemap+"*"))
	if err != nil || len(lists) == 0 {
		t.Fatalf("%q, %v", lists, err)
	}
	check(os.WriteFile(lists[0], numbered(1), 0o600)) // CRIU opens it, and then the next image
	if target, err := os.Readlink(filepath.Join(folder, "pages-2.img")); err != nil || target != nowhere {
		t.Errorf("the next image is led to %q, %v", target, err)
	}
	check(os.WriteFile(filepath.Join(folder, "pagemap-1.img"), numbered(2), 0o600))
	if err := s.finish(t.Context()); !errors.Is(err, errSharedMixed) {
		t.Errorf("it goes on: %v", err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	for _, pattern := range []string{"pages-2.img", "shared-*"} {
		if left, err := filepath.Glob(filepath.Join(folder, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	}
}
