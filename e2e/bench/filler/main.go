// Command filler is a benchmark's workload in a container: a process with as much
// memory as wanted, and a probe that knows for how long nothing of it ran.
//
//	filler fill CONTENT BYTES     fill memory of its own
//	filler share CONTENT BYTES    fill memory that other processes could share
//	filler beside COMMAND [ARG]…  run another program, with the probe beside it
//
// It answers one line of a connection to Address, and closes it:
//
//	gap                 nanoseconds of the longest time that the probe did not run, since this was last asked
//	rewrite N COUNT     makes COUNT pages, those of content.Sample with N as the seed, be of version N; then "ok"
//	read PAGE…          the content of the pages
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

// Address is where the filler answers, in its pod.
const Address = "127.0.0.1:8080"

func main() {
	// What is measured is the memory that was asked for, not the runtime's work.
	debug.SetGCPercent(-1)
	fmt.Fprintln(os.Stderr, "filler:", run(os.Args[1:]))
	os.Exit(1)
}

// run serves, and returns why it cannot any more.
func run(args []string) error {
	f := &filler{}
	switch {
	case len(args) == 3 && args[0] == "fill":
		if err := f.fill(args[1], args[2], unix.MAP_PRIVATE); err != nil {
			return err
		}
	case len(args) == 3 && args[0] == "share":
		if err := f.fill(args[1], args[2], unix.MAP_SHARED); err != nil {
			return err
		}
	case len(args) > 1 && args[0] == "beside":
		cmd := exec.CommandContext(context.Background(), args[1], args[2:]...)
		if err := cmd.Start(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%q: use fill CONTENT BYTES, share CONTENT BYTES or beside COMMAND", args)
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false) // CRIU cannot dump it
	listener, err := config.Listen(context.Background(), "tcp4", Address)
	if err != nil {
		return err
	}
	go f.probe.run()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go f.serve(conn)
	}
}

// filler is the memory, and what the probe has seen.
type filler struct {
	kind   content.Kind
	mu     sync.Mutex // one answer at a time
	memory []byte
	probe  probe
}

// fill maps memory: that of Go's heap moves, and is given back.
func (f *filler) fill(kind, size string, how int) error {
	var err error
	if f.kind, err = content.Parse(kind); err != nil {
		return err
	}
	bytes, err := strconv.Atoi(size)
	if err != nil || bytes <= 0 || bytes%content.PageSize != 0 {
		return fmt.Errorf("%q bytes: use a multiple of %d", size, content.PageSize)
	}
	f.memory, err = unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, how|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("map %d bytes: %w", bytes, err)
	}
	for number := range uint64(bytes / content.PageSize) {
		f.kind.Fill(f.page(number), number, 0)
	}
	return nil
}

func (f *filler) page(number uint64) []byte {
	return f.memory[number*content.PageSize:][:content.PageSize]
}

const (
	// step is the time between two looks at the clock.
	step = 100 * time.Microsecond
	// timerSlack is how late the kernel may wake the probe, in nanoseconds.
	timerSlack = 1000
)

// probe looks at the clock over and over, and keeps the longest time between two looks.
type probe struct {
	mu      sync.Mutex
	longest time.Duration
	looks   int
}

func (p *probe) run() {
	runtime.LockOSThread()
	// Without it the probe is no less true, only less precise.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0)
	for last := time.Now(); ; {
		rest()
		now := time.Now()
		p.mu.Lock()
		p.longest = max(p.longest, now.Sub(last))
		p.looks++
		p.mu.Unlock()
		last = now
	}
}

// rest waits for a step. Woken early, it returns early.
func rest() {
	pause := unix.NsecToTimespec(int64(step))
	_ = unix.Nanosleep(&pause, nil)
}

// gap returns the longest time between two looks since it was last called. It waits
// for the second look from now on: whoever asks may be quicker than the probe after
// both were stopped, and the probe may have been stopped with the time in its hand.
func (p *probe) gap() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for enough := p.looks + 2; p.looks < enough; {
		p.mu.Unlock()
		rest()
		p.mu.Lock()
	}
	longest := p.longest
	p.longest = 0
	return longest
}

func (f *filler) serve(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return
	}
	if err := f.answer(conn, words[0], words[1:]); err != nil {
		fmt.Fprintln(conn, "error:", err)
	}
}

func (f *filler) answer(conn net.Conn, what string, args []string) error {
	numbers := make([]uint64, len(args))
	for i, arg := range args {
		var err error
		if numbers[i], err = strconv.ParseUint(arg, 10, 64); err != nil {
			return err
		}
	}
	pages := uint64(len(f.memory) / content.PageSize)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case what == "gap" && len(args) == 0:
		_, err := fmt.Fprintln(conn, f.probe.gap().Nanoseconds())
		return err
	case what == "rewrite" && len(args) == 2:
		for number := range content.Sample(numbers[0], pages, numbers[1]) {
			f.kind.Fill(f.page(number), number, numbers[0])
		}
		_, err := fmt.Fprintln(conn, "ok")
		return err
	case what == "read":
		for _, number := range numbers {
			if number >= pages {
				return fmt.Errorf("page %d of %d", number, pages)
			}
			if _, err := conn.Write(f.page(number)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown request %q", what)
}
