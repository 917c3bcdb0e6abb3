package machine

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Process names a process for good: a number alone may come to mean another one.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // in clock ticks since the host's boot
}

// find names the process that has the number now.
func find(pid int) (Process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	// The second field, the program's name in parentheses, may hold anything.
	after := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const startTimeAfterName = 19 // field 22 in proc_pid_stat(5)
	if len(after) <= startTimeAfterName {
		return Process{}, fmt.Errorf("find process %d: stat has %d fields", pid, len(after)+2)
	}
	start, err := strconv.ParseUint(after[startTimeAfterName], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	if after[0] == "Z" {
		return Process{}, fmt.Errorf("find process %d: it has ended", pid)
	}
	return Process{PID: pid, StartTime: start}, nil
}

// Alive tells whether the process still runs.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := find(p.PID)
	return err == nil && now == p
}

// Kill ends the process, if it still runs, and with it everything on its machine.
func (p Process) Kill() error {
	if p.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor is taken first: from here on it is this process or none.
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// Self names the calling process.
func Self() (Process, error) { return find(os.Getpid()) }

// All lists the first processes of a cluster's machines whose disks lie below the
// folder root, whatever has become of their machines.
func All(cluster, root string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var found []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && isInitial(pid, cluster, root) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// KillInitial kills the process with the number if it is one that All lists.
func KillInitial(pid int, cluster, root string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !isInitial(pid, cluster, root) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// isInitial tells by its arguments whether a process is a machine's first one.
func isInitial(pid int, cluster, root string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	return len(args) == 5 && args[0] == programName && args[1] == cluster && strings.HasPrefix(args[4], root+"/")
}
