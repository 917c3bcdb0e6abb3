package criu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host says how to reach the node whose containers are dumped and restored.
type Host struct {
	// ProcRoot is where the node's processes are seen, commonly "/proc".
	ProcRoot string
	// Root is where the node's file system is seen: "/proc/1/root" from a
	// container that shares the node's process namespace, "/" on the node.
	Root string
	// EnterMountNS is whether this process is in another mount namespace than
	// the node's first process. Files are then handled, and programs started,
	// by threads that have entered the node's, so that both mean the same by a
	// path. Folders that are passed to this package must have the same path in
	// both namespaces.
	EnterMountNS bool
}

// programFolders is where programs of a node are looked for.
var programFolders = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Run calls do on a thread that is in the node's mount namespace. What do
// starts as a goroutine is on another thread, and not in that namespace.
func (h Host) Run(do func() error) error {
	if !h.EnterMountNS {
		return do()
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, because nothing
		// else may run in the node's mount namespace by accident.
		runtime.LockOSThread()
		if err := h.enter(); err != nil {
			result <- fmt.Errorf("enter the node's mount namespace: %w", err)
			return
		}
		result <- do()
	}()
	return <-result
}

func (h Host) enter() error {
	ns, err := os.Open(filepath.Join(h.ProcRoot, "1/ns/mnt"))
	if err != nil {
		return err
	}
	defer ns.Close()
	// A thread that shares its root with others cannot change its namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)
}

// program finds a program of the node. It must run within Run.
func program(name string) (string, error) {
	for _, folder := range programFolders {
		path := filepath.Join(folder, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed on the node: looked in %s", name, strings.Join(programFolders, ", "))
}

// outputTime is how long the output of a program that was killed is waited for.
const outputTime = time.Second

// command readies a program of the node. It must be started within the same Run.
// The end of ctx kills it with all processes that it has started, for CRIU's
// would live on and keep its output open.
func command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.WaitDelay = "/", outputTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Env = []string{"PATH=" + strings.Join(programFolders, ":"), "HOME=/root", "LC_ALL=C"}
	return cmd
}

// output runs a program of the node and returns what it prints. An error has
// what it printed as its error output.
func (h Host) output(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	err := h.Run(func() error {
		path, err := program(name)
		if err != nil {
			return err
		}
		cmd := command(ctx, path, args...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
		}
		return nil
	})
	return stdout.String(), err
}

// Exec runs a program of the node until it or ctx ends, and writes what it prints to
// output, which is used by one goroutine at a time.
func (h Host) Exec(ctx context.Context, output io.Writer, name string, args ...string) error {
	return h.Run(func() error {
		path, err := program(name)
		if err != nil {
			return err
		}
		cmd := command(ctx, path, args...)
		cmd.Stdout, cmd.Stderr = output, output
		return cmd.Run()
	})
}
