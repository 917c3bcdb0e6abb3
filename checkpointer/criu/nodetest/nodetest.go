// Package nodetest runs a test inside a small node of its own: a Debian trixie
// root file system with runc and CRIU, and mount, process, network, IPC, host
// name and cgroup namespaces of its own. Tests import it, nothing else does.
//
// When the node ends, the kernel ends every process in it and removes every
// mount; the node's cgroups and folders are removed by the process that made it.
package nodetest

import (
	"context"
	"errors"
	"fmt"
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
	if os.Getenv(stageVariable) == stageTest {
		return true
	}
	if os.Getuid() != 0 {
		t.Fatal("this test makes namespaces and must run as root")
	}
	system, err := systemFolder()
	if err != nil {
		t.Fatalf("make the node's root file system: %v", err)
	}
	name := fmt.Sprintf("lifeboat-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	root := t.TempDir()
	for _, dir := range []string{"upper", "work", "root", "disk"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	groups, err := makeCgroups(name)
	t.Cleanup(func() { removeCgroups(t, groups) })
	if err != nil {
		t.Fatalf("make the node's cgroups: %v", err)
	}
	args := []string{"-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$", "-test.v", "-test.count=1"}
	if deadline, ok := t.Deadline(); ok {
		// Sooner than here, so that the node is removed before this program dies.
		left := time.Until(deadline) - removeTime
		args = append(args, "-test.timeout="+max(left, time.Second).String())
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), stageVariable+"="+stageEnter, rootVariable+"="+root+":"+system, cgroupVariable+"="+strings.Join(groups, ":"))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	defer runtime.UnlockOSThread()
	output, err := cmd.CombinedOutput()
	t.Logf("in the node:\n%s", output)
	if err != nil {
		t.Errorf("the test failed in its node: %v", err)
	}
	return false
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
func Eventually(t *testing.T, limit time.Duration, what string, done func() bool) {
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
