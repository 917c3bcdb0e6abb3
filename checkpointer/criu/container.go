package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
)

// cgroupRoot is where a node has its cgroup file systems.
const cgroupRoot = "/sys/fs/cgroup"

// runcState is the part of runc's state.json that says how to dump a container
// so that runc can restore it.
type runcState struct {
	InitPid     int               `json:"init_process_pid"`
	CgroupPaths map[string]string `json:"cgroup_paths"`
	Descriptors []string          `json:"external_descriptors"`
	Config      struct {
		Rootfs     string          `json:"rootfs"`
		Mounts     []runcMount     `json:"mounts"`
		MaskPaths  []string        `json:"mask_paths"`
		Namespaces []runcNamespace `json:"namespaces"`
		Devices    []struct {
			Path string `json:"path"`
		} `json:"devices"`
	} `json:"config"`
}

type runcMount struct {
	Destination string `json:"destination"`
	Kind        string `json:"device"`
}

type runcNamespace struct {
	Kind string `json:"type"`
	Path string `json:"path"`
}

// ociConfig is the part of a bundle's config.json that is needed here.
type ociConfig struct {
	Mounts []struct {
		Destination string `json:"destination"`
		Source      string `json:"source"`
	} `json:"mounts"`
	Annotations map[string]string `json:"annotations"`
}

// container is all that is known of one container before its dump.
type container struct {
	target Target
	state  runcState
	config ociConfig
	group  cgroup.Group
	// external are CRIU's external mounts: a path in the container, and the key
	// under which runc provides it at the restore.
	external map[string]string
	// netNS is the inode of the pod's network namespace.
	netNS uint64
	// ipcNS names the IPC namespace.
	ipcNS string
	// tmpfs are its file systems in memory that CRIU is kept from.
	tmpfs []TmpfsMount
	// upper is the folder with the file changes, merged the whole root file system.
	upper, merged string
}

// inspect reads what must be known of a container to dump it. It must run within
// Host.Run.
func inspect(target Target) (*container, error) {
	c := &container{target: target}
	if err := readJSON(filepath.Join(target.RuncStateDir, "state.json"), &c.state); err != nil {
		return nil, fmt.Errorf("read runc's state of the container: %w", err)
	}
	if err := readJSON(filepath.Join(target.BundleDir, "config.json"), &c.config); err != nil {
		return nil, fmt.Errorf("read the container's configuration: %w", err)
	}
	if c.state.InitPid != target.Pid {
		return nil, fmt.Errorf("the container's first process is %d, not %d: it was started anew", c.state.InitPid, target.Pid)
	}
	return c, errors.Join(c.findGroup(), c.findNamespaces(), c.findExternalMounts(), c.findRootfs())
}

func readJSON(file string, into any) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

func (c *container) namespace(kind string) (runcNamespace, bool) {
	i := slices.IndexFunc(c.state.Config.Namespaces, func(ns runcNamespace) bool { return ns.Kind == kind })
	if i < 0 {
		return runcNamespace{}, false
	}
	return c.state.Config.Namespaces[i], true
}

// findGroup finds the container's own cgroup.
func (c *container) findGroup() (err error) {
	c.group, err = c.state.group()
	return err
}

// group is a container's own cgroup, as runc has noted it.
func (s runcState) group() (cgroup.Group, error) {
	folder := s.CgroupPaths["freezer"]
	root := filepath.Join(cgroupRoot, "freezer")
	if folder == "" {
		folder, root = s.CgroupPaths[""], cgroupRoot
	}
	relative, err := filepath.Rel(root, folder)
	if folder == "" || err != nil || !filepath.IsLocal(relative) {
		return cgroup.Group{}, fmt.Errorf("runc's state names no cgroup that can be frozen: %q", folder)
	}
	return cgroup.ForPath(cgroupRoot, "/"+relative)
}

func (c *container) findNamespaces() error {
	ns, _ := c.namespace("NEWNET")
	if ns.Path != "" {
		var stat unix.Stat_t
		if err := unix.Stat(ns.Path, &stat); err != nil {
			return fmt.Errorf("look at the pod's network namespace %s: %w", ns.Path, err)
		}
		c.netNS = stat.Ino
	}
	var err error
	c.ipcNS, err = os.Readlink(c.proc("ns/ipc"))
	return err
}

