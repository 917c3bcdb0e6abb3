package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/cgroups"
)

// fixedSettings are kernel settings that kubelet insists on and would write. They are
// the whole host's, so the machine is shown the wanted values and the host keeps its own.
var fixedSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// mountRoot builds the machine's file system and makes it the calling process's root.
func mountRoot(s Spec) error {
	// Nothing that is mounted here may show on the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach from the host's mounts: %w", err)
	}
	hierarchies, err := cgroups.Hierarchies()
	if err != nil {
		return err
	}
	root := s.mountPoint()
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", escape(s.Root), escape(s.upper()), escape(s.work()))
	steps := []func() error{
		func() error { return mount("overlay", root, "overlay", 0, layers) },
		func() error {
			return mount("proc", root+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		},
		func() error {
			return mount("sysfs", root+"/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		},
		func() error { return mount("run", root+"/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755") },
		func() error { return mount("tmp", root+"/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777") },
		func() error { return mountDevices(root + "/dev") },
		func() error { return mountCgroups(root+"/sys/fs/cgroup", hierarchies) },
		func() error { return coverSettings(root, s.BootID) },
		func() error { return bind(s.Binaries, root+Binaries, true) },
		func() error { return bind(s.Logs, root+logs, false) },
	}
	if s.Images != "" {
		steps = append(steps, func() error { return bind(s.Images, root+images, true) })
	}
	if s.Shared != "" {
		steps = append(steps, func() error { return bind(s.Shared, root+Shared, false) })
	}
	for _, inside := range s.Persistent {
		steps = append(steps, func() error { return bind(s.persistent(inside), root+inside, false) })
	}
	steps = append(steps, func() error { return pivot(root) })
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// pivot makes root the root of the mount namespace and lets go of the host's file system.
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	// The old root ends up on top of the new one, and is taken off again.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// kubelet needs its mounts to propagate to containers.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

// mountDevices gives the machine a /dev of its own. Terminals, shared memory and
// message queues are new; of the real devices, those that containers and CRIU use.
func mountDevices(dev string) error {
	if err := mount("dev", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return err
	}
	for _, name := range []string{
		"null", "zero", "full", "random", "urandom", "tty", "kmsg",
		"fuse", "kvm", "net/tun", "userfaultfd", "loop-control",
	} {
		if err := bind(filepath.Join("/dev", name), filepath.Join(dev, name), false); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return fmt.Errorf("make devices: %w", err)
		}
	}
	if err := mount("devpts", dev+"/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"); err != nil {
		return err
	}
	if err := mount("shm", dev+"/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	return mount("mqueue", dev+"/mqueue", "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// mountCgroups shows the machine every cgroup tree from its own group down.
func mountCgroups(target string, hierarchies []cgroups.Hierarchy) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if len(hierarchies) == 1 && hierarchies[0].V2 {
		return mount("cgroup2", target, "cgroup2", flags, "")
	}
	if err := mount("cgroup", target, "tmpfs", flags, "mode=755"); err != nil {
		return err
	}
	for _, h := range hierarchies {
		kind := "cgroup"
		if h.V2 {
			kind = "cgroup2"
		}
		if err := mount(kind, h.Target(target), kind, flags, h.Options); err != nil {
			return err
		}
	}
	return nil
}

// coverSettings shows the machine its own boot ID, as every boot of a real one has,
// and the settings that it may not change.
func coverSettings(root, bootID string) error {
	covers := map[string]string{"kernel/random/boot_id": bootID}
	for name, value := range fixedSettings {
		covers[name] = value
	}
	for name, value := range covers {
		source := filepath.Join(root, "run/cluster/settings", name)
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return fmt.Errorf("cover setting %s: %w", name, err)
		}
		if err := os.WriteFile(source, []byte(value+"\n"), 0o444); err != nil {
			return fmt.Errorf("cover setting %s: %w", name, err)
		}
		target := filepath.Join(root, "proc/sys", name)
		if _, err := os.Stat(target); err != nil {
			return fmt.Errorf("cover setting %s: %w", name, err)
		}
		if err := bind(source, target, true); err != nil {
			return err
		}
	}
	return nil
}

// bind mounts a file or folder of the host into the machine, making the place for it.
func bind(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if _, missing := os.Stat(target); missing != nil {
		if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
			err = os.WriteFile(target, nil, 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", kind, err)
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s (%s): %w", kind, target, options, err)
	}
	return nil
}

// escape protects a path's characters that separate overlayfs options.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(path)
}
