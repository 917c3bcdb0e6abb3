package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// overlay is how an overlay file system was mounted.
type overlay struct {
	flags       uintptr
	options     string
	upper, work string
}

// resetOverlay removes all file changes from an overlay file system, which
// nobody uses yet. The kernel does not allow its upper folder to be changed
// underneath, so it is unmounted meanwhile.
func resetOverlay(mountPoint string) error {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	o, err := findOverlay(string(mountinfo), mountPoint)
	if err != nil {
		return err
	}
	if err := syscall.Unmount(mountPoint, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", mountPoint, err)
	}
	// Mounted again even when not all was removed: runc needs it to start anything.
	return errors.Join(emptyFolder(o.upper), emptyFolder(o.work), o.mount(mountPoint))
}

// findOverlay finds the topmost mount at a path.
func findOverlay(mountinfo, mountPoint string) (overlay, error) {
	var found overlay
	err := fmt.Errorf("%s is not a mount point", mountPoint)
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 6 || len(right) < 3 || unescape(left[4]) != mountPoint {
			continue
		}
		if right[0] != "overlay" {
			err = fmt.Errorf("%s is a mount of %s, not of overlay", mountPoint, right[0])
			continue
		}
		found, err = overlay{options: unescape(right[2])}, nil
		for option := range strings.SplitSeq(left[5], ",") {
			found.flags |= mountFlags[option]
		}
		var keep []string
		for option := range strings.SplitSeq(found.options, ",") {
			key, value, _ := strings.Cut(option, "=")
			switch key {
			case "rw":
				continue
			case "upperdir":
				found.upper = value
			case "workdir":
				found.work = value
			}
			keep = append(keep, option)
		}
		found.options = strings.Join(keep, ",")
		if !filepath.IsAbs(found.upper) || !filepath.IsAbs(found.work) {
			err = fmt.Errorf("%s has no upper folder", mountPoint)
		}
	}
	return found, err
}

var mountFlags = map[string]uintptr{
	"ro": syscall.MS_RDONLY, "nosuid": syscall.MS_NOSUID, "nodev": syscall.MS_NODEV, "noexec": syscall.MS_NOEXEC,
	"noatime": syscall.MS_NOATIME, "nodiratime": syscall.MS_NODIRATIME, "relatime": syscall.MS_RELATIME,
}

// unescape undoes the kernel's way of writing spaces in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (o overlay) mount(mountPoint string) (err error) {
	// With many layers containerd mounts from within its folder of snapshots,
	// with relative names, because the kernel limits the length of the options.
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.Chdir(filepath.Join(o.upper, "../..")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Chdir(here)) }()
	if err := syscall.Mount("overlay", mountPoint, "overlay", o.flags, o.options); err != nil {
		return fmt.Errorf("mount %s again: %w", mountPoint, err)
	}
	return nil
}

func emptyFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(folder, entry.Name())))
	}
	return errors.Join(errs...)
}
