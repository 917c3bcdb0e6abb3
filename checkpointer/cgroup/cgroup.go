// Package cgroup stops, resumes and kills the processes of a container through
// its control group: the freezer hierarchy of cgroup v1, or cgroup v2.
//
// The kernel does the stopping, so that a process can neither notice nor escape
// it, and a process that is forked meanwhile is stopped too.
package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Group is one control group. The zero value is not usable; get one from
// ForProcess or ForPath. A Group is a name: it may exist or not.
type Group struct {
	root string // where the hierarchy is mounted
	path string // the group below root, as "/kubepods/pod1/c1"
	v2   bool
}

// String is the group's folder.
func (g Group) String() string { return g.dir() }

// Path is the group's path below the root of its hierarchy, as "/kubepods/pod1".
func (g Group) Path() string { return g.path }

// Dir is the group's folder. For cgroup v1 it is the one of the freezer.
func (g Group) Dir() string { return g.dir() }

func (g Group) dir() string             { return filepath.Join(g.root, g.path) }
func (g Group) file(name string) string { return filepath.Join(g.root, g.path, name) }

// IsV2 is whether the group is one of cgroup v2.
func (g Group) IsV2() bool { return g.v2 }

// ForProcess returns the group of a process that can be frozen. procRoot is
// where /proc is, and cgroupRoot where the cgroup file systems are mounted,
// commonly /sys/fs/cgroup of the node. The process's own cgroup paths are read
// as this process's cgroup namespace shows them.
func ForProcess(procRoot, cgroupRoot string, pid int) (Group, error) {
	root, v2, err := hierarchy(cgroupRoot)
	if err != nil {
		return Group{}, err
	}
	file, err := os.Open(filepath.Join(procRoot, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return Group{}, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if p, found := pathInLine(lines.Text(), v2); found {
			return Group{root: root, path: path.Clean("/" + p), v2: v2}, nil
		}
	}
	if err := lines.Err(); err != nil {
		return Group{}, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	return Group{}, fmt.Errorf("find the cgroup of process %d: it is in no freezer hierarchy", pid)
}

// pathInLine reads one line of /proc/PID/cgroup, as "6:freezer:/a/b" (cgroup v1)
// or "0::/a/b" (cgroup v2). It returns false for a line of another hierarchy.
func pathInLine(line string, v2 bool) (string, bool) {
	parts := strings.SplitN(line, ":", 3)
	if len(parts) != 3 {
		return "", false
	}
	if v2 {
		if parts[0] == "0" && parts[1] == "" {
			return parts[2], true
		}
		return "", false
	}
	for controller := range strings.SplitSeq(parts[1], ",") {
		if controller == "freezer" {
			return parts[2], true
		}
	}
	return "", false
}

// ForPath returns the group that an OCI configuration's linux.cgroupsPath
// names: a path, as "/kubepods/besteffort/pod<uid>/<id>", or systemd's form, as
// "kubepods-besteffort-pod<uid>.slice:cri-containerd:<id>".
func ForPath(cgroupRoot, cgroupsPath string) (Group, error) {
	root, v2, err := hierarchy(cgroupRoot)
	if err != nil {
		return Group{}, err
	}
	if cgroupsPath == "" {
		return Group{}, errors.New("a container without a cgroupsPath has no known cgroup")
	}
	if parts := strings.Split(cgroupsPath, ":"); len(parts) == 3 && !strings.HasPrefix(cgroupsPath, "/") {
		slice, err := expandSlice(parts[0])
		if err != nil {
			return Group{}, fmt.Errorf("cgroupsPath %q: %w", cgroupsPath, err)
		}
		unit := parts[2]
		if !strings.HasSuffix(unit, ".slice") {
			unit += ".scope"
			if parts[1] != "" {
				unit = parts[1] + "-" + unit
			}
		}
		return Group{root: root, path: path.Join("/", slice, unit), v2: v2}, nil
	}
	return Group{root: root, path: path.Clean("/" + cgroupsPath), v2: v2}, nil
}

// expandSlice turns the name of a systemd slice into its path: a dash separates
// a slice from its parent, so that "a-b.slice" lies in "a.slice/a-b.slice".
func expandSlice(slice string) (string, error) {
	if slice == "" {
		return "system.slice", nil
	}
	if slice == "-.slice" {
		return "", nil
	}
	name, isSlice := strings.CutSuffix(slice, ".slice")
	if !isSlice || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is no name of a systemd slice", slice)
	}
	var expanded, prefix string
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("%q is no name of a systemd slice", slice)
		}
		expanded = path.Join(expanded, prefix+part+".slice")
		prefix += part + "-"
	}
	return expanded, nil
}

// hierarchy finds the mount that freezes: cgroupRoot itself where it is cgroup
// v2, else its folder "freezer".
func hierarchy(cgroupRoot string) (root string, v2 bool, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &stat); err != nil {
		return "", false, fmt.Errorf("look at %s: %w", cgroupRoot, err)
	}
	if stat.Type == unix.CGROUP2_SUPER_MAGIC {
		return cgroupRoot, true, nil
	}
	freezer := filepath.Join(cgroupRoot, "freezer")
	if err := unix.Statfs(freezer, &stat); err != nil {
		return "", false, fmt.Errorf("look for the cgroup freezer at %s: %w", freezer, err)
	}
	if stat.Type != unix.CGROUP_SUPER_MAGIC {
		return "", false, fmt.Errorf("look for the cgroup freezer: no cgroup file system is mounted at %s", freezer)
	}
	return freezer, false, nil
}

// Parent is the group that contains g. The root is its own parent.
func (g Group) Parent() Group {
	g.path = path.Dir(g.path)
	return g
}

// IsRoot is whether g is the root of its hierarchy, which cannot be frozen.
func (g Group) IsRoot() bool { return g.path == "/" }

// Exists is whether the group is there now.
func (g Group) Exists() bool {
	info, err := os.Stat(g.dir())
	return err == nil && info.IsDir()
}

// Procs returns the processes in the group and in all groups below it, as this
// process's pid namespace numbers them. A process that it does not see is 0.
func (g Group) Procs() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.dir(), func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return skipVanished(err)
		}
		content, err := os.ReadFile(filepath.Join(name, "cgroup.procs"))
		if err != nil {
			return skipVanished(err)
		}
		for field := range strings.FieldsSeq(string(content)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("%q is no process", field)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the processes of %s: %w", g, err)
	}
	return pids, nil
}

// skipVanished drops the errors of reading a group that was removed meanwhile.
func skipVanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// wait asks done again and again, quickly at first, until it is true, it fails
// or ctx ends. The kernel offers no event for the freezer of cgroup v1.
func wait(ctx context.Context, done func() (bool, error)) error {
	const longest = 5 * time.Millisecond
	for delay := 20 * time.Microsecond; ; delay = min(2*delay, longest) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}
