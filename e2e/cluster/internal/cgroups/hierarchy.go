// Package cgroups gives each machine of a local cluster its own control groups,
// on cgroup v1, v2 and the hybrid of both, and takes them away again.
package cgroups

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Hierarchy is one mounted cgroup tree.
type Hierarchy struct {
	// Mount is where the tree is mounted, as "/sys/fs/cgroup/memory".
	Mount string
	// Options are the mount options that select the tree again in another mount
	// namespace, as "cpu,cpuacct" or "none,name=systemd". Empty for version 2.
	Options string
	// V2 tells that the tree is of cgroup version 2.
	V2 bool
}

// Hierarchies lists the cgroup trees mounted in the calling process's mount namespace.
func Hierarchies() ([]Hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	defer f.Close()
	found, err := parseMountinfo(f)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return found, nil
}

// parseMountinfo picks the cgroup mounts out of a mountinfo file, each tree once.
func parseMountinfo(r io.Reader) ([]Hierarchy, error) {
	var found []Hierarchy
	seen := map[string]bool{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		if !ok {
			continue
		}
		mount, source := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(source) < 3 {
			continue
		}
		device, point, kind := mount[2], mount[4], source[0]
		if kind != "cgroup" && kind != "cgroup2" || seen[device] || !strings.HasPrefix(point, "/sys/fs/cgroup") {
			continue
		}
		seen[device] = true
		h := Hierarchy{Mount: point, V2: kind == "cgroup2"}
		if !h.V2 {
			h.Options = selectors(source[2])
		}
		found = append(found, h)
	}
	return found, lines.Err()
}

// selectors keeps those of a version 1 tree's super block options that say which tree
// it is; the others ("rw", "xattr", "release_agent=…") belong to one mount of it.
func selectors(options string) string {
	var keep []string
	named := false
	for option := range strings.SplitSeq(options, ",") {
		key, _, valued := strings.Cut(option, "=")
		switch {
		case key == "name":
			named = true
			keep = append(keep, option)
		case valued, slices.Contains([]string{"rw", "ro", "xattr", "clone_children", "cpuset_v2_mode", "noprefix", "favordynmods"}, key):
		default:
			keep = append(keep, option)
		}
	}
	if named && len(keep) == 1 {
		keep = append([]string{"none"}, keep...)
	}
	return strings.Join(keep, ",")
}

// Target is where the tree belongs under a cgroup root such as "/sys/fs/cgroup".
func (h Hierarchy) Target(root string) string {
	below := strings.TrimPrefix(h.Mount, "/sys/fs/cgroup")
	return filepath.Join(root, below)
}
