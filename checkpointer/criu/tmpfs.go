package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
)

// TmpfsMount is a file system in memory that a container has to itself, as /dev
// is. CRIU would start tar and gzip for each one with the tasks stopped; so they
// are left out of its images, copied by us, and made again for the restore.
type TmpfsMount struct {
	// Point is where the container has it.
	Point string `json:"point"`
	// Options are those of the file system, for mount.
	Options string `json:"options"`
	// Empty is whether there is nothing in it, and cannot be: container runtimes
	// hide folders of /proc and /sys below such mounts.
	Empty bool `json:"empty,omitempty"`
}

const (
	// TmpfsDir has one tar file for each of a container's file systems in memory,
	// named after its place in ContainerInfo.Tmpfs.
	TmpfsDir = "tmpfs"
	// maskFolder is an empty folder of the node.
	maskFolder = client.Folder + "/empty"
)

// tmpfsOptions are the options of a tmpfs that tell how it is made.
var tmpfsOptions = []string{"size", "nr_inodes", "mode", "uid", "gid", "huge"}

// findTmpfs lists the file systems in memory that only the container has, and
// takes them from CRIU.
func (c *container) findTmpfs(mounts []mountPoint) error {
	for _, m := range mounts {
		_, external := c.external[m.point]
		covered := func(other mountPoint) bool { return other.id != m.id && other.point == m.point }
		if m.kind != "tmpfs" || external || slices.ContainsFunc(mounts, covered) {
			continue
		}
		t := TmpfsMount{Point: m.point}
		if m.readOnly && strings.HasSuffix(maskFolder, m.root) && m.root != "/" {
			t.Empty = true // the container was restored, with our folder as its mask
		} else if m.root != "/" {
			continue // a part of another one
		}
		var options []string
		for _, option := range m.options {
			key, _, _ := strings.Cut(option, "=")
			if slices.Contains(tmpfsOptions, key) {
				options = append(options, option)
			}
		}
		t.Options = strings.Join(options, ",")
		if m.readOnly && !t.Empty {
			inside, err := os.ReadDir(c.proc("root" + m.point))
			if err != nil {
				return fmt.Errorf("look at the file system at %s: %w", m.point, err)
			}
			t.Empty = len(inside) == 0
		}
		c.external[m.point] = m.point
		c.tmpfs = append(c.tmpfs, t)
	}
	return nil
}

// tmpfsTrees are the container's file systems in memory that have something.
func (d *dumper) tmpfsTrees() []tree {
	var list []tree
	for i, t := range d.tmpfs {
		if !t.Empty {
			folder := d.proc("root" + t.Point)
			file := filepath.Join(d.dir, TmpfsDir, strconv.Itoa(i)+".tar")
			list = append(list, tree{file: file, folder: folder, merged: folder, kind: oneFileSystem, what: fmt.Sprintf("container %s: file system at %s", d.name(), t.Point)})
		}
	}
	return list
}

// restoreConfig are CRIU's options for a restore by runc that runc has no flags
// for, or sets otherwise; a configuration file wins over what runc asks for. The
// cgroup mode is an optional argument, which needs the equals sign: with a
// space CRIU takes the option and drops its value.
const restoreConfig = `%s
skip-in-flight
network-lock skip
manage-cgroups=ignore
link-remap
ext-unix-sk
file-locks
ghost-limit %d
`

// What a restore makes of connections that were established.
const (
	closeConnections = "tcp-close"
	keepConnections  = "tcp-established"
)

// PrepareRestore makes what runc needs, beside the images, to restore a container
// of the checkpoint in dir: its file systems in memory, and a configuration file
// of CRIU, which it writes to config. Without that the restore fails. After the
// restore, however it ended, CleanRestore has to be called. Established connections are
// restored as such only where connections is set: the checkpoint must have them, and the
// container's network their addresses.
func (e *Engine) PrepareRestore(ctx context.Context, dir, container, config string, connections bool) error {
	return e.host.Run(func() error {
		if err := prepareRestore(ctx, dir, container, config, connections); err != nil {
			return fmt.Errorf("prepare the restore of container %s: %w", container, errors.Join(err, cleanRestore(dir, container)))
		}
		return nil
	})
}

func prepareRestore(ctx context.Context, dir, container, config string, connections bool) error {
	var info ContainerInfo
	raw, err := os.ReadFile(filepath.Join(dir, container, ContainerFile))
	if err == nil {
		err = json.Unmarshal(raw, &info)
	}
	if err != nil {
		return fmt.Errorf("read its description: %w", err)
	}
	established := closeConnections
	if connections {
		established = keepConnections
	}
	text := fmt.Appendf(nil, restoreConfig, established, preflight.GhostLimit)
	if err := os.MkdirAll(maskFolder, 0o555); err != nil {
		return err
	}
	for i, t := range info.Tmpfs {
		if strings.ContainsAny(t.Point, "\n\\") {
			return fmt.Errorf("CRIU's configuration cannot name the file system at %q", t.Point)
		}
		source := maskFolder
		if !t.Empty {
			if source, err = remakeTmpfs(ctx, dir, container, i, t); err != nil {
				return fmt.Errorf("make the file system at %s: %w", t.Point, err)
			}
		}
		text = fmt.Appendf(text, "external mnt[%s]:%s\n", t.Point, source)
	}
	return os.WriteFile(config, text, 0o600)
}

// mountedDir has the file systems that are made for a restore.
const mountedDir = "mounted"

func remakeTmpfs(ctx context.Context, dir, container string, i int, t TmpfsMount) (string, error) {
	point := filepath.Join(dir, container, mountedDir, strconv.Itoa(i))
	if err := os.MkdirAll(point, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", point, "tmpfs", unix.MS_NOSUID, t.Options); err != nil {
		return "", fmt.Errorf("mount it with the options %q: %w", t.Options, err)
	}
	if err := unix.Mount("", point, "", unix.MS_PRIVATE, ""); err != nil {
		return "", err
	}
	return point, applyTree(ctx, filepath.Join(dir, container, TmpfsDir, strconv.Itoa(i)+".tar"), point, false)
}

// CleanRestore lets go of the file systems that PrepareRestore has made: a
// restored container has its own hold on them.
func (e *Engine) CleanRestore(dir, container string) error {
	return e.host.Run(func() error { return cleanRestore(dir, container) })
}

func cleanRestore(dir, container string) error {
	folder := filepath.Join(dir, container, mountedDir)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		point := filepath.Join(folder, entry.Name())
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}
