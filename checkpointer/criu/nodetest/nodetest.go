// Package nodetest runs a test inside a small node of its own: a Debian trixie
// root file system with runc and CRIU, and mount, process, network, IPC, host
// name and cgroup namespaces of its own. Tests and benchmarks import it, nothing
// that is installed does.
//
// When the node ends, the kernel ends every process in it and removes every
// mount; the node's cgroups and folders are removed by the process that made it.
package nodetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Names in the environment that tell a copy of the test program what it is.
const (
	stageVariable  = "LIFEBOAT_NODETEST_STAGE"
	rootVariable   = "LIFEBOAT_NODETEST_ROOT"
	cgroupVariable = "LIFEBOAT_NODETEST_CGROUP"
)

// The stages: enter namespaces, reap processes as the node's first one, test.
const (
	stageEnter = "enter"
	stageInit  = "init"
	stageTest  = "test"
)

// removeTime is how long it may take to remove a node.
const removeTime = 15 * time.Second

// Paths inside a node.
const (
	// Program is the test program itself, in a node and in its containers.
	Program = "/lifeboat-test/program"
	// Disk is a folder on a real disk, where overlay file systems can lie.
	Disk = "/lifeboat-test/disk"
	// System is the root file system of the node, to make containers from.
	System = "/lifeboat-test/system"
)

// T is what is needed of a test. *testing.T is one; a benchmark that is a program
// of its own has another. Its Fatal and Fatalf do not return.
type T interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func init() {
	switch os.Getenv(stageVariable) {
	case stageEnter:
		runtime.LockOSThread()
		fmt.Fprintln(os.Stderr, "set up the test's node:", enter())
		os.Exit(1)
	case stageInit:
		os.Exit(beInit())
	}
}

// Inside runs the calling test in a node of its own and returns false there
// where the test was started; inside the node it returns true. So a test that
// needs a node begins with
//
//	if !nodetest.Inside(t) {
//		return
//	}
func Inside(t *testing.T) bool {
	t.Helper()
	if Within() {
		return true
	}
	args := []string{"-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$", "-test.v", "-test.count=1"}
	if deadline, ok := t.Deadline(); ok {
		// Sooner than here, so that the node is removed before this program dies.
		left := time.Until(deadline) - removeTime
		args = append(args, "-test.timeout="+max(left, time.Second).String())
	}
	var output bytes.Buffer
	err := Run(t.Context(), t.TempDir(), args, &output, &output)
	t.Logf("in the node:\n%s", output.Bytes())
	if err != nil {
		t.Errorf("the test failed in its node: %v", err)
	}
	return false
}

// Within is whether this process runs in a node that Run has made.
func Within() bool { return os.Getenv(stageVariable) == stageTest }

// Run runs this program once more, with other arguments, as a process of a new
// node, and waits until it ends; the end of ctx ends it. The node's files lie in
// folder, which is on the disk that is to be the node's; what is in its folder
// "disk" is seen below Disk.
func Run(ctx context.Context, folder string, args []string, stdout, stderr io.Writer) (err error) {
	if os.Getuid() != 0 {
		return errors.New("a node is made of namespaces: run this as root")
	}
	system, err := systemFolder(ctx)
	if err != nil {
		return fmt.Errorf("make the node's root file system: %w", err)
	}
	for _, dir := range []string{"upper", "work", "root", "disk"} {
		if err := os.MkdirAll(filepath.Join(folder, dir), 0o755); err != nil {
			return err
		}
	}
	groups, err := makeCgroups(fmt.Sprintf("lifeboat-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	defer func() { err = errors.Join(err, removeCgroups(groups)) }()
	if err != nil {
		return fmt.Errorf("make the node's cgroups: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = append(os.Environ(), stageVariable+"="+stageEnter, rootVariable+"="+folder+":"+system, cgroupVariable+"="+strings.Join(groups, ":"))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
		// An interrupt at the terminal is for this process, which then ends the node.
		Setpgid: true,
	}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return nil
}

// beInit is the first process of the node. It starts the test, and reaps every
// process whose parent has gone, as an init must.
func beInit() int {
	os.Setenv(stageVariable, stageTest)
	cmd := exec.Command(Program, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the test:", err)
		return 1
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "wait for the test:", err)
			return 1
		}
		if pid == cmd.Process.Pid {
			if status.Exited() {
				return status.ExitStatus()
			}
			return 128 + int(status.Signal())
		}
	}
}

// Eventually waits until done is true, and fails the test after limit.
func Eventually(t T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v in vain: %s", limit, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
