package track

import (
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// threadsRole has so many threads that wait. It says "signal" for each SIGUSR1;
// "fork" makes one more thread that forks all the time.
func threadsRole() {
	n, _ := strconv.Atoi(os.Args[1])
	started := make(chan struct{})
	for range n {
		go func() {
			runtime.LockOSThread()
			started <- struct{}{}
			unix.Pause() // until the end
		}()
		<-started
	}
	signals := make(chan os.Signal, 10_000)
	signal.Notify(signals, unix.SIGUSR1)
	go func() {
		for range signals {
			answer("signal")
		}
	}()
	answer("ready")
	commands(func(words []string) {
		if words[0] == "fork" {
			go func() {
				for {
					pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
					if pid == 0 && errno == 0 {
						unix.RawSyscall(unix.SYS_PPOLL, 0, 0, 0) // until it is killed
						unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
					}
					must(errno)
					time.Sleep(time.Millisecond)
				}
			}()
		}
	})
}

// memoryRole has so many megabytes of memory, and answers "write N" after it has written N
// random pages, with the nanoseconds that took.
func memoryRole() {
	megabytes, _ := strconv.ParseUint(os.Args[1], 10, 64)
	r := newRegion(megabytes << 20)
	if len(os.Args) > 2 && os.Args[2] == "huge" {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.length, unix.MADV_HUGEPAGE)
		must(errno)
	}
	pages := uint64(r.length) / pageSize
	for page := range pages {
		*r.at(uintptr(page * pageSize)) = byte(1 + page%255)
	}
	answer("ready")
	commands(func(words []string) {
		n, _ := strconv.Atoi(words[1])
		random := rand.Perm(int(pages))
		start := time.Now()
		for _, page := range random[:n] {
			*r.at(uintptr(uint64(page) * pageSize))++
		}
		answer("%d", time.Since(start).Nanoseconds())
	})
}

// mappingsRole has so many mappings of one page each that do not touch.
func mappingsRole() {
	n, _ := strconv.Atoi(os.Args[1])
	for range n {
		r := newRegion(2 * pageSize)
		*r.at(0) = 1
		must(unmap(r.start+uintptr(pageSize), uintptr(pageSize)))
		_, _, errno := unix.Syscall6(unix.SYS_MMAP, r.start+uintptr(pageSize), uintptr(pageSize), unix.PROT_NONE,
			unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_FIXED, ^uintptr(0), 0)
		must(errno)
	}
	answer("ready")
	commands(func([]string) {})
}
