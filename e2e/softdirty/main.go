// Command softdirty shows pre-copy with soft-dirty bits on Debian's own kernels,
// in a virtual machine, for the kernel of the machine it runs on may have none.
// There it runs the tests of checkpointer/track and measures how long a process
// is frozen when all its memory is read, and when only what was written since
// the last look is.
//
// It ends with status 1 when a test fails, or when soft-dirty does not work.
// By default the machine is emulated: slow, so that only the ratios count.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/image/debian"
)

// config says what to run.
type config struct {
	suites      []string
	measures    []string
	memory      int    // of the virtual machine, in megabytes
	accelerator string // QEMU's
	limit       time.Duration
}

func main() {
	var c config
	suites := flag.String("suites", "bookworm,trixie", "the Debian releases whose kernels are tried")
	sizes := flag.String("sizes", "64,256", "how much memory the measured process has, in megabytes")
	shares := flag.String("shares", "1,5,20", "how much of it is written between two looks, in percent")
	// Not KVM where there is a /dev/kvm: inside a virtual machine it may be there and hang.
	flag.StringVar(&c.accelerator, "accel", "tcg", "QEMU's accelerator: tcg, or kvm where that works")
	flag.IntVar(&c.memory, "memory", 2048, "memory of the virtual machine, in megabytes")
	flag.DurationVar(&c.limit, "limit", 20*time.Minute, "how long one virtual machine may run")
	flag.Parse()
	c.suites, c.measures = strings.Split(*suites, ","), []string{*sizes, *shares}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "softdirty:", err)
		os.Exit(1)
	}
}

// qemu is the program that runs the virtual machine.
const qemu = "qemu-system-x86_64"

func run(ctx context.Context, c config) error {
	if _, err := exec.LookPath(qemu); err != nil {
		return fmt.Errorf("%s is missing: on Debian, apt-get install --no-install-recommends qemu-system-x86", qemu)
	}
	work, err := os.MkdirTemp("", "softdirty-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	initramfs := filepath.Join(work, "initramfs")
	if err := build(ctx, work, initramfs, c.measures); err != nil {
		return err
	}
	var errs []error
	for _, suite := range c.suites {
		kernel, err := kernelOf(ctx, suite)
		if err != nil {
			return err
		}
		fmt.Printf("Debian %s\n", suite)
		if err := boot(ctx, c, kernel, initramfs); err != nil {
			errs = append(errs, fmt.Errorf("on the kernel of Debian %s: %w", suite, err))
		}
	}
	return errors.Join(errs...)
}

// build makes the initial file system: the guest's program, and the tests of
// checkpointer/track.
func build(ctx context.Context, work, initramfs string, measures []string) error {
	guest, tests := filepath.Join(work, "guest"), filepath.Join(work, "tests")
	const module = "github.com/lifeboat-dev/lifeboat/"
	for _, args := range [][]string{
		{"build", "-o", guest, module + "e2e/softdirty/guest"},
		{"test", "-c", "-o", tests, module + "checkpointer/track"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", args[0], err, output)
		}
	}
	return writeArchive(initramfs, []entry{
		{name: "init", from: guest}, {name: "tests", from: tests}, {name: "measures", content: strings.Join(measures, "\n")},
	})
}

// kernelOf returns the file of a release's kernel for virtual machines. It is downloaded once.
func kernelOf(ctx context.Context, suite string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for downloads: %w", err)
	}
	folder := filepath.Join(cache, "lifeboat", "kernels", suite)
	if kernel, err := onlyKernel(folder); err == nil {
		return kernel, nil
	}
	fmt.Fprintf(os.Stderr, "  downloading the kernel of Debian %s\n", suite)
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return "", err
	}
	root, err := os.MkdirTemp(filepath.Dir(folder), suite+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(root)
	// This package has no files: it depends on the kernel, and its documentation is a link to that one's.
	const newest = "linux-image-cloud-amd64"
	if err := debian.Unpack(ctx, suite, []string{newest}, root); err != nil {
		return "", err
	}
	name, err := os.Readlink(filepath.Join(root, "usr/share/doc", newest))
	if err != nil {
		return "", fmt.Errorf("find the kernel of Debian %s: %w", suite, err)
	}
	if err := debian.Unpack(ctx, suite, []string{name}, root); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(root, "boot"), folder); err != nil {
		return "", err
	}
	return onlyKernel(folder)
}

func onlyKernel(folder string) (string, error) {
	kernels, err := filepath.Glob(filepath.Join(folder, "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return "", errors.Join(err, fmt.Errorf("%s has %d kernels, not 1", folder, len(kernels)))
	}
	return kernels[0], nil
}
