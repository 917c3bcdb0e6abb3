package preflight

// Pod is what was seen of a pod's running containers at one moment.
type Pod struct {
	Containers []Container
	// LimitsReadable is whether CRIU may read the limits of every process on
	// this node: whether it has CAP_SYS_RESOURCE.
	LimitsReadable bool
	// Unseen names what could not be looked at.
	Unseen []string
}

// Container is what was seen of one running container.
type Container struct {
	Name string
	// Terminal is whether the container was started with a terminal.
	Terminal bool
	// Namespaces are those that its runtime gave it, by runc's names, as
	// "NEWPID". The value is the path of a namespace that it joined, else empty.
	Namespaces map[string]string
	// Mounts are those of its first process; Declared are the paths that its
	// runtime mounted, which the runtime mounts again at a restore.
	Mounts   []Mount
	Declared []string
	// Processes are all in the container's cgroup; the first process is Init.
	Processes []Process
	// Init is the first process, as numbered in the container.
	Init int
	// Sockets are the sockets of its network namespace, by inode.
	Sockets map[uint64]Socket
	// Locks are the file locks that its processes hold.
	Locks []Lock
}

// Mount is one line of a process's mountinfo.
type Mount struct {
	Point, Kind string
	// Device is the file system's, as "8:1".
	Device string
}

// Process is what was seen of one process.
type Process struct {
	// Pid and Command are its number inside its container, and its name. NodePid
	// and ParentPid are the node's numbers.
	Pid                int
	Command            string
	NodePid, ParentPid int
	// Users and Groups are its real, effective, saved and file system's ones.
	Users, Groups [4]uint32
	// State is the state's letter, as "S".
	State string
	// Tracer is the node's number of the process that traces it; 0 for none.
	Tracer int
	// Namespaces are the links in its folder ns, as "pid:[4026531836]" for "pid".
	Namespaces map[string]string
	Files      []File
	Mappings   []Mapping
	// Hugetlb and Shared are bytes of its memory.
	Hugetlb, Shared int64
}

// File is one open file of a process.
type File struct {
	Number int
	// Link is what its link in the folder fd says: a path, or what stands for
	// one, as "socket:[1234]".
	Link string
	// Protocol is a socket's, by the kernel's name.
	Protocol string
	// Character is whether it is a character device, of the numbers Major and Minor.
	Character    bool
	Major, Minor uint32
	// DeletedBytes is the space that the file takes, when it has no name any more.
	DeletedBytes int64
	// Device is the file system's, as "8:1"; empty for what has none.
	Device string
	// Interface is the network interface that an open /dev/net/tun stands for.
	Interface string
	// Watches are what an inotify or a fanotify watches.
	Watches []Watch
	// Handle is the process that a pidfd stands for, by the node's number; 0 for
	// one that has ended.
	Handle int
}

// Watch is a file that a process is told about when it changes.
type Watch struct {
	// Device is the file system's, as "8:1".
	Device string
	Inode  uint64
	// Known is whether the file is one of those that CRIU finds by itself.
	Known bool
}

// Mapping is a part of a process's memory that is mapped from a file.
type Mapping struct {
	Path   string
	Device string
	Inode  uint64
	// DeletedBytes is the space that the file takes, when it has no name any more.
	DeletedBytes int64
}

// Socket is what a network namespace's tables say of a socket.
type Socket struct {
	// Connected is whether it is a TCP socket with a peer.
	Connected bool
	// Pending is whether a netlink socket has messages that were not read.
	Pending bool
	// Peer is the inode of a UNIX socket's peer; 0 for none. Stream is whether
	// it is a stream or a sequence of packets, rather than datagrams.
	Peer   uint64
	Stream bool
}

// Lock is a file lock of a process.
type Lock struct {
	NodePid int
	// Device is the file system's, as "8:1".
	Device string
}
