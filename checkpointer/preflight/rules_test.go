package preflight

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pod has one container with one process, after a change to both.
func pod(change func(c *Container, p *Process)) Pod {
	c := Container{
		Name: "main", Init: 1,
		Namespaces: map[string]string{"NEWPID": "", "NEWNET": "/proc/7/ns/net", "NEWIPC": "/proc/7/ns/ipc", "NEWNS": ""},
		Mounts:     []Mount{{"/", "overlay", "0:50"}, {"/data", "ext4", "8:1"}, {"/dev/mqueue", "mqueue", "0:60"}},
		Declared:   []string{"/data", "/dev/mqueue"},
	}
	p := Process{Pid: 1, Command: "app", NodePid: 100, ParentPid: 50, State: "S", Namespaces: map[string]string{"pid": "pid:[1]", "user": "user:[2]"}}
	change(&c, &p)
	c.Processes = append([]Process{p}, c.Processes...)
	return Pod{Containers: []Container{c}, LimitsReadable: true}
}

func open(files ...File) func(*Container, *Process) {
	return func(_ *Container, p *Process) { p.Files = files }
}

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		change func(c *Container, p *Process)
		want   []string // severity, reason and message
	}{
		"nothing": {change: func(*Container, *Process) {}},
		"what CRIU knows": {change: open(
			File{Link: "/data/file", Device: "8:1"}, File{Link: "pipe:[5]"}, File{Link: "anon_inode:[eventpoll]"},
			File{Link: "anon_inode:[eventfd]"}, File{Link: "anon_inode:[timerfd]"}, File{Link: "/memfd:x (deleted)"},
			File{Link: "/dev/null", Character: true, Major: 1, Minor: 3}, File{Link: "/dev/pts/0", Character: true, Major: 136},
			File{Link: "socket:[9]", Protocol: "TCP"}, File{Link: "socket:[10]", Protocol: "UDPv6"}, File{Link: "socket:[11]", Protocol: "NETLINK"},
		)},
		"io_uring, open and mapped": {
			change: func(_ *Container, p *Process) {
				p.Files = []File{{Link: "anon_inode:[io_uring]"}}
				p.Mappings = []Mapping{{Path: "anon_inode:[io_uring]"}}
			},
			want: []string{"Refuses IOUring: process 1 (app) uses io_uring, and 1 more like it"},
		},
		"io_uring, mapped after its descriptor was closed": {
			change: func(_ *Container, p *Process) { p.Mappings = []Mapping{{Path: "anon_inode:[io_uring]"}} },
			want:   []string{"Refuses IOUring: process 1 (app) uses io_uring"},
		},
		"an anonymous descriptor that nobody knew": {
			change: open(File{Link: "anon_inode:[new-kind]"}),
			want:   []string{"Refuses UnknownDescriptor: process 1 (app) has a descriptor open of a kind that CRIU does not know (new-kind)"},
		},
		"virtual machine": {
			change: open(File{Link: "anon_inode:kvm-vm"}, File{Link: "anon_inode:kvm-vcpu:0"}),
			want:   []string{"Refuses VirtualMachine: process 1 (app) runs a virtual machine, and 1 more like it"},
		},
		"GPU": {
			change: func(_ *Container, p *Process) {
				p.Files = []File{{Link: "/dev/nvidia0", Character: true, Major: 195}}
				p.Mappings = []Mapping{{Path: "/dev/shm/x"}, {Path: "/dev/zero (deleted)"}}
			},
			want: []string{"Refuses Device: process 1 (app) has the device /dev/nvidia0 open (195:0)"},
		},
		"tunnels": {
			change: open(File{Link: "/dev/net/tun", Character: true, Major: 10, Minor: 200}, File{Link: "/dev/net/tun", Character: true, Major: 10, Minor: 200, Interface: "tun7"}),
			want:   []string{"Refuses Device: process 1 (app) has the network interface tun7 through /dev/net/tun"},
		},
		"mapped device": {
			change: func(_ *Container, p *Process) { p.Mappings = []Mapping{{Path: "/dev/dri/card0"}} },
			want:   []string{"Refuses Device: process 1 (app) has mapped the device /dev/dri/card0"},
		},
		"deleted files below and above the limit": {
			change: open(File{Link: "/a (deleted)", DeletedBytes: GhostLimit}, File{Link: "/b (deleted)", DeletedBytes: GhostLimit + 512}),
			want:   []string{"Refuses DeletedFile: process 1 (app) has the deleted file /b open, which takes 512 MiB"},
		},
		"sockets": {
			change: func(c *Container, p *Process) {
				p.Files = []File{{Link: "socket:[1]", Protocol: "MPTCPv6"}, {Link: "socket:[2]", Protocol: "SCTP"}, {Link: "socket:[3]", Protocol: "TCP"}, {Link: "socket:[4]", Protocol: "TCP"}}
				c.Sockets = map[uint64]Socket{3: {Connected: true}, 4: {Connected: true}}
			},
			want: []string{
				"Refuses MPTCP: process 1 (app) has an MPTCP socket",
				"Refuses UnsupportedSocket: process 1 (app) has a socket of a kind that CRIU does not know (SCTP)",
				"Warns OpenConnections: process 1 (app) has 2 TCP connections",
			},
		},
		"UNIX sockets within the container": {
			change: func(c *Container, p *Process) {
				p.Files = []File{{Link: "socket:[1]", Protocol: "UNIX-STREAM"}, {Link: "socket:[2]", Protocol: "UNIX-STREAM"}, {Link: "socket:[3]", Protocol: "UNIX"}}
				// A named socket of a neighbour takes datagrams.
				c.Sockets = map[uint64]Socket{1: {Peer: 2, Stream: true}, 2: {Peer: 1, Stream: true}, 3: {Peer: 77}, 77: {}}
			},
		},
		"UNIX socket to another container": {
			change: func(c *Container, p *Process) {
				p.Files = []File{{Link: "socket:[1]", Protocol: "UNIX-STREAM"}}
				c.Sockets = map[uint64]Socket{1: {Peer: 2, Stream: true}, 2: {Peer: 1, Stream: true}}
			},
			want: []string{"Refuses OutsideSocket: process 1 (app) has a UNIX socket that is connected to a process outside of the container"},
		},
		"nested namespace of a child": {
			change: func(c *Container, _ *Process) {
				c.Processes = []Process{{Pid: 5, Command: "chrome", NodePid: 105, ParentPid: 100, Namespaces: map[string]string{"pid": "pid:[1]", "user": "user:[9]"}}}
			},
			want: []string{"Refuses NestedNamespace: process 5 (chrome) has a user namespace of its own"},
		},
		"namespace for children": {
			change: func(_ *Container, p *Process) { p.Namespaces["pid_for_children"] = "pid:[8]" },
			want:   []string{"Refuses NestedNamespace: process 1 (app) has a process namespace of its own"},
		},
		"stopped and traced": {
			change: func(_ *Container, p *Process) { p.State, p.Tracer = "T", 3 },
			want:   []string{"Refuses Traced: process 1 (app) is being traced", "Refuses StoppedProcess: process 1 (app) is stopped, as by SIGSTOP"},
		},
		"kubectl exec, whose files do not matter": {
			change: func(c *Container, _ *Process) {
				c.Processes = []Process{
					{Pid: 8, Command: "sh", NodePid: 108, ParentPid: 60, Files: []File{{Link: "anon_inode:[io_uring]"}}},
					{Pid: 9, Command: "top", NodePid: 109, ParentPid: 108},
				}
			},
			want: []string{"Warns ForeignProcess: process 8 (sh) was started in the container from outside, as kubectl exec does, and 1 more like it"},
		},
		"container of the node": {
			change: func(c *Container, _ *Process) { c.Terminal, c.Namespaces = true, map[string]string{"NEWUSER": ""} },
			want: []string{
				"Refuses Terminal: the container has a terminal", "Refuses HostProcesses: the container uses the node's process namespace",
				"Refuses HostNetwork: the container uses the node's network", "Refuses UserNamespace: the container has a user namespace",
				"Warns HostIPC: the container uses the node's shared memory",
			},
		},
		"shared processes": {
			change: func(c *Container, _ *Process) { c.Namespaces["NEWPID"] = "/proc/7/ns/pid" },
			want:   []string{"Refuses SharedProcesses: the container shares its process namespace"},
		},
		"mounts": {
			change: func(c *Container, _ *Process) {
				c.Mounts = []Mount{{"/", "btrfs", "0:50"}, {"/data/sub", "nfs4", "0:70"}, {"/mnt", "ext4", "8:2"}, {"/tmp", "tmpfs", "0:80"}}
			},
			want: []string{
				"Refuses RootFilesystem: the root file system is btrfs, so its changes cannot be told from the image",
				"Refuses ForeignMount: a program has mounted a file system of type ext4 on /mnt",
			},
		},
		"files and locks of a network file system": {
			change: func(c *Container, p *Process) {
				c.Mounts = append(c.Mounts, Mount{"/data", "nfs4", "0:70"})
				c.Locks = []Lock{{100, "0:70"}, {100, "0:50"}, {999, "0:70"}}
				p.Files = []File{{Link: "/data/file"}, {Link: "/database"}}
			},
			want: []string{
				"Warns NetworkFiles: process 1 (app) has /data/file open, on a file system of type nfs4",
				"Warns NetworkLock: process 1 (app) has locked a file on /data (nfs4)",
			},
		},
		"watches": {
			change: open(File{Link: "anon_inode:inotify", Watches: []Watch{{"8:1", 5, false}, {"0:50", 6, true}, {"0:50", 7, false}}}),
			want:   []string{"Refuses FileWatch: process 1 (app) watches a file of the container's image"},
		},
		"message queue": {
			change: open(File{Link: "/queue", Device: "0:60"}),
			want:   []string{"Refuses MessageQueue: process 1 (app) has the POSIX message queue /queue open"},
		},
		"pidfds": {
			change: open(File{Link: "pidfd:[3]", Handle: 100}, File{Link: "anon_inode:[pidfd]"}, File{Link: "anon_inode:[pidfd]", Handle: 42}),
			want:   []string{"Refuses ProcessHandle: process 1 (app) has a pidfd of a process outside of the container"},
		},
		"memory": {
			change: func(_ *Container, p *Process) { p.Hugetlb, p.Shared = 2<<20, 3<<30 },
			want:   []string{"Warns HugePages: process 1 (app) has 2 MiB in huge pages", "Warns SharedMemory: process 1 (app) has 3.0 GiB of shared memory"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			report := Judge(pod(test.change))
			var got []string
			for _, f := range report.Findings {
				got = append(got, string(f.Severity)+" "+string(f.Reason)+": "+f.Message())
				if f.Container != "main" || f.Hint == "" {
					t.Errorf("finding without container or hint: %+v", f)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if want := !strings.Contains(strings.Join(got, "\n"), "Refuses"); report.Checkpointable() != want {
				t.Errorf("checkpointable = %v", report.Checkpointable())
			}
		})
	}
}

func TestSegmentSharedBetweenContainers(t *testing.T) {
	attached := func(_ *Container, p *Process) { p.Mappings = []Mapping{{Path: "/SYSV00001267 (deleted)", Inode: 32}} }
	p := pod(attached)
	if r := Judge(p); len(r.Findings) > 0 {
		t.Errorf("a segment of one container: %+v", r.Findings)
	}
	other := pod(attached).Containers[0]
	other.Name = "sidecar"
	p.Containers = append(p.Containers, other)
	if r := Judge(p); len(r.Findings) != 1 || r.Findings[0].Reason != SharedSegment || r.Findings[0].Container != "sidecar" || r.Checkpointable() {
		t.Errorf("a segment of two containers: %+v", r.Findings)
	}
}

func TestLimitsOfOtherUsers(t *testing.T) {
	user := [4]uint32{1000, 1000, 1000, 1000}
	tests := map[string]struct {
		users, groups [4]uint32
		child         [4]uint32
		readable      bool
		want          int
	}{
		"root":                              {},
		"one user":                          {users: user, groups: user, child: user},
		"two users":                         {users: user, groups: user, want: 1},
		"two users, with the capability":    {users: user, groups: user, readable: true},
		"a program that changes its user":   {users: [4]uint32{1000, 0, 0, 0}, want: 1},
		"a program that changed its groups": {users: user, groups: [4]uint32{1000, 1000, 7, 7}, child: user, want: 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod(func(c *Container, p *Process) {
				p.Users, p.Groups = test.users, test.groups
				c.Processes = []Process{{Pid: 2, NodePid: 102, ParentPid: 100, Users: test.child, Groups: test.child}}
			})
			p.LimitsReadable = test.readable
			if r := Judge(p); len(r.Findings) != test.want || test.want > 0 && r.Findings[0].Reason != UnreadableLimits {
				t.Errorf("%+v", r.Findings)
			}
		})
	}
}

func TestUnseenIsPassedOn(t *testing.T) {
	if r := Judge(Pod{Unseen: []string{"sockets: no"}}); len(r.Unseen) != 1 {
		t.Errorf("unseen: %q", r.Unseen)
	}
}
