package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

func uintptrOf(b *byte) uintptr { return uintptr(unsafe.Pointer(b)) }

// started starts a container and waits until its program is ready.
func started(t *testing.T, p *nodetest.Pod, id, name string, args ...string) *nodetest.Container {
	t.Helper()
	c := p.NewContainer(t, id, name, nodetest.Spec{Args: args})
	c.Start(t)
	return c
}

// moved checkpoints a container, deletes it, and restores it in a new pod.
func moved(t *testing.T, source *nodetest.Pod, c *nodetest.Container, args ...string) *nodetest.Container {
	t.Helper()
	from := checkpoint(t, source, c)
	c.Delete(t)
	goal := nodetest.NewPod(t, source.Name, source.UID+"-next")
	r := goal.NewContainer(t, c.ID+"-next", c.Name, nodetest.Spec{Args: args})
	restore(t, from, r, true)
	return r
}

func noErrors(t *testing.T, containers ...*nodetest.Container) {
	t.Helper()
	for _, c := range containers {
		if problem := c.Output.Last("error"); problem != "" {
			t.Errorf("container %s: %s", c.ID, problem)
		}
	}
}

// plainTCP does what the runtime does before a container is created.
func plainTCP(t *testing.T, p *nodetest.Pod) {
	t.Helper()
	err := p.In(unix.CLONE_NEWNET, func() error { return os.WriteFile("/proc/sys/net/mptcp/enabled", []byte("0"), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, p *nodetest.Pod) net.Conn {
	t.Helper()
	var conn net.Conn
	err := p.In(unix.CLONE_NEWNET, func() (err error) {
		conn, err = net.DialTimeout("tcp", "127.0.0.1:8080", 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func ask(t *testing.T, conn net.Conn, line string) string {
	t.Helper()
	fmt.Fprintln(conn, line)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func TestConnectionSurvivesDumpAndIsClosedByRestore(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "web", "1")
	plainTCP(t, source)
	c := started(t, source, "c1", "main", "listener")
	c.Output.WaitFor(t, "ready")
	conn := dial(t, source)
	if answer := ask(t, conn, "before"); answer != "1 before" {
		t.Fatalf("answer %q", answer)
	}
	from := checkpoint(t, source, c)
	if answer := ask(t, conn, "after"); answer != "2 after" {
		t.Errorf("the connection has lost its server: %q", answer)
	}
	c.Delete(t)

	goal := nodetest.NewPod(t, "web", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"listener"}})
	restore(t, from, r, true)
	if closed := r.Output.WaitFor(t, "closed "); closed != "1" {
		t.Errorf("the restored server saw its old connection end after %s lines", closed)
	}
	if answer := ask(t, dial(t, goal), "new"); answer != "2 new" {
		t.Errorf("the restored server answered %q", answer)
	}
}

func TestMPTCPListenerIsRefusedWithAHint(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "web", "1")
	c := started(t, source, "c1", "main", "listener")
	c.Output.WaitFor(t, "ready")
	refused(t, source, c, "MPTCP", "RuntimeClass lifeboat")
	if answer := ask(t, dial(t, source), "still"); answer != "1 still" {
		t.Errorf("after the refusal the server answered %q", answer)
	}
}

// refused tries a checkpoint that must fail, and checks what it says.
func refused(t *testing.T, p *nodetest.Pod, c *nodetest.Container, reason, hint string) {
	t.Helper()
	_, err := newEngine(t).Checkpoint(context.Background(), targetOf(t, p, c), t.TempDir(), false)
	var not *NotCheckpointable
	if !errors.As(err, &not) {
		t.Fatalf("Checkpoint = %v, want a *NotCheckpointable", err)
	}
	if not.Container != c.Name || !strings.Contains(not.Reason, reason) || !strings.Contains(not.Hint, hint) {
		t.Errorf("refused with %+v, want a reason with %q and a hint with %q", not, reason, hint)
	}
	thawed(t, c)
}

func thawed(t *testing.T, c *nodetest.Container) {
	t.Helper()
	group, err := cgroup.ForPath(cgroupRoot, c.CgroupsPath())
	if err != nil {
		t.Fatal(err)
	}
	if frozen, err := group.Frozen(); err != nil || frozen {
		t.Errorf("the container is frozen: %v, %v", frozen, err)
	}
}

func TestFailedDumpThaws(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	good := started(t, source, "c1", "good", "counter")
	bad := started(t, source, "c2", "bad", "iouring")
	bad.Output.WaitFor(t, "ready")
	good.Output.WaitFor(t, "count ")
	_, err := newEngine(t).Checkpoint(context.Background(), targetOf(t, source, good, bad), t.TempDir(), false)
	var not *NotCheckpointable
	if !errors.As(err, &not) || not.Container != "bad" || !strings.Contains(not.Reason, "io_uring") {
		t.Errorf("Checkpoint = %v", err)
	}
	if strings.Contains(err.Error(), errOtherFailed.Error()) {
		t.Errorf("the error tells of its own consequences: %v", err)
	}
	for _, c := range []*nodetest.Container{good, bad} {
		thawed(t, c)
		n := number(t, c.Output.Last("count "))
		nodetest.Eventually(t, 5*time.Second, c.Name+" goes on", func() bool { return number(t, c.Output.Last("count ")) > n })
	}
	// The good one alone can be checkpointed afterwards.
	checkpoint(t, source, good)
}

func TestCancelledCheckpointThaws(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "memory")
	c.Output.WaitFor(t, "ready")
	cancelAfter := func(after time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		dump, err := newEngine(t).Checkpoint(ctx, targetOf(t, source, c), t.TempDir(), false)
		cancel()
		if err == nil {
			dump.Close()
		}
		t.Logf("cancelled after %v: %v", after, err)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled after %v: %v", after, err)
		}
		thawed(t, c)
		seen := len(c.Output.Lines())
		nodetest.Eventually(t, 5*time.Second, "the container goes on", func() bool { return len(c.Output.Lines()) > seen })
	}
	cancelAfter(5 * time.Millisecond) // CRIU still finds out about the kernel
	checkpoint(t, source, c)
	for after := time.Duration(0); after < 120*time.Millisecond; after += 8 * time.Millisecond {
		cancelAfter(after)
	}
	checkpoint(t, source, c)
	noErrors(t, c)
}

func TestImpossibleContainersAreRefusedBeforeThePause(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	first := started(t, source, "c1", "first", "counter")
	first.Output.WaitFor(t, "count ")
	sharing := source.NewContainer(t, "c2", "sharing", nodetest.Spec{Args: []string{"counter"}, SharePID: fmt.Sprintf("/proc/%d/ns/pid", first.Pid(t))})
	sharing.Start(t)
	refused(t, source, sharing, "process namespace", "shareProcessNamespace")
}

func TestFilesAndLocksAreKept(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "files")
	c.Output.WaitFor(t, "ready")
	r := moved(t, source, c, "files")
	if got := r.Output.WaitFor(t, "files "); got != "in the deleted file; in the file with two names" {
		t.Errorf("the restored program reads %q", got)
	}
	root := fmt.Sprintf("/proc/%d/root/", r.Pid(t))
	locked, err := os.Open(root + "locked")
	if err != nil {
		t.Fatal(err)
	}
	defer locked.Close()
	if err := unix.Flock(int(locked.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("the restored program does not hold its lock: %v", err)
	}
	posix, err := os.OpenFile(root+"locked-posix", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer posix.Close()
	if err := unix.FcntlFlock(posix.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the restored program does not hold its POSIX lock: %v", err)
	}
	fifo, err := os.OpenFile(root+"fifo", os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	content := make([]byte, 100)
	if n, err := fifo.Read(content); err != nil || string(content[:n]) != "in the pipe" {
		t.Errorf("the named pipe holds %q, %v", content[:n], err)
	}
	if left, _ := filepath.Glob(root + "link_remap*"); len(left) > 0 {
		t.Errorf("CRIU's helper files are still there: %v", left)
	}
	noErrors(t, r)
}

func TestProcessesAndPipesAreKept(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "pipes")
	before := number(t, c.Output.WaitFor(t, "echo "))
	// A probe or kubectl exec that runs meanwhile is not part of the state.
	probe := exec.Command("runc", "--root", nodetest.RuncRoot, "exec", c.ID, "/bin/sleep", "100")
	if err := probe.Start(); err != nil {
		t.Fatal(err)
	}
	defer probe.Wait()
	defer probe.Process.Kill()
	group, err := cgroup.ForPath(cgroupRoot, c.CgroupsPath())
	if err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 5*time.Second, "the probe runs in the container", func() bool {
		pids, err := group.Procs()
		return err == nil && len(pids) == 3
	})
	r := moved(t, source, c, "pipes")
	r.Output.WaitFor(t, "echo ")
	if first := number(t, strings.TrimPrefix(r.Output.Lines()[0], "echo ")); first < before {
		t.Errorf("the echo goes on with %d, but was at %d", first, before)
	}
	noErrors(t, r)
}

func TestRestoredContainerIsCheckpointedAgain(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "counter")
	for range 3 {
		before := number(t, c.Output.WaitFor(t, "count "))
		c = moved(t, c.Pod, c, "counter")
		c.Output.WaitFor(t, "count ")
		if first := number(t, strings.TrimPrefix(c.Output.Lines()[0], "count ")); first < before {
			t.Errorf("the count goes on at %d, but was at %d", first, before)
		}
	}
}

func TestMemoryIsFilledInLazily(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "memory")
	c.Output.WaitFor(t, "checked")
	r := moved(t, source, c, "memory")
	r.Output.WaitFor(t, "checked")
	noErrors(t, r)
}

