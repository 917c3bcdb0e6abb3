// Command guest is the first and only program of the virtual machine of softdirty.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == writerName {
		write()
		return
	}
	err := run(context.Background())
	if err != nil {
		fmt.Println("softdirty:", err)
	} else {
		fmt.Println("softdirty: passed")
	}
	unix.Sync()
	// The machine is started without a reset: this ends it.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("softdirty: end the machine:", err)
	}
}

func run(ctx context.Context) error {
	for _, m := range []struct{ target, kind string }{
		{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}, {"/tmp", "tmpfs"}, {"/sys/fs/cgroup", "cgroup2"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.target, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	method, why := track.Probe()
	fmt.Printf("Linux %s: the best method is %s (%v)\n", unix.ByteSliceToString(name.Release[:]), method, oneLine(why))
	if err := track.Works(track.SoftDirty); err != nil {
		return fmt.Errorf("soft-dirty does not work: %w", err)
	}
	tests := exec.CommandContext(ctx, "/tests", "-test.short", "-test.v", "-test.failfast")
	tests.Dir, tests.Stdout, tests.Stderr = "/tmp", os.Stdout, os.Stderr
	fmt.Println("tests of checkpointer/track:")
	if err := tests.Run(); err != nil {
		return fmt.Errorf("the tests of checkpointer/track: %w", err)
	}
	content, err := os.ReadFile("/measures")
	if err != nil {
		return err
	}
	sizes, shares, _ := strings.Cut(string(content), "\n")
	return measureAll(ctx, numbers(sizes), numbers(shares))
}

func numbers(list string) []int {
	var numbers []int
	for word := range strings.SplitSeq(list, ",") {
		if n, err := strconv.Atoi(word); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

func oneLine(err error) string {
	if err == nil {
		return "of all"
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
