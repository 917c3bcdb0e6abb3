package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// passed is what the guest says when all went well.
const passed = "softdirty: passed"

// processor is without cmpxchg16b: the emulated one of QEMU 7.2 crashes Linux 6.12 now and then.
const processor = "qemu64,-cx16"

// boot runs the virtual machine to its end, and prints what the guest says.
func boot(ctx context.Context, c config, kernel, initramfs string) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu,
		"-machine", "accel="+c.accelerator, "-cpu", processor, "-smp", "1", "-m", strconv.Itoa(c.memory),
		"-kernel", kernel, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 transparent_hugepage=madvise",
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot")
	cmd.WaitDelay = time.Second
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var problems strings.Builder
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", qemu, err)
	}
	well := false
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if line := strings.TrimRight(lines.Text(), "\r"); line != "" {
			if line == passed {
				well = true // the kernel may say more
			} else {
				fmt.Println(line)
			}
		}
	}
	err = errors.Join(lines.Err(), cmd.Wait())
	if err != nil {
		return fmt.Errorf("%s: %w: %s", qemu, errors.Join(err, ctx.Err()), problems.String())
	}
	if !well {
		return errors.New("it did not pass")
	}
	return nil
}
