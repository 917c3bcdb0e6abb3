package preflight_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// workloads are the programs in the containers of these tests: each makes one
// thing that a checkpoint may stumble over, writes "ready", and stays. Where the
// kernel does not let it, it writes "skip" and why.
var workloads = map[string]func(args []string){
	"plain":       func([]string) {},
	"descriptors": descriptors,
	"syscall":     rawSyscall,
	"memory":      sharedMemory,
	"socket":      openSocket,
	"connect":     connect,
	"listen":      listen,
	"namespace":   namespace,
	"open":        openFile,
	"tun":         tunnel,
	"deleted":     deleted,
	"watch":       watch,
	"mount":       mountInside,
	"segment":     segment,
	"queue":       queue,
	"child":       child,
	"users":       users,
	"nothing":     func([]string) {},
}

// staying makes a workload write that it is ready, and stay.
func staying(do func(args []string)) func(args []string) {
	return func(args []string) {
		do(args)
		fmt.Println("ready")
		for {
			time.Sleep(time.Hour)
		}
	}
}

// kept are descriptors that the garbage collector must not close.
var kept []any

func keep[T any](value T, err error) T {
	check(err)
	kept = append(kept, value)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Println("skip", err)
		time.Sleep(time.Hour)
	}
}

func errnoError(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// descriptors opens what CRIU knows well.
func descriptors([]string) {
	keep(unix.Eventfd(7, 0))
	keep(unix.EpollCreate1(0))
	keep(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0))
	keep(unix.Signalfd(-1, &unix.Sigset_t{}, 0))
	keep(unix.MemfdCreate("scratch", 0))
	keep(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0))
	keep(unix.PidfdOpen(os.Getpid(), 0))
	keep(os.Open("/dev/urandom"))
	keep(os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0))
	keep(os.Open("/proc/self/ns/net"))
	locked := keep(os.Create("/locked"))
	check(unix.Flock(int(locked.Fd()), unix.LOCK_EX))
}

// rawSyscall makes a descriptor with a system call of which Go has no wrapper.
func rawSyscall(args []string) {
	var fd uintptr
	var errno syscall.Errno
	switch args[0] {
	case "io_uring":
		var params [120]byte
		fd, _, errno = unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	case "userfaultfd":
		const userModeOnly = 1
		fd, _, errno = unix.Syscall(unix.SYS_USERFAULTFD, userModeOnly, 0, 0)
	case "perf_event":
		attributes := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
		attributes.Size = uint32(unsafe.Sizeof(attributes))
		n, err := unix.PerfEventOpen(&attributes, 0, -1, -1, 0)
		check(err)
		fd = uintptr(n)
	case "memfd_secret":
		fd, _, errno = unix.Syscall(unix.SYS_MEMFD_SECRET, 0, 0, 0)
		if errno == 0 {
			check(unix.Ftruncate(int(fd), 4096))
			mapped := keep(unix.Mmap(int(fd), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
			mapped[0] = 1
		}
	case "bpf map":
		attributes := [18]uint32{2 /* an array */, 4, 4, 1}
		fd, _, errno = unix.Syscall(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes))
	case "fanotify":
		n, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, unix.O_RDONLY)
		check(err)
		check(unix.FanotifyMark(n, unix.FAN_MARK_ADD, unix.FAN_MODIFY, unix.AT_FDCWD, "/scratch"))
		fd = uintptr(n)
	case "landlock":
		attributes := [1]uint64{1}
		fd, _, errno = unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes), 0)
	case "fsopen":
		n, err := unix.Fsopen("tmpfs", 0)
		check(err)
		fd = uintptr(n)
	}
	check(errnoError(errno))
	kept = append(kept, fd)
}

// sharedMemory fills shared memory of so many MiB.
func sharedMemory(args []string) {
	megabytes, err := strconv.Atoi(args[0])
	check(err)
	block := keep(unix.Mmap(-1, 0, megabytes<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS))
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
}

