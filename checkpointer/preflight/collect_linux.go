package preflight

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
)

// Where a node shows its processes and cgroups.
const (
	procRoot   = "/proc"
	cgroupRoot = "/sys/fs/cgroup"
)

// Target is a running container to look at. All paths are the node's.
type Target struct {
	// Name is the container's name in its pod.
	Name string
	// Pid is its first process, in the node's process namespace.
	Pid int
	// BundleDir is its OCI bundle, and RuncStateDir the folder with runc's
	// state.json of it.
	BundleDir, RuncStateDir string
}

// runcState is the part of runc's state.json that is needed here.
type runcState struct {
	CgroupPaths map[string]string `json:"cgroup_paths"`
	Config      struct {
		Rootfs string `json:"rootfs"`
		Mounts []struct {
			Destination string `json:"destination"`
		} `json:"mounts"`
		MaskPaths     []string `json:"mask_paths"`
		ReadonlyPaths []string `json:"readonly_paths"`
		Namespaces    []struct {
			Kind string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
	} `json:"config"`
}

// ociConfig is the part of a bundle's config.json that is needed here.
type ociConfig struct {
	Process struct {
		Terminal bool `json:"terminal"`
	} `json:"process"`
}

// Look looks at the containers of one pod and judges them. It stops nothing. It
// must run where the node's files and processes are seen.
func Look(targets []Target) (Report, error) {
	pod, err := Collect(targets)
	if err != nil {
		return Report{}, err
	}
	return Judge(pod), nil
}

// Collect reads what Judge needs to know. A process that ends meanwhile is left
// out; what cannot be read otherwise is named in Pod.Unseen. An error means that
// a container as a whole could not be looked at.
func Collect(targets []Target) (Pod, error) {
	pod := Pod{LimitsReadable: readsLimits()}
	locks, err := os.ReadFile(filepath.Join(procRoot, "locks"))
	if err != nil {
		pod.Unseen = append(pod.Unseen, fmt.Sprintf("file locks: %v", err))
	}
	tables := map[string]map[uint64]Socket{}
	for _, target := range targets {
		c, unseen, err := collect(target, tables)
		if err != nil {
			return Pod{}, fmt.Errorf("look at container %s: %w", target.Name, err)
		}
		inside := map[int]bool{}
		for _, p := range c.Processes {
			inside[p.NodePid] = true
		}
		for _, lock := range parseLocks(string(locks)) {
			if inside[lock.NodePid] {
				c.Locks = append(c.Locks, lock)
			}
		}
		pod.Containers = append(pod.Containers, c)
		for _, u := range unseen {
			pod.Unseen = append(pod.Unseen, fmt.Sprintf("container %s: %s", target.Name, u))
		}
	}
	return pod, nil
}

// collect looks at one container. tables has the sockets of network namespaces
// that were read already.
func collect(target Target, tables map[string]map[uint64]Socket) (Container, []string, error) {
	var state runcState
	var config ociConfig
	if err := readJSON(filepath.Join(target.RuncStateDir, "state.json"), &state); err != nil {
		return Container{}, nil, fmt.Errorf("read runc's state: %w", err)
	}
	if err := readJSON(filepath.Join(target.BundleDir, "config.json"), &config); err != nil {
		return Container{}, nil, fmt.Errorf("read its configuration: %w", err)
	}
	c := Container{Name: target.Name, Terminal: config.Process.Terminal, Namespaces: map[string]string{}}
	for _, ns := range state.Config.Namespaces {
		c.Namespaces[ns.Kind] = ns.Path
	}
	for _, m := range state.Config.Mounts {
		c.Declared = append(c.Declared, path.Clean("/"+strings.TrimPrefix(m.Destination, state.Config.Rootfs)))
	}
	c.Declared = append(append(c.Declared, state.Config.MaskPaths...), state.Config.ReadonlyPaths...)

	mounts, err := os.ReadFile(procFile(target.Pid, "mountinfo"))
	if err != nil {
		return Container{}, nil, fmt.Errorf("read its mounts: %w", err)
	}
	c.Mounts = parseMountinfo(string(mounts))
	pids, err := processes(state.CgroupPaths)
	if err != nil {
		return Container{}, nil, err
	}
	var unseen []string
	for _, pid := range pids {
		p, err := readProcess(pid)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH):
			continue // it has ended
		case err != nil:
			unseen = append(unseen, fmt.Sprintf("process %d: %v", pid, err))
		}
		if pid == target.Pid {
			c.Init = p.Pid
		}
		c.Processes = append(c.Processes, p)
	}
	c.knowWatches(procFile(target.Pid, "root"))
	namespace, err := os.Readlink(procFile(target.Pid, "ns/net"))
	if err == nil && tables[namespace] == nil {
		tables[namespace], err = readSockets(target.Pid)
	}
	if err != nil {
		unseen = append(unseen, fmt.Sprintf("sockets: %v", err))
	}
	c.Sockets = tables[namespace]
	return c, unseen, nil
}

func readJSON(file string, into any) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

func procFile(pid int, name string) string {
	return filepath.Join(procRoot, strconv.Itoa(pid), name)
}

// processes lists the processes in a container's cgroup, as runc has noted it.
func processes(paths map[string]string) ([]int, error) {
	folder, root := paths["freezer"], filepath.Join(cgroupRoot, "freezer")
	if folder == "" {
		folder, root = paths[""], cgroupRoot
	}
	relative, err := filepath.Rel(root, folder)
	if folder == "" || err != nil || !filepath.IsLocal(relative) {
		return nil, fmt.Errorf("runc's state names no cgroup of the container: %q", folder)
	}
	group, err := cgroup.ForPath(cgroupRoot, "/"+relative)
	if err != nil {
		return nil, err
	}
	return group.Procs()
}

// readsLimits is whether CRIU, which is started with this process's
// capabilities, may read the limits of processes of other users.
func readsLimits() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return true // nothing is known, so nothing is said
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
