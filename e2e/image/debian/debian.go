// Package debian makes root file systems from Debian's packages. It needs root and a
// Debian host, or one with mmdebstrap and apt.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what a root file system is made of.
type Options struct {
	Suite   string   // a release's code name, as "trixie"
	Variant string   // mmdebstrap's, as "minbase" or "essential"
	Include []string // packages beside the variant's
	Extra   []string // further arguments for mmdebstrap
}

// Bootstrap makes a root file system at target: a folder, or a tar archive if the name
// ends in ".tar". What is at target is replaced; if Bootstrap fails nothing is left.
func Bootstrap(ctx context.Context, o Options, target string) (err error) {
	if err := ensureTool(ctx, "mmdebstrap"); err != nil {
		return err
	}
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("make Debian file system: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(target))
		}
	}()
	mirror, err := Mirror(ctx)
	if err != nil {
		return err
	}
	args := []string{"--variant=" + o.Variant}
	if len(o.Include) > 0 {
		args = append(args, "--include="+strings.Join(o.Include, ","))
	}
	args = append(args, o.Extra...)
	args = append(args, o.Suite, target, mirror)
	if _, err := run(ctx, "mmdebstrap", args...); err != nil {
		return fmt.Errorf("make Debian file system %s: %w", target, err)
	}
	return nil
}

// Unpack downloads packages of a suite, without what they depend on, and unpacks them
// over the root file system at root.
func Unpack(ctx context.Context, suite string, packages []string, root string) error {
	work, err := os.MkdirTemp("", "debian-")
	if err != nil {
		return fmt.Errorf("unpack packages of %s: %w", suite, err)
	}
	defer os.RemoveAll(work)
	for _, folder := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(work, folder), 0o755); err != nil {
			return fmt.Errorf("unpack packages of %s: %w", suite, err)
		}
	}
	mirror, err := Mirror(ctx)
	if err != nil {
		return err
	}
	source := fmt.Sprintf("deb %s %s main\n", mirror, suite)
	if err := os.WriteFile(filepath.Join(work, "sources.list"), []byte(source), 0o644); err != nil {
		return fmt.Errorf("unpack packages of %s: %w", suite, err)
	}
	apt := func(args ...string) error {
		options := []string{
			"-oDir::Etc::sourcelist=" + work + "/sources.list", "-oDir::Etc::sourceparts=-",
			"-oDir::State::Lists=" + work + "/lists", "-oDir::Cache::archives=" + work + "/archives",
			"-oAPT::Sandbox::User=root",
			// A mirror that lags, or a snapshot, has an index past its date; it is signed all the same.
			"-oAcquire::Check-Valid-Until=false",
		}
		_, err := runIn(ctx, work, "apt-get", append(options, args...)...)
		return err
	}
	if err := apt("update"); err != nil {
		return fmt.Errorf("read packages of %s: %w", suite, err)
	}
	if err := apt(append([]string{"download"}, packages...)...); err != nil {
		return fmt.Errorf("download packages of %s: %w", suite, err)
	}
	archives, err := filepath.Glob(work + "/*.deb")
	if err != nil {
		return fmt.Errorf("unpack packages of %s: %w", suite, err)
	}
	if len(archives) != len(packages) {
		return fmt.Errorf("unpack packages of %s: apt-get downloaded %d of %d packages", suite, len(archives), len(packages))
	}
	for _, archive := range archives {
		if _, err := run(ctx, "dpkg", "-x", archive, root); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(archive), err)
		}
	}
	return nil
}

// criuPackages come from Debian's sid: the CRIU of trixie cannot dump a socket on
// Linux 6.16 and later ("Can't get 1:16 opt"). libnl only spares a warning at every start.
var criuPackages = []string{"criu", "libcompel1", "libnet9", "libnl-3-200"}

// UnpackCRIU replaces the CRIU of a trixie root file system by one that works on
// Linux 6.16 and later. It is only unpacked: to install it would draw in sid's C library.
func UnpackCRIU(ctx context.Context, root string) error {
	if err := Unpack(ctx, "sid", criuPackages, root); err != nil {
		return err
	}
	// An unpacked package's dependencies are nobody's concern but ours.
	_, err := run(ctx, "chroot", root, "criu", "--version")
	return err
}

// Mirror is the Debian mirror that the host's apt uses.
func Mirror(ctx context.Context) (string, error) {
	uri, err := mirror(ctx)
	if uri == "" && err == nil {
		// Without indexes apt does not know whose its sources are.
		if _, err = run(ctx, "apt-get", "update"); err == nil {
			uri, err = mirror(ctx)
		}
	}
	if err != nil {
		return "", fmt.Errorf("find a Debian mirror: %w", err)
	}
	if uri == "" {
		return "", errors.New("find a Debian mirror: apt has no source of Debian; add one to its sources")
	}
	return uri, nil
}

// mirror is the first source of Debian that apt has an index of, or "".
func mirror(ctx context.Context) (string, error) {
	list, err := run(ctx, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(list) {
		if uri, ok := strings.CutPrefix(strings.TrimSpace(line), "Debian|Debian|"); ok {
			return strings.TrimSuffix(uri, "/"), nil
		}
	}
	return "", nil
}

// ensureTool installs a program from the Debian package of the same name if it is missing.
func ensureTool(ctx context.Context, name string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("making a Debian file system needs root: run this as root")
	}
	if _, err := exec.LookPath(name); err == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s is missing, and without apt-get it cannot be installed here: run this on Debian, or install %s", name, name)
	}
	if _, err := run(ctx, "apt-get", "update"); err != nil {
		return fmt.Errorf("install %s: %w", name, err)
	}
	if _, err := run(ctx, "apt-get", "install", "--yes", "--no-install-recommends", name); err != nil {
		return fmt.Errorf("install %s: %w", name, err)
	}
	return nil
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	return runIn(ctx, "", name, args...)
}

// runIn runs a program that ends, with all that it has started and mounted, when ctx or
// this program does.
func runIn(ctx context.Context, dir, name string, args ...string) (string, error) {
	// A parent's death is signalled when its thread ends, so the thread stays until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var output, problems bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	cmd.Stdout, cmd.Stderr = &output, &problems
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// In a pid namespace of its own: when the first process dies, all of them do.
		Cloneflags:   unix.CLONE_NEWPID,
		Unshareflags: unix.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
		Setpgid:      true,
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, lastLines(problems.String(), 8))
	}
	return output.String(), nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
