package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/cgroups"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/machine"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/netns"
)

// Leftovers lists what exists of the cluster on the host: processes, control groups,
// mounts, network namespaces and its folder. After Stop there is nothing. It looks at
// the host, not at what the cluster remembers.
func (c *Cluster) Leftovers() ([]string, error) {
	var left []string
	group, err := cgroups.New(c.paths.cgroup())
	if err != nil {
		return nil, err
	}
	pids, err := group.Processes()
	if err != nil {
		return nil, err
	}
	initial, err := machine.All(c.config.Name, c.paths.root())
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	for _, pid := range append(pids, initial...) {
		if !seen[pid] {
			seen[pid] = true
			left = append(left, fmt.Sprintf("process %d", pid))
		}
	}
	dirs, err := group.Dirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		left = append(left, "cgroup "+dir)
	}
	mounts, err := mountsBelow(c.paths.root())
	if err != nil {
		return nil, err
	}
	for _, mount := range mounts {
		left = append(left, "mount "+mount)
	}
	if _, err := os.Stat(c.paths.root()); err == nil {
		left = append(left, "folder "+c.paths.root())
	}
	return left, nil
}

// destroy removes everything of the cluster, whatever state it is in, except logs. It
// relies on names, not on remembered state, which an interrupted start may not have
// written.
func (c *Cluster) destroy(ctx context.Context) error {
	group, err := cgroups.New(c.paths.cgroup())
	if err != nil {
		return err
	}
	// First processes that are not in their cgroup yet: they would make new things.
	initial, err := machine.All(c.config.Name, c.paths.root())
	if err != nil {
		return err
	}
	for _, pid := range initial {
		if err := machine.KillInitial(pid, c.config.Name, c.paths.root()); err != nil {
			return err
		}
	}
	if err := group.Destroy(ctx); err != nil {
		return err
	}
	mounts, err := mountsBelow(c.paths.root())
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		if filepath.Dir(mount) == c.paths.netnsDir() {
			err = netns.Remove(mount)
		} else {
			err = unix.Unmount(mount, unix.MNT_DETACH)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", mount, err)
		}
	}
	return errors.Join(c.keepLogs(), removeAll(c.paths.root()))
}

// keepLogs moves the cluster's logs to where they survive it, in place of the last ones.
func (c *Cluster) keepLogs() error {
	if _, err := os.Stat(c.paths.logs()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(c.paths.pastLogs()); err != nil {
		return fmt.Errorf("keep logs: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.paths.pastLogs()), 0o755); err != nil {
		return fmt.Errorf("keep logs: %w", err)
	}
	if err := os.Rename(c.paths.logs(), c.paths.pastLogs()); err != nil {
		return fmt.Errorf("keep logs: %w", err)
	}
	return nil
}

func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove cluster's folder: %w", err)
	}
	return nil
}

// mountsBelow lists the mount points in a folder, the innermost first.
func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		// Space, tab, newline and backslash are written in octal.
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			found = append([]string{point}, found...)
		}
	}
	return found, nil
}
