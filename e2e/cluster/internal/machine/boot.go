package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/cgroups"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/netns"
)

// programName is the first argument of a machine's first process, by which this
// package knows that the program was started to be one. The stages follow one another
// in the same process.
const (
	programName = "lifeboat-machine"
	stageEnter  = "enter"
	stageInit   = "init"
)

// File descriptors that a machine's first process is started with.
const (
	startFD    = 3 // one byte arrives once the process is in its cgroups
	listenerFD = 4 // the listener for Spec.Forward, if any
)

// A program that imports this package becomes a machine's first process when it is
// started as one. An init function rather than a call in main makes that work in every
// program, test binaries too.
func init() {
	if len(os.Args) != 5 || os.Args[0] != programName {
		return
	}
	var err error
	switch stage, file := os.Args[3], os.Args[4]; stage {
	case stageEnter:
		err = enterNamespaces(file)
	case stageInit:
		err = runInit(file)
	default:
		err = fmt.Errorf("unknown stage %q", stage)
	}
	fmt.Fprintln(os.Stderr, "machine:", err)
	os.Exit(1)
}

// Boot starts the machine in the given cgroup, which exists and is empty, and returns
// its first process. Its services come up later, see Status. If this program ends
// before Boot returns, the machine does not start.
func Boot(s Spec, group cgroups.Group, listener *os.File) (Process, error) {
	if err := s.save(); err != nil {
		return Process{}, err
	}
	output, err := os.OpenFile(filepath.Join(s.Logs, "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Process{}, fmt.Errorf("boot %s: %w", s.Name, err)
	}
	defer output.Close()
	started, start, err := os.Pipe()
	if err != nil {
		return Process{}, fmt.Errorf("boot %s: %w", s.Name, err)
	}
	defer started.Close()
	defer start.Close()

	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{programName, s.Cluster, s.Name, stageEnter, s.file()},
		Env:         []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + Binaries, "HOME=/root", "LANG=C.UTF-8"},
		Dir:         "/",
		Stdout:      output,
		Stderr:      output,
		ExtraFiles:  []*os.File{started},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setsid: true},
	}
	if listener != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, listener)
	}
	if err := cmd.Start(); err != nil {
		return Process{}, fmt.Errorf("boot %s: %w", s.Name, err)
	}
	// Whoever starts a machine reaps it; how it ended is in its log.
	go func() { _ = cmd.Wait() }()

	process, err := find(cmd.Process.Pid)
	if err == nil {
		err = group.Add(process.PID)
	}
	if err == nil {
		_, err = start.Write([]byte{1})
	}
	if err != nil {
		// Closing the pipe unwritten, on return, ends the process.
		return Process{}, fmt.Errorf("boot %s: %w", s.Name, err)
	}
	return process, nil
}

// enterNamespaces is the first stage: it waits to be put into its cgroups, which
// become the roots of its cgroup namespace, and starts over inside namespaces of its
// own. Each of a program's threads has namespaces of its own; only execution anew
// leaves a single thread.
func enterNamespaces(file string) error {
	start := os.NewFile(startFD, "start")
	if n, _ := start.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("given up by the process that started it")
	}
	start.Close()
	s, err := load(file)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := netns.Enter(s.NetNS); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("enter namespaces of %s: %w", s.Name, err)
	}
	err = unix.Exec("/proc/self/exe", []string{programName, s.Cluster, s.Name, stageInit, file}, os.Environ())
	return fmt.Errorf("start over in namespaces of %s: %w", s.Name, err)
}
