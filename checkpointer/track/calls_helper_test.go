package track

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	if os.Getenv(helperRole) != "" {
		runtime.LockOSThread() // main is on the process's first thread
	}
}

// waits are system calls that wait. Each returns what is wrong with its result:
// it must not notice that its thread was stopped.
var waits = map[string]func() error{
	"compute": compute,
	"nanosleep": func() error {
		return timed(func() error {
			_, _, errno := unix.Syscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(brief())), 0, 0)
			return expect(errno, 0)
		})
	},
	"clock_nanosleep": func() error {
		return timed(func() error {
			_, _, errno := unix.Syscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(brief())), 0, 0, 0)
			return expect(errno, 0)
		})
	},
	"futex": func() error {
		return timed(func() error {
			var word uint32
			const waitPrivate = 128
			_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), waitPrivate, 0, uintptr(unsafe.Pointer(brief())), 0, 0)
			return expect(errno, unix.ETIMEDOUT)
		})
	},
	"ppoll": func() error {
		return timed(func() error {
			n, _, errno := unix.Syscall6(unix.SYS_PPOLL, 0, 0, uintptr(unsafe.Pointer(brief())), 0, 0, 0)
			return errors.Join(expect(errno, 0), expectNumber(n, 0))
		})
	},
	"pselect": func() error {
		return timed(func() error {
			n, _, errno := unix.Syscall6(unix.SYS_PSELECT6, 0, 0, 0, 0, uintptr(unsafe.Pointer(brief())), 0)
			return errors.Join(expect(errno, 0), expectNumber(n, 0))
		})
	},
	"epoll_wait": func() error {
		return timed(func() error {
			set := epoll()
			defer unix.Close(set)
			var events [1]unix.EpollEvent
			n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(set), uintptr(unsafe.Pointer(&events)), 1, uintptr(briefTime.Milliseconds()), 0, 0)
			return errors.Join(expect(errno, 0), expectNumber(n, 0))
		})
	},
	"sigtimedwait": func() error {
		return timed(func() error {
			set := uint64(1) << (unix.SIGUSR2 - 1)
			_, _, errno := unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), 0, uintptr(unsafe.Pointer(brief())), 8, 0, 0)
			return expect(errno, unix.EAGAIN)
		})
	},
	"recv": func() error { // it counts the kernel's ticks, and may end a part of one early
		pair := silentSockets()
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		var buf [1]byte
		_, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(pair[0]), uintptr(unsafe.Pointer(&buf)), 1, 0, 0, 0)
		return expect(errno, unix.EAGAIN)
	},
	"read":            readSequence(nil),
	"epoll_wait_read": readSequence(waitReadable),
}

const briefTime = 4 * time.Millisecond

func brief() *unix.Timespec { return &unix.Timespec{Nsec: briefTime.Nanoseconds()} }

// timed is wrong when a wait ends before its time.
func timed(wait func() error) error {
	start := time.Now()
	err := wait()
	if took := time.Since(start); took < briefTime {
		err = errors.Join(err, fmt.Errorf("it ended after %v", took))
	}
	return err
}

func expect(got, want unix.Errno) error {
	if got != want {
		return fmt.Errorf("%w, not errno %d", got, uint(want))
	}
	return nil
}

func expectNumber(got, want uintptr) error {
	if got != want {
		return fmt.Errorf("it returned %d, not %d", got, want)
	}
	return nil
}

func epoll() int {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		panic(err)
	}
	return fd
}

// silentSockets returns two sockets: the first waits briefly for the second, which says nothing.
func silentSockets() [2]int {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	limit := unix.NsecToTimeval(briefTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		panic(err)
	}
	return pair
}

// readSequence reads numbers that another thread writes now and then.
func readSequence(before func(fd int) error) func() error {
	var fds [2]int
	var want byte
	return func() error {
		if fds[0] == 0 {
			if err := unix.Pipe(fds[:]); err != nil {
				panic(err)
			}
			go func() {
				for i := byte(1); ; i++ {
					time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
					if _, err := unix.Write(fds[1], []byte{i}); err != nil {
						panic(err)
					}
				}
			}()
		}
		if before != nil {
			if err := before(fds[0]); err != nil {
				return err
			}
		}
		want++
		var got [1]byte
		n, _, errno := unix.Syscall(unix.SYS_READ, uintptr(fds[0]), uintptr(unsafe.Pointer(&got)), 1)
		return errors.Join(expect(errno, 0), expectNumber(n, 1), expectNumber(uintptr(got[0]), uintptr(want)))
	}
}

func waitReadable(fd int) error {
	set := epoll()
	defer unix.Close(set)
	if err := unix.EpollCtl(set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		panic(err)
	}
	var events [1]unix.EpollEvent
	forever := -1
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(set), uintptr(unsafe.Pointer(&events)), 1, uintptr(forever), 0, 0)
	return errors.Join(expect(errno, 0), expectNumber(n, 1))
}

// compute keeps values in registers of every kind.
func compute() error {
	a, b, x, y := uint64(1), uint64(2), 1.5, 2.5
	for i := range uint64(100_000) {
		a, b = b*6364136223846793005+i, a^b>>7
		x, y = y+1/x, x*0.5
	}
	if got := [4]any{a, b, x, y}; computed.Load() == nil {
		computed.Store(&got)
	} else if *computed.Load() != got {
		return fmt.Errorf("computed %v, not %v", got, *computed.Load())
	}
	return nil
}

var computed atomic.Pointer[[4]any]

// callsRole makes one kind of call on its first thread, and all others on others.
// It answers "end" with what was wrong, and how many calls there were.
func callsRole() {
	debug.SetGCPercent(-1) // its signals would interrupt calls
	if len(os.Args) > 2 && os.Args[2] == "seccomp" {
		forbidUserfaultfd()
	}
	var ending atomic.Bool
	var wrong atomic.Pointer[string]
	loop := func(name string) (calls int) {
		for ; !ending.Load(); calls++ {
			if err := waits[name](); err != nil {
				message := fmt.Sprintf("%s: %v", name, err)
				wrong.CompareAndSwap(nil, &message)
			}
		}
		return calls
	}
	finished := make(chan int)
	others := 0
	for name := range waits {
		if name != os.Args[1] && name != "compute" {
			others++
			go func() {
				runtime.LockOSThread()
				finished <- loop(name)
			}()
		}
	}
	answer("ready")
	go func() {
		commands(func([]string) { ending.Store(true) })
		os.Exit(1) // the test has ended
	}()
	calls := loop(os.Args[1])
	for range others {
		<-finished
	}
	if message := wrong.Load(); message != nil {
		answer("wrong: %s", *message)
		return
	}
	answer("right %d", calls)
}

// forbidUserfaultfd installs a seccomp filter that ends the process when it creates a userfaultfd.
func forbidUserfaultfd() {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_USERFAULTFD},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter)))
	must(errno)
}

func waitNames() []string {
	var names []string
	for name := range waits {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
