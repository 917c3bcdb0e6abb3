package preflight

import (
	"slices"
	"strings"
)

// GhostLimit is how much space a file that is deleted but open may take: its
// content goes into the images while the pod is paused.
const GhostLimit = 512 << 20

// largeShared is from how much shared memory on a finding is worth it.
const largeShared = 64 << 20

// Judge says what is in the way of a checkpoint of the pod. It is pure.
func Judge(pod Pod) Report {
	g := &gatherer{}
	for _, c := range pod.Containers {
		g.container(c)
		reader := reader(c.Processes)
		c.Processes = g.tree(c)
		for _, p := range c.Processes {
			if !pod.LimitsReadable && !reader.reads(p) {
				g.addProcess(c.Name, UnreadableLimits, p, "runs as user %d beside processes of other users, and CRIU may not read the limits of all of them on this node", p.Users[0])
			}
			g.process(c, p)
			g.descriptors(c, p)
			g.mappings(c, p)
		}
		g.locks(c)
	}
	g.segments(pod)
	report := g.report()
	report.Unseen = pod.Unseen
	return report
}

// container judges how a container was started.
func (g *gatherer) container(c Container) {
	if c.Terminal {
		g.add(c.Name, Terminal, "the container has a terminal")
	}
	if path, own := c.Namespaces["NEWPID"]; !own {
		g.add(c.Name, HostProcesses, "the container uses the node's process namespace")
	} else if path != "" {
		g.add(c.Name, SharedProcesses, "the container shares its process namespace")
	}
	if _, own := c.Namespaces["NEWNET"]; !own {
		g.add(c.Name, HostNetwork, "the container uses the node's network")
	}
	if _, own := c.Namespaces["NEWUSER"]; own {
		g.add(c.Name, UserNamespace, "the container has a user namespace")
	}
	if _, own := c.Namespaces["NEWIPC"]; !own {
		g.add(c.Name, HostIPC, "the container uses the node's shared memory")
	}
	for _, m := range c.Mounts {
		switch {
		case m.Point == "/" && m.Kind != "overlay":
			g.add(c.Name, RootFilesystem, "the root file system is %s, so its changes cannot be told from the image", m.Kind)
		case m.Point != "/" && !c.declares(m.Point) && !slices.Contains(dumpableMounts, m.Kind):
			g.add(c.Name, ForeignMount, "a program has mounted a file system of type %s on %s", m.Kind, m.Point)
		}
	}
}

// declares is whether a mount lies at or below one of the runtime's.
func (c Container) declares(point string) bool {
	return slices.ContainsFunc(c.Declared, func(declared string) bool { return below(point, declared) })
}

