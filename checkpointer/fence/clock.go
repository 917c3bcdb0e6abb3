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

// BootID names the present boot of the node whose own /proc is procRoot. It is
// what kubelet reports as the node's bootID.
func BootID(procRoot string) (string, error) {
	id, err := os.ReadFile(filepath.Join(procRoot, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("read the node's boot ID: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
