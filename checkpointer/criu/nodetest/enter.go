package nodetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// enter turns the calling thread, which is alone in new namespaces, into the
// node's init. It returns only when that fails.
func enter() error {
	for _, group := range strings.Split(os.Getenv(cgroupVariable), ":") {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter the node's cgroups: %w", err)
		}
	}
	// Only now, so that the node's cgroups are the roots of what it sees.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte("node")); err != nil {
		return fmt.Errorf("set the node's host name: %w", err)
	}
	if err := LoopbackUp(); err != nil {
		return err
	}
	folder, system, _ := strings.Cut(os.Getenv(rootVariable), ":")
	if err := mountRoot(folder, system); err != nil {
		return err
	}
	os.Setenv(stageVariable, stageInit)
	os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	os.Setenv("TMPDIR", "/tmp")
	return unix.Exec(Program, os.Args, os.Environ())
}

// LoopbackUp brings up the loopback interface of the calling thread's network
// namespace, which is new: programs in it can then talk to each other.
func LoopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	return nil
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// mountRoot makes the node's file system and enters it.
func mountRoot(folder, system string) error {
	root := filepath.Join(folder, "root")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	groups, err := cgroupMounts()
	if err != nil {
		return err
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", system, filepath.Join(folder, "upper"), filepath.Join(folder, "work"))
	mounts := []mount{
		{"", "/", "", unix.MS_PRIVATE | unix.MS_REC, ""},
		{"overlay", root, "overlay", 0, overlay},
		{"proc", root + "/proc", "proc", 0, ""},
		{"sysfs", root + "/sys", "sysfs", 0, ""},
		{"/dev", root + "/dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", root + "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", root + "/tmp", "tmpfs", 0, "mode=1777"},
		{filepath.Join(folder, "disk"), root + Disk, "", unix.MS_BIND, ""},
		{system, root + System, "", unix.MS_BIND, ""},
		{self, root + Program, "", unix.MS_BIND, ""},
	}
	for _, g := range groups {
		g.target = root + g.target
		mounts = append(mounts, g)
	}
	for _, m := range mounts {
		if m.target == root+Program {
			err = errors.Join(os.MkdirAll(filepath.Dir(m.target), 0o755), os.WriteFile(m.target, nil, 0o755))
		} else {
			err = os.MkdirAll(m.target, 0o755)
		}
		if err == nil {
			err = unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
		}
		if err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	old := root + "/lifeboat-test/old"
	if err := os.MkdirAll(old, 0o755); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/lifeboat-test/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	// As on a machine that systemd has started.
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

// hierarchy is one cgroup file system of the machine.
type hierarchy struct {
	mountPoint, kind, options string
}

func hierarchies() ([]hierarchy, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for line := range strings.Lines(string(content)) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 || !strings.HasPrefix(left[4], "/sys/fs/cgroup") {
			continue
		}
		if right[0] == "cgroup" || right[0] == "cgroup2" {
			found = append(found, hierarchy{left[4], right[0], right[2]})
		}
	}
	return found, nil
}

// cgroupMounts are the machine's cgroup file systems, at the same places.
func cgroupMounts() ([]mount, error) {
	found, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var mounts []mount
	if len(found) > 1 {
		mounts = append(mounts, mount{"tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"})
	}
	for _, h := range found {
		m := mount{"cgroup", h.mountPoint, h.kind, 0, ""}
		if h.kind == "cgroup" {
			m.data = strings.TrimPrefix(h.options, "rw,")
			if strings.HasPrefix(m.data, "name=") {
				m.data = "none," + m.data
			}
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// makeCgroups makes one cgroup in each hierarchy, below the one that this
// process is in, and returns their folders.
func makeCgroups(name string) ([]string, error) {
	found, err := hierarchies()
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, h := range found {
		options := "," + h.options + ","
		for line := range strings.Lines(string(content)) {
			parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
			v1 := h.kind == "cgroup" && parts[1] != "" && strings.Contains(options, ","+parts[1]+",")
			v2 := h.kind == "cgroup2" && parts[0] == "0" && parts[1] == ""
			if !v1 && !v2 {
				continue
			}
			folder := filepath.Join(h.mountPoint, parts[2], name)
			if err := os.Mkdir(folder, 0o755); err != nil {
				return folders, err
			}
			folders = append(folders, folder)
			if parts[1] == "cpuset" {
				if err := inheritCPUs(folder); err != nil {
					return folders, err
				}
			}
		}
	}
	return folders, nil
}

// inheritCPUs fills a new group of cgroup v1's cpuset, which starts empty.
func inheritCPUs(folder string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		content, err := os.ReadFile(filepath.Join(filepath.Dir(folder), file))
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, file), content, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes groups and those below them. A group whose last process
// has just died is busy for a moment.
func removeCgroups(folders []string) error {
	var errs []error
	for _, folder := range folders {
		var below []string
		entries, err := os.ReadDir(folder)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			if e.IsDir() {
				below = append(below, filepath.Join(folder, e.Name()))
			}
		}
		errs = append(errs, removeCgroups(below), removeCgroup(folder))
	}
	return errors.Join(errs...)
}

func removeCgroup(folder string) error {
	for limit := time.Now().Add(removeTime); ; time.Sleep(5 * time.Millisecond) {
		err := os.Remove(folder)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(limit) {
			return err
		}
	}
}

// inNamespaces calls do on a thread of its own in the namespaces of kinds.
func inNamespaces(paths map[int]string, kinds int, do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread is of no further use
		for kind, path := range paths {
			if kinds&kind == 0 {
				continue
			}
			ns, err := os.Open(path)
			if err == nil {
				err = unix.Setns(int(ns.Fd()), kind)
				ns.Close()
			}
			if err != nil {
				result <- fmt.Errorf("enter %s: %w", path, err)
				return
			}
		}
		result <- do()
	}()
	return <-result
}
