package preflight

import (
	"slices"
	"strings"
)

// descriptors judges the open files of a process.
func (g *gatherer) descriptors(c Container, p Process) {
	connections := 0
	for _, f := range p.Files {
		switch {
		case strings.HasPrefix(f.Link, "anon_inode:"):
			g.anonymous(c, p, f.Link)
			g.watches(c, p, f)
			if f.Link == "anon_inode:[pidfd]" {
				g.handle(c, p, f)
			}
		case strings.HasPrefix(f.Link, "pidfd:"):
			g.handle(c, p, f)
		case strings.HasPrefix(f.Link, "socket:"):
			socket := c.Sockets[f.inode()]
			g.socket(c, p, f, socket)
			if socket.Connected {
				connections++
			}
		case f.isTunnel():
			if f.Interface != "" {
				g.addProcess(c.Name, Device, p, "has the network interface %s through %s", f.Interface, f.Link)
			}
		case f.Character:
			if !dumpableDevice(f.Major, f.Minor) {
				g.addProcess(c.Name, Device, p, "has the device %s open (%d:%d)", f.Link, f.Major, f.Minor)
			}
		case strings.HasPrefix(f.Link, "/secretmem"):
			g.addProcess(c.Name, SecretMemory, p, "has secret memory (memfd_secret)")
		case f.DeletedBytes > GhostLimit:
			g.addProcess(c.Name, DeletedFile, p, "has the deleted file %s open, which takes %s", withoutMark(f.Link), size(f.DeletedBytes))
		case strings.HasPrefix(f.Link, "/"):
			if c.isQueue(f) {
				g.addProcess(c.Name, MessageQueue, p, "has the POSIX message queue %s open", f.Link)
			} else if m, found := c.mountOf(f.Link); found && remote(m.Kind) {
				g.addProcess(c.Name, NetworkFiles, p, "has %s open, on a file system of type %s", f.Link, m.Kind)
			}
		}
	}
	if connections > 0 {
		g.addProcess(c.Name, OpenConnections, p, "has %d TCP connections", connections)
	}
}

// anonymous judges a descriptor that stands for no file.
func (g *gatherer) anonymous(c Container, p Process, link string) {
	name := strings.Trim(strings.TrimPrefix(link, "anon_inode:"), "[]")
	switch {
	case slices.Contains(dumpableAnonymous, name):
	case name == "io_uring":
		g.addProcess(c.Name, IOUring, p, "uses io_uring")
	case name == "userfaultfd":
		g.addProcess(c.Name, Userfaultfd, p, "uses userfaultfd")
	case name == "perf_event":
		g.addProcess(c.Name, PerfEvent, p, "has a perf event open")
	case strings.HasPrefix(name, "bpf") || name == "btf":
		g.addProcess(c.Name, BPF, p, "has an eBPF object open (%s)", name)
	case strings.HasPrefix(name, "kvm"):
		g.addProcess(c.Name, VirtualMachine, p, "runs a virtual machine")
	case name == "secretmem":
		g.addProcess(c.Name, SecretMemory, p, "has secret memory (memfd_secret)")
	default:
		g.addProcess(c.Name, UnknownDescriptor, p, "has a descriptor open of a kind that CRIU does not know (%s)", name)
	}
}

// socket judges one socket.
func (g *gatherer) socket(c Container, p Process, f File, s Socket) {
	switch name := strings.TrimSuffix(f.Protocol, "v6"); {
	case name == "MPTCP":
		g.addProcess(c.Name, MPTCP, p, "has an MPTCP socket")
	case name == "PACKET":
		g.addProcess(c.Name, PacketSocket, p, "has a packet socket")
	case name == "NETLINK":
		if s.Pending {
			g.addProcess(c.Name, PendingMessages, p, "has a netlink socket with messages that it has not read")
		}
	case strings.HasPrefix(name, "UNIX"):
		// CRIU leaves out a peer that takes datagrams, if it sees it at all.
		_, seen := c.Sockets[s.Peer]
		if s.Peer != 0 && !c.holds(s.Peer) && (s.Stream || !seen) {
			g.addProcess(c.Name, OutsideSocket, p, "has a UNIX socket that is connected to a process outside of the container")
		}
	case name != "" && !slices.Contains(dumpableSockets, strings.ToUpper(name)):
		g.addProcess(c.Name, UnsupportedSocket, p, "has a socket of a kind that CRIU does not know (%s)", name)
	}
}

// holds is whether a process of the container has the socket open.
func (c Container) holds(inode uint64) bool {
	return slices.ContainsFunc(c.Processes, func(p Process) bool {
		return slices.ContainsFunc(p.Files, func(f File) bool { return f.Protocol != "" && f.inode() == inode })
	})
}

// watches judges what an inotify or a fanotify watches. CRIU must find the path
// of each file again, and the file system of a container's image cannot tell it.
func (g *gatherer) watches(c Container, p Process, f File) {
	for _, w := range f.Watches {
		if c.onImage(w) && !w.Known {
			g.addProcess(c.Name, FileWatch, p, "watches a file of the container's image")
		}
	}
}

// onImage is whether a watch is on the container's root file system.
func (c Container) onImage(w Watch) bool {
	return slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Device == w.Device && m.Kind == "overlay" })
}

// handle judges a descriptor that stands for a process.
func (g *gatherer) handle(c Container, p Process, f File) {
	if f.Handle > 0 && !slices.ContainsFunc(c.Processes, func(other Process) bool { return other.NodePid == f.Handle }) {
		g.addProcess(c.Name, ProcessHandle, p, "has a pidfd of a process outside of the container")
	}
}

// mountOf is the mount that a path lies in.
func (c Container) mountOf(path string) (Mount, bool) {
	best, found := Mount{}, false
	for _, m := range c.Mounts {
		// A later mount on the same place hides an earlier one.
		if below(path, m.Point) && len(m.Point) >= len(best.Point) {
			best, found = m, true
		}
	}
	return best, found
}

// inode is the number in the link of a socket.
func (f File) inode() uint64 {
	return parseInode(f.Link)
}

// isQueue is whether a file is a POSIX message queue.
func (c Container) isQueue(f File) bool {
	return slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Kind == "mqueue" && m.Device == f.Device })
}