func TestContainersOfAPodAreOneState(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	writer := started(t, source, "c1", "writer", "ipc", "writer", "4711")
	writer.Output.WaitFor(t, "ready")
	reader := started(t, source, "c2", "reader", "ipc", "reader", "4712")
	reader.Output.WaitFor(t, "shared ")
	from := checkpoint(t, source, writer, reader)
	dump := from.dump
	if len(dump.Containers) != 2 || dump.Pause <= 0 || dump.Bytes <= 0 || time.Since(dump.TakenAt) > time.Minute {
		t.Errorf("the dump says %+v", dump)
	}
	writer.Delete(t)
	reader.Delete(t)

	goal := nodetest.NewPod(t, "pod", "2")
	// An init container of the new pod has been there already.
	if err := os.WriteFile(filepath.Join(goal.EmptyDirs["scratch"], "numbers"), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := goal.NewContainer(t, "r1", "writer", nodetest.Spec{Args: []string{"ipc"}})
	restore(t, from, w, true)
	r := goal.NewContainer(t, "r2", "reader", nodetest.Spec{Args: []string{"ipc"}})
	restore(t, from, r, false)
	w.Output.WaitFor(t, "shared ")
	r.Output.WaitFor(t, "shared ")
	// Both see the same memory and the same file: the reader sees what the
	// writer writes now.
	for range 3 {
		var memory byte
		var size int
		fmt.Sscan(r.Output.Last("shared "), &memory, &size)
		nodetest.Eventually(t, 5*time.Second, "the reader sees the writer's changes", func() bool {
			var newMemory byte
			var newSize int
			fmt.Sscan(r.Output.Last("shared "), &newMemory, &newSize)
			return newMemory != memory && newSize > size
		})
	}
	noErrors(t, w, r)
}

func TestSegmentOfTwoContainersIsRefused(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	first := started(t, source, "c1", "first", "ipc", "neighbour", "4711")
	first.Output.WaitFor(t, "ready")
	second := started(t, source, "c2", "second", "ipc", "neighbour", "4711")
	second.Output.WaitFor(t, "ready")
	_, err := newEngine(t).Checkpoint(context.Background(), targetOf(t, source, first, second), t.TempDir(), false)
	var not *NotCheckpointable
	if !errors.As(err, &not) || not.Container != "second" || !strings.Contains(not.Reason, "container first") {
		t.Errorf("Checkpoint = %v", err)
	}
	thawed(t, first)
	thawed(t, second)
}

func TestChangesOfTheRootFileSystemAreKept(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "changes")
	c.Output.WaitFor(t, "ready")
	want := listing(t, filepath.Join(c.Bundle, "rootfs"))
	r := moved(t, source, c, "changes")
	if sees := r.Output.WaitFor(t, "sees "); sees != "only this" {
		t.Errorf("the restored program sees %q", sees)
	}
	if diff := cmp.Diff(want, listing(t, filepath.Join(r.Bundle, "rootfs"))); diff != "" {
		t.Errorf("the file system differs (-want +got):\n%s", diff)
	}
}

