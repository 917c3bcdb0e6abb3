package criu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// credentials are the real user and group of a process.
type credentials struct{ uid, gid int }

// rlimitUser returns whom CRIU has to be, as its real user, to dump the
// processes. The kernel shows a process's limits to whoever has CAP_SYS_RESOURCE,
// or is of the same real user and group. A node within another machine can lack
// that capability: then CRIU is started with the real user of the processes. Its
// effective user stays root, and with it what it may do. Where the processes are
// of several users CRIU stays root, and refuses.
func rlimitUser(processes []int) (credentials, error) {
	var root credentials
	capable, err := hasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil || capable {
		return root, err
	}
	var user *credentials
	for _, pid := range processes {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return root, err
		}
		c, err := parseCredentials(string(status))
		if err != nil {
			return root, fmt.Errorf("read whose process %d is: %w", pid, err)
		}
		if user != nil && *user != c {
			return root, nil
		}
		user = &c
	}
	if user == nil {
		return root, nil
	}
	return *user, nil
}

// parseCredentials reads the real user and group from a process's status file.
func parseCredentials(status string) (c credentials, err error) {
	ids := map[string]*int{"Uid": &c.uid, "Gid": &c.gid}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		id := ids[name]
		if id == nil {
			continue
		}
		delete(ids, name)
		fields := strings.Fields(value) // real, effective, saved, of the file system
		if len(fields) == 0 {
			return c, fmt.Errorf("its status file has no %s", name)
		}
		if *id, err = strconv.Atoi(fields[0]); err != nil {
			return c, err
		}
	}
	if len(ids) > 0 {
		return c, errors.New("its status file names no user or group")
	}
	return c, nil
}

// hasCapability is whether this thread has an effective capability.
func hasCapability(capability int) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("read this process's capabilities: %w", err)
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0, nil
}

// start starts a program with the real user and group. A new process inherits
// them from the thread that starts it.
func (c credentials) start(cmd *exec.Cmd) error {
	if c == (credentials{}) {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := setThread(c); err != nil {
		return fmt.Errorf("become user %d of group %d: %w", c.uid, c.gid, err)
	}
	err := cmd.Start()
	if back := setThread(credentials{}); back != nil {
		// A thread that is not root's must not run anything else.
		panic(fmt.Sprintf("become root again: %v", back))
	}
	return err
}

// setThread sets the real user and group of the calling thread alone; the
// standard library's functions set those of all threads.
func setThread(c credentials) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(c.gid), keep, keep); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(c.uid), keep, keep); errno != 0 {
		return errno
	}
	return nil
}
