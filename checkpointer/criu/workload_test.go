package criu

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// workloads are the programs in the containers of these tests. Each writes
// "ready" once it is in the state that a checkpoint must keep, and "error" with
// what went wrong.
var workloads = map[string]func(args []string){
	"counter":  counter,
	"listener": listener,
	"files":    files,
	"pipes":    pipes,
	"cat":      func([]string) { io.Copy(os.Stdout, os.Stdin) },
	"memory":   fill,
	"ipc":      ipc,
	"buffers":  buffers,
	"systemv":  nodetest.SystemV,
	"changes":  changes,
	"iouring":  ioUring,
	"sleep":    func([]string) { time.Sleep(time.Hour) },
}

// counter counts, from 1 on, in memory alone.
func counter([]string) {
	for n := 1; ; n++ {
		fmt.Println("count", n)
		time.Sleep(5 * time.Millisecond)
	}
}

// must ends the program when what it needs for the test cannot be had.
func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// forever does something every few milliseconds, so that it goes on after a restore.
func forever(do func()) {
	for {
		do()
		time.Sleep(5 * time.Millisecond)
	}
}

// listener answers every line of a connection with its number, by the protocol
// that Go chooses: MPTCP where the kernel has it.
func listener([]string) {
	l := must(net.Listen("tcp", "127.0.0.1:8080"))
	fmt.Println("ready")
	n := 0
	for {
		conn := must(l.Accept())
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			n++
			fmt.Fprintln(conn, n, lines.Text())
		}
		fmt.Println("closed", n)
		conn.Close()
	}
}

// files holds a locked file, a deleted one, one that is deleted under one of
// its two names, and a named pipe, and checks that they stay what they are.
func files([]string) {
	locked := must(os.OpenFile("/locked", os.O_CREATE|os.O_RDWR, 0o600))
	check(unix.Flock(int(locked.Fd()), unix.LOCK_EX))
	posix := must(os.OpenFile("/locked-posix", os.O_CREATE|os.O_RDWR, 0o600))
	check(unix.FcntlFlock(posix.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	deleted := must(os.Create("/deleted"))
	must(deleted.WriteString("in the deleted file"))
	check(os.Remove("/deleted"))
	twice := must(os.OpenFile("/first", os.O_CREATE|os.O_RDWR, 0o600))
	must(twice.WriteString("in the file with two names"))
	check(os.Link("/first", "/second"))
	check(os.Remove("/first"))
	check(unix.Mkfifo("/fifo", 0o600))
	fifo := must(os.OpenFile("/fifo", os.O_RDWR, 0))
	must(fifo.WriteString("in the pipe"))
	fmt.Println("ready")
	forever(func() {
		inDeleted, inTwice := make([]byte, 100), make([]byte, 100)
		n, _ := deleted.ReadAt(inDeleted, 0)
		m, _ := twice.ReadAt(inTwice, 0)
		fmt.Printf("files %s; %s\n", inDeleted[:n], inTwice[:m])
	})
}

// pipes has a child that echoes, through two pipes.
func pipes([]string) {
	child := exec.Command("/workload", os.Args[1], "cat")
	in, out := must(child.StdinPipe()), must(child.StdoutPipe())
	check(child.Start())
	answers := bufio.NewReader(out)
	n := 0
	forever(func() {
		n++
		must(fmt.Fprintln(in, n))
		fmt.Print("echo ", must(answers.ReadString('\n')))
	})
}

// fill fills memory with what can be checked, and checks it.
func fill([]string) {
	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = byte(i>>12) ^ byte(i*7)
	}
	sum := sha256.Sum256(block)
	fmt.Println("ready")
	forever(func() {
		if sha256.Sum256(block) != sum {
			check(fmt.Errorf("the memory has changed"))
		}
		fmt.Println("checked")
	})
}

// ipc uses what the containers of a pod share: POSIX shared memory and an
// emptyDir volume, which the writer changes and all see; a System V segment of
// the given key.
func ipc(args []string) {
	var key int
	must(fmt.Sscan(args[1], &key))
	id := must(unix.SysvShmGet(key, 4096, unix.IPC_CREAT|0o600))
	segment := must(unix.SysvShmAttach(id, 0, 0))
	shm := must(os.OpenFile("/dev/shm/posix", os.O_CREATE|os.O_RDWR, 0o600))
	check(shm.Truncate(4096))
	mapped := must(unix.Mmap(int(shm.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	scratch := must(os.OpenFile("/scratch/numbers", os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600))
	if args[0] == "reader" {
		scratch = must(os.Open("/scratch/numbers"))
	}
	fmt.Println("ready")
	for n := byte(0); ; n++ {
		if segment[0] != n && args[0] != "neighbour" {
			check(fmt.Errorf("the System V segment holds %d, not %d", segment[0], n))
		}
		segment[0]++
		if args[0] == "writer" {
			mapped[0]++
			must(fmt.Fprintln(scratch, mapped[0]))
		}
		info := must(scratch.Stat())
		fmt.Println("shared", mapped[0], info.Size())
		time.Sleep(5 * time.Millisecond)
	}
}

// changes makes every kind of change that a root file system can have.
func changes([]string) {
	check(os.WriteFile("/etc/passwd", []byte("changed"), 0o640))
	check(os.Remove("/etc/shells"))
	check(os.RemoveAll("/etc/skel"))
	check(os.RemoveAll("/etc/profile.d"))
	check(os.Mkdir("/etc/profile.d", 0o750))
	check(os.WriteFile("/etc/profile.d/only", []byte("only this"), 0o600))
	check(os.WriteFile("/new", []byte("new"), 0o6711))
	check(os.Chown("/new", 12, 34))
	check(os.Chmod("/new", 0o711|os.ModeSetuid))
	check(os.Link("/new", "/new-too"))
	check(os.Symlink("/new", "/link"))
	check(unix.Mkfifo("/fifo", 0o620))
	check(os.Chtimes("/etc/profile.d/only", time.Unix(1000, 0), time.Unix(2000, 500)))
	check(os.Chtimes("/etc/profile.d", time.Unix(1000, 0), time.Unix(3000, 0)))
	fmt.Println("ready")
	forever(func() {
		content, _ := os.ReadFile("/etc/profile.d/only")
		fmt.Println("sees", strings.TrimSpace(string(content)))
	})
}

// ioUring makes what CRIU cannot dump.
func ioUring([]string) {
	var params [120]byte
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptrOf(&params[0]), 0)
	if errno != 0 {
		check(errno)
	}
	fmt.Println("ready")
	counter(nil)
}