// listing describes the files of interest in a root file system.
func listing(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	for _, name := range []string{"etc/passwd", "etc/shells", "etc/skel", "etc/profile.d", "new", "new-too", "link", "fifo"} {
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				lines = append(lines, strings.TrimPrefix(path, root)+" is not there")
				return nil
			}
			var stat unix.Stat_t
			if err := unix.Lstat(path, &stat); err != nil {
				return err
			}
			line := fmt.Sprintf("%s mode %o owner %d:%d", strings.TrimPrefix(path, root), stat.Mode, stat.Uid, stat.Gid)
			if stat.Mode&unix.S_IFMT != unix.S_IFLNK {
				line += fmt.Sprintf(" time %d.%d", stat.Mtim.Sec, stat.Mtim.Nsec)
			}
			if stat.Mode&unix.S_IFMT == unix.S_IFREG {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" links %d %s", stat.Nlink, content)
			}
			lines = append(lines, line)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return lines
}

func TestProbe(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	facts, err := Probe(context.Background(), Host{ProcRoot: "/proc", Root: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if facts.CRIUVersion != "4.2.1" || !strings.HasPrefix(facts.RuncVersion, "1.") || facts.Message != "" || facts.Architecture == "" || facts.KernelVersion == "" || len(facts.CPUFeatures) == 0 {
		t.Errorf("Probe = %+v", facts)
	}
}

// Where the staging folder has no room the checkpoint fails, and the pod goes on.
func TestStagingWithoutRoom(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "counter")
	c.Output.WaitFor(t, "count ")
	for _, size := range []string{"8k", "32k", "64k", "128k"} {
		dir := t.TempDir()
		if err := unix.Mount("full", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal(err)
		}
		_, err := newEngine(t).Checkpoint(context.Background(), targetOf(t, source, c), dir, false)
		if err == nil {
			t.Fatalf("a checkpoint fits into %s", size)
		}
		t.Logf("%s: %v", size, err)
		if !strings.Contains(err.Error(), "no space left") && !strings.Contains(err.Error(), "No space left") {
			t.Errorf("with %s: the error does not say why: %v", size, err)
		}
		if _, kept, found := strings.Cut(err.Error(), "CRIU's log is at "); found {
			if _, err := os.Stat(strings.TrimSuffix(kept, " of the node")); err != nil {
				t.Errorf("with %s: %v", size, err)
			}
		}
		thawed(t, c)
		n := number(t, c.Output.Last("count "))
		nodetest.Eventually(t, 5*time.Second, "the container goes on", func() bool { return number(t, c.Output.Last("count ")) > n })
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
	checkpoint(t, source, c)
}