func below(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

// process judges a process as a whole.
func (g *gatherer) process(c Container, p Process) {
	if p.Tracer != 0 {
		g.addProcess(c.Name, Traced, p, "is being traced")
	}
	if p.State == "T" {
		g.addProcess(c.Name, StoppedProcess, p, "is stopped, as by SIGSTOP")
	}
	if p.Hugetlb > 0 {
		g.addProcess(c.Name, HugePages, p, "has %s in huge pages", size(p.Hugetlb))
	}
	if p.Shared >= largeShared {
		g.addProcess(c.Name, SharedMemory, p, "has %s of shared memory", size(p.Shared))
	}
	first, found := c.process(c.Init)
	if !found {
		return
	}
	for _, kind := range nestable {
		if own, has := p.Namespaces[kind]; has && own != first.Namespaces[strings.TrimSuffix(kind, "_for_children")] {
			g.addProcess(c.Name, NestedNamespace, p, "has a %s namespace of its own", namespaceNames[strings.TrimSuffix(kind, "_for_children")])
		}
	}
}

// account is a user and a group.
type account struct{ user, group uint32 }

// reader is who reads the limits of processes where CRIU lacks the capability for
// it: the user whose they all are; root, when they are of several.
func reader(processes []Process) account {
	var all account
	for i, p := range processes {
		one := account{p.Users[0], p.Groups[0]}
		if i > 0 && one != all {
			return account{}
		}
		all = one
	}
	return all
}

// reads is whether the kernel shows the limits of a process to the account: all
// of the process's own, its real, effective and saved one, must be the same.
func (a account) reads(p Process) bool {
	for i := range 3 {
		if p.Users[i] != a.user || p.Groups[i] != a.group {
			return false
		}
	}
	return true
}

// tree are the container's first process and those that descend from it, which
// is what CRIU dumps. The others run on when it does.
func (g *gatherer) tree(c Container) []Process {
	var tree []Process
	for _, p := range c.Processes {
		if c.descends(p) {
			tree = append(tree, p)
		} else {
			g.addProcess(c.Name, ForeignProcess, p, "was started in the container from outside, as kubectl exec does")
		}
	}
	return tree
}

// descends is whether the process is the container's first one or descends from it.
func (c Container) descends(p Process) bool {
	for range c.Processes {
		if p.Pid == c.Init {
			return true
		}
		parent := slices.IndexFunc(c.Processes, func(other Process) bool { return other.NodePid == p.ParentPid })
		if parent < 0 {
			return false
		}
		p = c.Processes[parent]
	}
	return false
}

func (c Container) process(pid int) (Process, bool) {
	i := slices.IndexFunc(c.Processes, func(p Process) bool { return p.Pid == pid })
	if i < 0 {
		return Process{}, false
	}
	return c.Processes[i], true
}

// mappings judges what a process has mapped into its memory.
func (g *gatherer) mappings(c Container, p Process) {
	for _, m := range p.Mappings {
		switch {
		case strings.HasPrefix(m.Path, "anon_inode:"):
			g.anonymous(c, p, m.Path)
		case strings.HasPrefix(m.Path, "/secretmem"):
			g.addProcess(c.Name, SecretMemory, p, "has secret memory (memfd_secret)")
		case strings.HasPrefix(m.Path, "/dev/") && !harmlessMapping(m.Path):
			g.addProcess(c.Name, Device, p, "has mapped the device %s", m.Path)
		case m.DeletedBytes > GhostLimit:
			g.addProcess(c.Name, DeletedFile, p, "has mapped the deleted file %s, which takes %s", withoutMark(m.Path), size(m.DeletedBytes))
		}
	}
}

// harmlessMapping is whether a mapping below /dev is memory and no device.
func harmlessMapping(path string) bool {
	return strings.HasPrefix(path, "/dev/shm/") || strings.HasPrefix(path, "/dev/zero") || strings.HasPrefix(path, "/dev/hugepages") || path == "/dev/null"
}

// locks judges a container's file locks.
func (g *gatherer) locks(c Container) {
	for _, lock := range c.Locks {
		i := slices.IndexFunc(c.Mounts, func(m Mount) bool { return m.Device == lock.Device && remote(m.Kind) })
		j := slices.IndexFunc(c.Processes, func(p Process) bool { return p.NodePid == lock.NodePid })
		if i >= 0 && j >= 0 {
			g.addProcess(c.Name, NetworkLock, c.Processes[j], "has locked a file on %s (%s)", c.Mounts[i].Point, c.Mounts[i].Kind)
		}
	}
}

// segments finds System V segments that several containers have attached.
func (g *gatherer) segments(pod Pod) {
	owner := map[uint64]string{}
	for _, c := range pod.Containers {
		for _, p := range c.Processes {
			for _, m := range p.Mappings {
				if !strings.HasPrefix(m.Path, "/SYSV") {
					continue
				}
				// The inode of a segment's mapping is the segment's number.
				if other, known := owner[m.Inode]; known && other != c.Name {
					g.addProcess(c.Name, SharedSegment, p, "shares System V segment %d with container %s", m.Inode, other)
				}
				owner[m.Inode] = c.Name
			}
		}
	}
}

// remote is whether files of a file system are served by another process or machine.
func remote(kind string) bool {
	return strings.HasPrefix(kind, "fuse") && kind != "fusectl" || slices.Contains(networkMounts, kind)
}

func withoutMark(path string) string { return strings.TrimSuffix(path, " (deleted)") }