// openSocket opens a socket by the numbers of its family, kind and protocol.
func openSocket(args []string) {
	var n [3]int
	for i := range n {
		var err error
		n[i], err = strconv.Atoi(args[i])
		check(err)
	}
	fd := keep(unix.Socket(n[0], n[1], n[2]))
	if len(args) > 3 && args[3] == "unread" {
		check(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
		request := struct {
			header unix.NlMsghdr
			body   unix.RtGenmsg
		}{unix.NlMsghdr{Len: 17, Type: unix.RTM_GETLINK, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP}, unix.RtGenmsg{}}
		check(unix.Sendto(fd, unsafe.Slice((*byte)(unsafe.Pointer(&request)), 17), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	}
}

// connect connects to a UNIX socket at a path.
func connect(args []string) { keep(net.Dial(args[0], args[1])) }

// listen listens, and has a connection to itself.
func listen([]string) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l := keep(config.Listen(context.Background(), "tcp4", "127.0.0.1:8080"))
	keep(net.Dial("tcp4", l.Addr().String()))
	keep(l.Accept())
}

// namespaceFlags are the namespaces that a child can have.
var namespaceFlags = map[string]uintptr{
	"pid": unix.CLONE_NEWPID, "user": unix.CLONE_NEWUSER, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS,
	"cgroup": unix.CLONE_NEWCGROUP, "net": unix.CLONE_NEWNET, "mnt": unix.CLONE_NEWNS, "time": unix.CLONE_NEWTIME,
}

// namespace has a child in a namespace of its own.
func namespace(args []string) {
	cmd := exec.Command("/workload", os.Args[1], "nothing")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaceFlags[args[0]]}
	if args[0] == "time" {
		check(unix.Unshare(unix.CLONE_NEWTIME))
		cmd.SysProcAttr = nil
	}
	out, err := cmd.StdoutPipe()
	check(err)
	check(cmd.Start())
	out.Read(make([]byte, 5)) // it is ready
}

// users has a child that is another user's.
func users([]string) {
	cmd := exec.Command("/bin/sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	check(cmd.Start())
}

// child has a process that has ended and was not waited for, or one that is stopped.
func child(args []string) {
	cmd := exec.Command("/bin/sleep", "3600")
	check(cmd.Start())
	signal, state := unix.SIGSTOP, "T (stopped)"
	if args[0] == "ended" {
		signal, state = unix.SIGKILL, "Z (zombie)"
	}
	check(unix.Kill(cmd.Process.Pid, signal))
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		check(err)
		if strings.Contains(string(status), state) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// openFile opens a file for reading and writing, and maps it where asked to.
func openFile(args []string) { keep(os.OpenFile(args[0], os.O_RDWR, 0)) }

// tunnel has a network interface of its own.
func tunnel([]string) {
	fd := keep(unix.Open("/dev/net/tun", unix.O_RDWR, 0))
	request, err := unix.NewIfreq("tun7")
	check(err)
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	check(unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
}

// deleted holds a deleted file, of a size, which takes that space or none.
func deleted(args []string) {
	file := keep(os.Create("/scratch/deleted"))
	bytes, err := strconv.ParseInt(args[0], 10, 64)
	check(err)
	if args[1] == "sparse" {
		check(file.Truncate(bytes))
	} else {
		check(unix.Fallocate(int(file.Fd()), 0, 0, bytes))
	}
	check(os.Remove(file.Name()))
	if args[1] == "mapped" {
		keep(unix.Mmap(int(file.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
		check(file.Close())
	}
}

// watch watches a path with inotify.
func watch(args []string) {
	check(os.MkdirAll(filepath.Dir(args[0]), 0o755))
	fd := keep(unix.InotifyInit1(0))
	_, err := unix.InotifyAddWatch(fd, args[0], unix.IN_MODIFY|unix.IN_CREATE)
	check(err)
}

// mountInside mounts a file system of a type within the container.
func mountInside(args []string) {
	check(os.MkdirAll("/mnt/inside", 0o755))
	options := ""
	if args[0] == "fuse" {
		fd := keep(unix.Open("/dev/fuse", unix.O_RDWR, 0))
		options = fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	}
	check(unix.Mount(args[0], "/mnt/inside", args[0], 0, options))
}

// segment attaches a System V segment.
func segment([]string) {
	id, err := unix.SysvShmGet(4711, 4096, unix.IPC_CREAT|0o600)
	check(err)
	keep(unix.SysvShmAttach(id, 0, 0))
}

// queue has a POSIX message queue.
func queue([]string) {
	name, err := unix.BytePtrFromString("queue")
	check(err)
	attributes := [8]int64{0, 4, 64, 0}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o600, uintptr(unsafe.Pointer(&attributes)), 0, 0)
	check(errnoError(errno))
	kept = append(kept, fd)
}
