// Package steady keeps a machine that many share from deciding how tests end: their
// files are in memory, and a test that failed while the machine stood still is run once
// more, and says so. It is for the tests of what waits for storage often or must act
// within a time, such as the fencer. Nothing else may use it: a test that fails on a
// machine that went on has failed.
package steady

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// shared is a file system in memory that every Linux machine has.
	shared = "/dev/shm"
	// runVariable is set for the process that runs the tests, and for all that it starts.
	runVariable = "LIFEBOAT_TEST_STEADY"
	// mostRuns is how often tests are run before their failure stands, whatever the
	// machine did.
	mostRuns = 3
)

// TemporaryFolders makes testing.T.TempDir use memory where there is some, unless
// TMPDIR says where: a disk that is busy with something else must not decide how tests
// end. Call it in TestMain.
func TemporaryFolders() {
	if info, err := os.Stat(shared); err == nil && info.IsDir() && os.Getenv("TMPDIR") == "" {
		os.Setenv("TMPDIR", shared)
	}
}

// Main runs the tests of a package by run, which is mostly testing.M.Run, in a process
// of their own. Tests that failed are run again, twice at most, if the machine stood
// still for longer than longest meanwhile. It returns the exit status for TestMain.
// Benchmarks, fuzzing and lists of tests are run once.
func Main(run func() int, longest time.Duration) int {
	flag.Parse()
	if os.Getenv(runVariable) != "" || set("test.bench") || set("test.fuzz") || set("test.list") {
		return run()
	}
	arguments := os.Args[1:]
	for count := 1; ; count++ {
		status, failed, stall := runTests(arguments)
		if status == 0 || len(failed) == 0 || stall <= longest || count == mostRuns {
			return status
		}
		fmt.Fprintf(os.Stdout, "The machine stood still for %s meanwhile, longer than these tests bear (%s), so this is no verdict. Once more: %s\n",
			stall.Round(time.Millisecond), longest, strings.Join(failed, ", "))
		if arguments = os.Args[1:]; !strings.Contains(value("test.run"), "/") {
			// The last one counts.
			arguments = append(slices.Clone(arguments), "-test.run=^("+strings.Join(failed, "|")+")$")
		}
	}
}

func value(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

func set(name string) bool { return value(name) != "" }

// runTests runs the tests once. It returns the exit status, the names of the tests that
// failed, and for how long the machine stood still at most.
func runTests(arguments []string) (status int, failed []string, stall time.Duration) {
	command := exec.Command(os.Args[0], arguments...) //nolint:noctx // it ends with this process
	command.Env = append(os.Environ(), runVariable+"=1")
	var failures failures
	interrupted := false
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, io.MultiWriter(os.Stdout, &failures), os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Pdeathsig follows the thread that starts the process, so it must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Who interrupts the tests lets them clean up: they end, and with them this process.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	watched := watchStalls()
	err := command.Start()
	if err == nil {
		ended := make(chan error, 1)
		go func() { ended <- command.Wait() }()
		for running := true; running; {
			select {
			case got := <-signals:
				interrupted = true
				_ = command.Process.Signal(got)
			case err = <-ended:
				running = false
			}
		}
	}
	stall = watched()
	if interrupted {
		failures.names = nil
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(1, exit.ExitCode()), failures.names, stall
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests:", err)
		return 1, nil, stall
	}
	return 0, nil, stall
}

// look is how often is looked whether the machine goes on.
const look = 10 * time.Millisecond

// watchStalls looks often whether this process goes on, until the returned function is
// called, which returns by how much it came late at most.
func watchStalls() func() time.Duration {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var late time.Duration
		for last := time.Now(); ; {
			select {
			case <-stop:
				longest <- max(late, time.Since(last)-look)
				return
			case <-time.After(look):
				now := time.Now()
				late = max(late, now.Sub(last)-look)
				last = now
			}
		}
	}()
	return func() time.Duration { close(stop); return <-longest }
}

// failures collects the names of the tests that failed from what they print.
type failures struct {
	rest  []byte
	names []string
}

// failure is how package testing tells that a test failed that is no other one's part;
// go test -json has it put a mark before it.
var failure = regexp.MustCompile(`^\x16?--- FAIL: (\S+) \(`)

func (f *failures) Write(p []byte) (int, error) {
	f.rest = append(f.rest, p...)
	for {
		line, rest, whole := bytes.Cut(f.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		if match := failure.FindSubmatch(line); match != nil {
			f.names = append(f.names, regexp.QuoteMeta(string(match[1])))
		}
		f.rest = rest
	}
}