func (c *container) proc(file string) string {
	return fmt.Sprintf("/proc/%d/%s", c.target.Pid, file)
}

// findExternalMounts lists the mounts that runc provides at the restore, under
// the keys that it uses: everything that comes from outside of the container.
func (c *container) findExternalMounts() error {
	c.external = map[string]string{}
	mounts, err := c.mountinfo()
	if err != nil {
		return err
	}
	for _, m := range c.state.Config.Mounts {
		destination := resolveIn(c.state.Config.Rootfs, m.Destination)
		switch m.Kind {
		case "bind":
			c.external[destination] = destination
		case "cgroup":
			// cgroup v1 is one bind mount for each hierarchy.
			for _, sub := range mounts {
				if sub.kind == "cgroup" && path.Dir(sub.point) == destination {
					c.external[sub.point] = sub.point
				}
			}
		}
	}
	for _, masked := range c.state.Config.MaskPaths {
		info, err := os.Stat(c.proc("root" + masked))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("look at the masked path %s: %w", masked, err)
		case !info.IsDir():
			c.external[masked] = "/dev/null"
		}
	}
	for _, device := range c.state.Config.Devices {
		c.external[device.Path] = device.Path
	}
	return c.findTmpfs(mounts)
}

// resolveIn follows the links in a path of a container, within its root file
// system. What does not exist is taken as it is written.
func resolveIn(rootfs, name string) string {
	name = path.Clean("/" + strings.TrimPrefix(name, rootfs))
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return name
	}
	defer unix.Close(root)
	dir, rest := name, ""
	for dir != "/" {
		fd, err := unix.Openat2(root, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		if err == nil {
			real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			unix.Close(fd)
			realRoot, rootErr := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", root))
			if err != nil || rootErr != nil {
				return name
			}
			return path.Join("/", strings.TrimPrefix(real, realRoot), rest)
		}
		dir, rest = path.Dir(dir), path.Join(path.Base(dir), rest)
	}
	return name
}

// mountPoint is one line of a process's mountinfo.
type mountPoint struct {
	id, root, point, kind string
	readOnly              bool
	options               []string // of the file system
}

func (c *container) mountinfo() ([]mountPoint, error) {
	content, err := os.ReadFile(c.proc("mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read the container's mounts: %w", err)
	}
	return parseMountinfo(string(content)), nil
}

func parseMountinfo(content string) []mountPoint {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var mounts []mountPoint
	for line := range strings.Lines(content) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 6 || len(right) < 3 {
			continue
		}
		mounts = append(mounts, mountPoint{
			id: left[0], root: unescape.Replace(left[3]), point: unescape.Replace(left[4]), kind: right[0],
			readOnly: slices.Contains(strings.Split(left[5], ","), "ro"),
			options:  strings.Split(unescape.Replace(right[2]), ","),
		})
	}
	return mounts
}

// findRootfs finds where the container's file changes are.
func (c *container) findRootfs() error {
	c.merged, c.upper = c.state.Config.Rootfs, c.target.UpperDir
	if c.upper != "" {
		return nil
	}
	mounts, err := c.mountinfo()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.point != "/" {
			continue
		}
		for _, option := range m.options {
			if upper, found := strings.CutPrefix(option, "upperdir="); found && m.kind == "overlay" {
				c.upper = upper
				return nil
			}
		}
		return &NotCheckpointable{
			Container: c.target.Container.Name,
			Reason:    fmt.Sprintf("its root file system is %s, so its file changes cannot be told from its image", m.kind),
			Hint:      "use containerd's overlayfs snapshotter on the node",
		}
	}
	return errors.New("the container has no root mount")
}

// info describes the container for its restore.
func (c *container) info(hostname string) ContainerInfo {
	info := ContainerInfo{
		Name:     c.target.Container.Name,
		Image:    c.config.Annotations["io.kubernetes.cri.image-name"],
		Hostname: hostname,
		Tmpfs:    c.tmpfs,
	}
	for _, m := range c.config.Mounts {
		info.Mounts = append(info.Mounts, m.Destination)
	}
	return info
}
