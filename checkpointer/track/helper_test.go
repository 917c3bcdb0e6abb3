package track

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperRole names the environment variable that makes the test binary a process to follow.
const helperRole = "LIFEBOAT_TRACK_HELPER"

// roles are what such a process may do. It reads commands from its standard
// input, a line each, and answers each with a line.
var roles = map[string]func(){
	"model": modelRole,
	"calls": callsRole,
	"sleep": func() {
		if err := unix.Nanosleep(&unix.Timespec{Nsec: 500_000_000}, nil); err != nil {
			panic(err)
		}
	},
	"end":      func() {},
	"threads":  threadsRole,
	"memory":   memoryRole,
	"mappings": mappingsRole,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(helperRole); role != "" {
		roles[role]()
		os.Exit(0)
	}
	stopTime = 30 * time.Second // on machines that are emulated, or busy
	os.Exit(m.Run())
}

// answer answers a command of the test.
func answer(format string, args ...any) {
	if _, err := fmt.Printf(format+"\n", args...); err != nil {
		os.Exit(1) // the test has ended
	}
}

// commands passes each command's words to do, until the test ends.
func commands(do func(words []string)) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		do(strings.Fields(lines.Text()))
	}
}

// helper is a process to follow.
type helper struct {
	t     testing.TB
	pid   int
	in    io.Writer
	lines *bufio.Scanner
}

func helperCommand(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperRole+"="+role, "GODEBUG=asyncpreemptoff=1") // Go's own signals interrupt system calls
	cmd.Stderr = os.Stderr
	// It ends with its standard input. (Pdeathsig would end it with the thread that starts it, and tracers' threads end.)
	return cmd
}

func startHelper(t testing.TB, role string, args ...string) *helper {
	t.Helper()
	cmd := helperCommand(role, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	h := &helper{t, cmd.Process.Pid, in, lines}
	h.expect("ready")
	return h
}

// ask sends a command and returns what is answered.
func (h *helper) ask(format string, args ...any) string {
	h.t.Helper()
	if _, err := fmt.Fprintf(h.in, format+"\n", args...); err != nil {
		h.t.Fatal(err)
	}
	return h.answer()
}

func (h *helper) answer() string {
	h.t.Helper()
	if !h.lines.Scan() {
		h.t.Fatalf("process %d has ended: %v", h.pid, h.lines.Err())
	}
	return h.lines.Text()
}

func (h *helper) expect(want string) {
	h.t.Helper()
	if got := h.answer(); got != want {
		h.t.Fatalf("process %d answers %q, not %q", h.pid, got, want)
	}
}

// pause stops the process with SIGSTOP and waits until all its threads have stopped.
func (h *helper) pause() {
	h.t.Helper()
	if err := unix.Kill(h.pid, unix.SIGSTOP); err != nil {
		h.t.Fatal(err)
	}
	until(h.t, "all threads are stopped", func() bool { return isStill(h.pid) })
}

func (h *helper) resume() {
	h.t.Helper()
	if err := unix.Kill(h.pid, unix.SIGCONT); err != nil {
		h.t.Fatal(err)
	}
}

func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to pass that %s", what)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func attach(t testing.TB, pid int, method Method) Tracker {
	t.Helper()
	tracker, err := Attach(t.Context(), pid, method)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracker.Close() })
	return tracker
}

// onEachMethod runs a test with every method that works on this kernel.
func onEachMethod(t *testing.T, test func(t *testing.T, method Method)) {
	for _, method := range Methods {
		if err := Works(method); err != nil {
			t.Logf("not tested: %s: %v", method, err)
			continue
		}
		t.Run(string(method), func(t *testing.T) { test(t, method) })
	}
}
