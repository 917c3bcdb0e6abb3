package fence

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Now is the present instant.
func Now() Instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		// Only an unknown clock or a bad address can fail; Linux has had this
		// clock since 2.6.39.
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return Instant(t.Nano())
}

// BootID names the present boot of the node whose processes procRoot shows,
// commonly "/proc". It consists of the kernel's boot ID and the start time of
// the node's first process, because a node may itself be a container that
// starts anew while the kernel goes on.
func BootID(procRoot string) (string, error) {
	kernel, err := os.ReadFile(filepath.Join(procRoot, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("read the kernel's boot ID: %w", err)
	}
	stat, err := os.ReadFile(filepath.Join(procRoot, "1/stat"))
	if err != nil {
		return "", fmt.Errorf("read the start time of process 1: %w", err)
	}
	// The process's name, in parentheses, may hold spaces. The start time is
	// field 22, the twentieth after it (proc_pid_stat(5)).
	const startTime = 22 - 3
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) <= startTime {
		return "", fmt.Errorf("read the start time of process 1: %q has too few fields", stat)
	}
	return strings.TrimSpace(string(kernel)) + "/" + fields[startTime], nil
}
