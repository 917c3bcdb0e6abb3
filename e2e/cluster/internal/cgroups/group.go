package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Group is one path in every hierarchy, as "lifeboat-lab/n1".
type Group struct {
	path        string
	hierarchies []Hierarchy
}

// New names a group; nothing is made yet.
func New(path string) (Group, error) {
	if path == "" || path == "." || filepath.IsAbs(path) || path != filepath.Clean(path) || strings.HasPrefix(path, "..") {
		return Group{}, fmt.Errorf("cgroup path %q: want a clean relative path", path)
	}
	hierarchies, err := Hierarchies()
	if err != nil {
		return Group{}, err
	}
	return Group{path: path, hierarchies: hierarchies}, nil
}

// Create makes the group and its parents in every hierarchy.
func (g Group) Create() error {
	for _, h := range g.hierarchies {
		dir := h.Mount
		for part := range strings.SplitSeq(g.path, "/") {
			if h.V2 {
				if err := Delegate(dir); err != nil {
					return fmt.Errorf("create cgroup %s: %w", g.path, err)
				}
			}
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("create cgroup: %w", err)
			}
			if !h.V2 {
				if err := inheritCPUs(parent, dir); err != nil {
					return fmt.Errorf("create cgroup %s: %w", dir, err)
				}
			}
		}
	}
	return nil
}

// Delegate lets the children of the version 2 group dir use every controller that it has.
func Delegate(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	have := strings.Fields(string(enabled))
	for _, controller := range strings.Fields(string(available)) {
		if slices.Contains(have, controller) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("enable %s for children: %w", controller, err)
		}
	}
	return nil
}

// inheritCPUs fills a new version 1 cpuset: it starts empty, and an empty one takes no process.
func inheritCPUs(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(value)) != "" {
			continue
		}
		from, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), from, 0); err != nil {
			return err
		}
	}
	return nil
}

// Add moves a process, with all its threads, into the group in every hierarchy.
func (g Group) Add(pid int) error {
	for _, h := range g.hierarchies {
		file := filepath.Join(h.Mount, g.path, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("move process %d into cgroup: %w", pid, err)
		}
	}
	return nil
}

// Dirs lists what exists of the group: its folder in each hierarchy and all below, children first.
func (g Group) Dirs() ([]string, error) {
	var dirs []string
	for _, h := range g.hierarchies {
		var here []string
		err := filepath.WalkDir(filepath.Join(h.Mount, g.path), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if entry.IsDir() {
				here = append(here, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list cgroup %s: %w", g.path, err)
		}
		slices.Reverse(here)
		dirs = append(dirs, here...)
	}
	return dirs, nil
}

// Processes lists the processes in the group and below, each once.
func (g Group) Processes() ([]int, error) {
	dirs, err := g.Dirs()
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	var pids []int
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			// The folder may have gone, and a threaded group refuses the read: its parent lists the process.
			continue
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			// 0 stands for a process of a foreign pid namespace, which none of ours is.
			if err == nil && pid > 0 && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// Destroy kills every process in the group and removes it. It is content when the
// group is already gone, and goes on until ctx ends.
func (g Group) Destroy(ctx context.Context) error {
	for {
		dirs, err := g.Dirs()
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			return nil
		}
		pids, err := g.Processes()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			g.kill(pid)
		}
		var stuck error
		for _, dir := range dirs {
			thaw(dir)
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				stuck = err
			}
		}
		if stuck == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("destroy cgroup %s: %w (last: %w; processes left: %v)", g.path, ctx.Err(), stuck, pids)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Freeze stops every process of the group, or lets them go on, and returns when all do.
// A group below that was frozen by itself stays so.
func (g Group) Freeze(ctx context.Context, frozen bool) error {
	// One freezer is enough, and a process that stands still in one of them would never
	// be seen to stand still in the other.
	for _, v2 := range []bool{false, true} {
		for _, h := range g.hierarchies {
			if h.V2 != v2 {
				continue
			}
			err := h.freeze(ctx, filepath.Join(h.Mount, g.path), frozen)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("freeze cgroup %s: %w", g.path, err)
			}
			return nil
		}
	}
	return fmt.Errorf("freeze cgroup %s: no hierarchy has it and a freezer", g.path)
}

// freeze is Freeze in one hierarchy. Without a freezer there the error is fs.ErrNotExist.
func (h Hierarchy) freeze(ctx context.Context, dir string, frozen bool) error {
	file, value, shown, line := "freezer.state", "THAWED", "freezer.state", "THAWED"
	switch {
	case h.V2 && frozen:
		file, value, shown, line = "cgroup.freeze", "1", "cgroup.events", "frozen 1"
	case h.V2:
		file, value, shown, line = "cgroup.freeze", "0", "cgroup.events", "frozen 0"
	case frozen:
		value, line = "FROZEN", "FROZEN"
	}
	if err := writeExisting(filepath.Join(dir, file), value); err != nil {
		return err
	}
	return await(ctx, filepath.Join(dir, shown), line)
}

// await returns when one of a file's lines is the wanted one.
func await(ctx context.Context, path, line string) error {
	for {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if slices.Contains(strings.Split(strings.TrimSpace(string(text)), "\n"), line) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %q in %s: %w", line, path, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// kill ends one process if it still is in the group: by the time of the signal its
// number may belong to another one, which the file descriptor taken first excludes.
func (g Group) kill(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		// hierarchy:controllers:path
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && (fields[2] == "/"+g.path || strings.HasPrefix(fields[2], "/"+g.path+"/")) {
			// It may have ended meanwhile; Destroy looks again.
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			return
		}
	}
}

// thaw lets a frozen group run on, so that its processes get to die: a version 1
// freezer keeps even a killed process. A group without a freezer has no such file.
func thaw(dir string) {
	_ = writeExisting(filepath.Join(dir, "freezer.state"), "THAWED")
	_ = writeExisting(filepath.Join(dir, "cgroup.freeze"), "0")
}

func writeExisting(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
