package preflight

import "fmt"

// rule is what is known of a reason.
type rule struct {
	severity Severity
	hint     string
}

// rules has each reason. docs/reference/preflight.md says how each was verified.
var rules = map[Reason]rule{
	Terminal:          {Refuses, `set "tty: false" in the container's spec`},
	HostProcesses:     {Refuses, `remove "hostPID: true" from the pod's spec`},
	SharedProcesses:   {Refuses, `remove "shareProcessNamespace: true" from the pod's spec`},
	HostNetwork:       {Refuses, `remove "hostNetwork: true" from the pod's spec`},
	UserNamespace:     {Refuses, `remove "hostUsers: false" from the pod's spec`},
	RootFilesystem:    {Refuses, "use containerd's overlayfs snapshotter on the node"},
	ForeignMount:      {Refuses, "mount it as a volume of the pod"},
	IOUring:           {Refuses, "switch it off: UV_USE_IO_URING=0 for Node.js, io_method=worker for PostgreSQL 18, or a seccomp profile that denies io_uring_setup"},
	Userfaultfd:       {Refuses, "switch it off in the program"},
	PerfEvent:         {Refuses, "end the profiler, or run it outside of the pod"},
	BPF:               {Refuses, "load eBPF programs from another pod, such as a DaemonSet's"},
	VirtualMachine:    {Refuses, "virtual machines cannot be checkpointed"},
	SecretMemory:      {Refuses, "switch it off in the program: the kernel shows such memory to nobody else"},
	UnknownDescriptor: {Refuses, "have the program close it"},
	Device:            {Refuses, "have the program close it: the state of a device is not in the pod"},
	DeletedFile:       {Refuses, "have the program close it, or keep it under a name in an emptyDir volume; deleted files may take up to 512 MiB"},
	FileWatch:         {Refuses, "have the program watch a folder in an emptyDir volume"},
	NestedNamespace:   {Refuses, "containers and sandboxes inside of a container cannot be checkpointed; switch the program's sandbox off"},
	Traced:            {Refuses, "end the debugger or tracer"},
	StoppedProcess:    {Refuses, "send the process SIGCONT, or end it"},
	MessageQueue:      {Refuses, "have the programs talk over pipes or sockets instead of POSIX message queues"},
	ProcessHandle:     {Refuses, "have the program close it"},
	MPTCP:             {Refuses, "start the container through the RuntimeClass lifeboat, which switches MPTCP off, or set GODEBUG=multipathtcp=0"},
	UnsupportedSocket: {Refuses, "have the program close it"},
	OutsideSocket:     {Refuses, "have the program close it, or connect over TCP; both ends must be in the same container"},
	SharedSegment:     {Refuses, "share memory through a file in /dev/shm or in an emptyDir volume"},
	UnreadableLimits:  {Refuses, "give the node the capability CAP_SYS_RESOURCE, or run all processes of the container as one user"},
	OtherRuntimeClass: {Refuses, "leave spec.runtimeClassName empty: Lifeboat sets its own"},
	WrongAnnotation:   {Refuses, "correct the annotation in the pod's template"},

	ForeignProcess:  {Warns, "it is not part of a checkpoint, and gone after a restore; a kubectl exec session needs nothing to be done"},
	OpenConnections: {Warns, "they are closed by a restore, so clients must connect anew; a checkpoint alone leaves them open"},
	PacketSocket:    {Warns, "it is bound to the same number of a network interface again after a restore"},
	PendingMessages: {Warns, "a checkpoint that meets unread messages fails, and the next one may succeed; have the program read them, or close the socket"},
	NetworkFiles:    {Warns, "the same file must be there on every node, and its content is not part of a checkpoint"},
	NetworkLock:     {Warns, "the lock is not part of the file system's own state after a node loss; another client may hold it by then"},
	HugePages:       {Warns, "they are copied in full while the pod is paused, and before it runs again; transparent huge pages are not"},
	SharedMemory:    {Warns, "all of it is looked at while the pod is paused, and brought back before it runs again"},
	HostIPC:         {Warns, `remove "hostIPC: true" from the pod's spec: what is in the node's shared memory stays behind`},
	WritableVolume:  {Warns, `annotation lifeboat.dev/volumes: "ignore" restores the pod's memory all the same, if its programs bear older memory than files`},
}

// dumpableAnonymous are the kinds of anonymous descriptors that CRIU dumps.
var dumpableAnonymous = []string{"eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "pidfd"}

// dumpableSockets are the protocols that CRIU dumps, besides those with rules
// of their own.
var dumpableSockets = []string{"TCP", "UDP", "UDP-LITE", "UDPLITE", "PING", "RAW"}

// dumpableMounts are the file systems that CRIU dumps where a program of the
// container has mounted them.
var dumpableMounts = []string{"proc", "sysfs", "devtmpfs", "binfmt_misc", "tmpfs", "devpts", "pstore", "mqueue", "securityfs",
	"fusectl", "debugfs", "tracefs", "cgroup", "cgroup2", "overlay", "autofs"}

// networkMounts are the file systems of other machines.
var networkMounts = []string{"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre", "beegfs", "glusterfs", "gpfs", "afs", "virtiofs"}

// nestable are the namespaces of which a process may not have one of its own.
var nestable = []string{"pid", "pid_for_children", "user", "ipc", "uts", "net", "cgroup", "time", "time_for_children"}

var namespaceNames = map[string]string{
	"pid": "process", "user": "user", "ipc": "IPC", "uts": "host name", "net": "network", "cgroup": "cgroup", "time": "time",
}

// Numbers of character devices, from the kernel's list of devices.
const (
	memoryDevices   = 1 // null, zero, full, random, urandom, …
	consoleDevices  = 4
	terminalDevices = 5 // tty, console, ptmx
	firstPty        = 128
	lastPty         = 143
)

// dumpableDevice is whether CRIU dumps an open character device. Terminals are
// those that a program has opened itself.
func dumpableDevice(major, minor uint32) bool {
	switch {
	case major == memoryDevices, major >= firstPty && major <= lastPty:
		return true
	case major == terminalDevices:
		return minor <= 2
	case major == consoleDevices:
		return minor <= 63
	}
	return false
}

// isTunnel is whether the file is an open /dev/net/tun, with an interface or without.
func (f File) isTunnel() bool { return f.Character && f.Major == 10 && f.Minor == 200 }

// size is a number of bytes for people.
func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	default:
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
}
