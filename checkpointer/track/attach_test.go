package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// needUserfaultfd skips a test where the kernel has no such method.
func needUserfaultfd(t testing.TB) {
	t.Helper()
	if err := Works(Userfaultfd); err != nil {
		t.Skip(err)
	}
}

// TestCallsGoOn attaches many times to processes whose threads wait in system
// calls, and compute: none may notice.
func TestCallsGoOn(t *testing.T) {
	needUserfaultfd(t)
	attaches := 200
	if testing.Short() {
		attaches = 50
	}
	var ending atomic.Bool
	defer ending.Store(true)
	go func() { // a load
		for i := 0; !ending.Load(); i++ {
		}
	}()
	names := waitNames()
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			args := []string{name}
			if i%2 == 1 {
				args = append(args, "seccomp")
			}
			h := startHelper(t, "calls", args...)
			areas, err := Areas(h.pid)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			for range attaches/len(names) + 1 {
				tracker := attach(t, h.pid, Userfaultfd)
				for range 2 {
					if _, err := tracker.Written(areas); err != nil {
						t.Fatal(err)
					}
				}
				if err := tracker.Close(); err != nil {
					t.Fatal(err)
				}
			}
			took := time.Since(start)
			if got := h.ask("end"); !strings.HasPrefix(got, "right ") {
				t.Fatal(got)
			} else {
				t.Logf("%s calls; %v an attach with two looks", got, took/time.Duration(attaches/len(names)+1))
			}
		})
	}
}

// TestSleepIsNotProlonged attaches all the time to a process that sleeps: were its
// sleep begun anew each time, it would not end.
func TestSleepIsNotProlonged(t *testing.T) {
	needUserfaultfd(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("elsewhere the kernel does not tell what is to be restarted")
	}
	cmd := helperCommand("sleep")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	// To wait for it meanwhile would take from ptrace what it waits for: the test is its parent.
	attaches := 0
	for {
		tracker, err := Attach(t.Context(), cmd.Process.Pid, Userfaultfd)
		if errors.Is(err, ErrEnded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		attaches++
		if time.Since(start) > 10*time.Second {
			t.Fatalf("it still sleeps after %d attaches", attaches)
		}
		tracker.Close()
	}
	// An attach that met the end of the process has waited for it.
	if err := cmd.Wait(); err != nil && !errors.Is(err, unix.ECHILD) || attaches < 3 {
		t.Fatalf("after %d attaches: %v", attaches, err)
	}
	t.Logf("%d attaches in %v", attaches, time.Since(start))
}

// TestSignalsArrive sends signals while a process is attached to all the time.
func TestSignalsArrive(t *testing.T) {
	needUserfaultfd(t)
	h := startHelper(t, "threads", "5")
	var ending atomic.Bool
	var attaches atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; !ending.Load(); attaches.Add(1) {
			if tracker, err := Attach(context.Background(), h.pid, Userfaultfd); err != nil {
				t.Error(err)
			} else {
				tracker.Close()
			}
		}
	}()
	signals, want := 0, int64(100)
	if testing.Short() {
		want = 20
	}
	for ; attaches.Load() < want; signals++ {
		if err := unix.Kill(h.pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		h.expect("signal")
	}
	ending.Store(true)
	<-done
	t.Logf("%d signals, %d attaches", signals, attaches.Load())
}

// TestStoppedStaysStopped attaches to a process that SIGSTOP has stopped.
func TestStoppedStaysStopped(t *testing.T) {
	needUserfaultfd(t)
	h := startHelper(t, "threads", "5")
	h.pause()
	for range 20 {
		attach(t, h.pid, Userfaultfd).Close()
		until(t, "it is stopped again", func() bool { return isStill(h.pid) })
	}
	h.resume()
	if err := unix.Kill(h.pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	h.expect("signal")
}

// TestNoDescriptorIsLeft attaches while threads fork: no child may have got the descriptor.
func TestNoDescriptorIsLeft(t *testing.T) {
	needUserfaultfd(t)
	h := startHelper(t, "threads", "3")
	if _, err := fmt.Fprintln(h.in, "fork"); err != nil {
		t.Fatal(err)
	}
	for len(childrenOf(t, h.pid)) < 100 {
		attach(t, h.pid, Userfaultfd).Close()
	}
	h.pause()
	children := childrenOf(t, h.pid)
	for _, child := range children {
		if n := userfaultfds(t, child); n > 0 {
			t.Errorf("child %d has %d userfaultfds", child, n)
		}
		unix.Kill(child, unix.SIGKILL)
	}
	t.Logf("%d children", len(children))
}

func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(lists) == 0 {
		t.Fatalf("the kernel lists no children: %v", err)
	}
	var children []int
	for _, list := range lists {
		content, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for word := range strings.FieldsSeq(string(content)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, child)
		}
	}
	return children
}

func userfaultfds(t *testing.T, pid int) int {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.Contains(target, "userfaultfd") {
			n++
		}
	}
	return n
}

func TestChildIsFollowedOnceAttached(t *testing.T) {
	onEachMethod(t, func(t *testing.T, method Method) {
		h := startHelper(t, "model", "3")
		h.ask("do 50")
		tracker := attach(t, h.pid, method)
		h.pause()
		s := newShadow(t, h.pid, tracker)
		if err := errors.Join(s.follow(), s.compare()); err != nil {
			t.Fatal(err)
		}
		// A second tracker of the same process says what it has of its own.
		other := newShadow(t, h.pid, attach(t, h.pid, method))
		if err := errors.Join(other.follow(), other.compare()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRefused tries processes that cannot be followed.
func TestRefused(t *testing.T) {
	needUserfaultfd(t)
	ended := helperCommand("end")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "it has ended", func() bool {
		status, err := readStatus(ended.Process.Pid)
		return err == nil && strings.HasPrefix(status["State"], "Z")
	})
	check := func(what string, pid int, want string, is error) {
		t.Helper()
		_, err := Attach(t.Context(), pid, Userfaultfd)
		if err == nil || !strings.Contains(err.Error(), want) || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("a zombie", ended.Process.Pid, "", ErrEnded)
	if err := ended.Wait(); err != nil {
		t.Fatal(err)
	}
	check("no process", ended.Process.Pid, "", ErrEnded)
	if _, err := os.Stat("/proc/2/exe"); err == nil {
		check("a thread of the kernel", 2, "kernel", nil)
	}

	h := startHelper(t, "threads", "1")
	release, traced := make(chan struct{}), make(chan error)
	onTracer(func() {
		traced <- ptrace(unix.PTRACE_SEIZE, h.pid, 0, 0)
		<-release
		traced <- ptrace(unix.PTRACE_INTERRUPT, h.pid, 0, 0)
	})
	if err := <-traced; err != nil {
		t.Fatal(err)
	}
	check("one with a debugger", h.pid, "traces it already", nil)
	close(release)
	<-traced
	until(t, "the debugger has let go", func() bool {
		tracker, err := Attach(t.Context(), h.pid, Userfaultfd)
		if err == nil {
			tracker.Close()
		}
		return err == nil
	})
}

// TestTrackerEnds looks at a process that has ended meanwhile.
func TestTrackerEnds(t *testing.T) {
	onEachMethod(t, func(t *testing.T, method Method) {
		cmd := helperCommand("threads", "1")
		if _, err := cmd.StdinPipe(); err != nil { // which keeps it waiting
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		tracker := attach(t, cmd.Process.Pid, method)
		areas, err := Areas(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		if _, err := tracker.Written(areas); !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
		if _, err := Areas(cmd.Process.Pid); !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
		if _, err := Read(cmd.Process.Pid, areas, NewArena(1<<30)); !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
	})
}

// freezable puts a process into a cgroup of its own.
func freezable(t *testing.T, root string, pid int) cgroup.Group {
	t.Helper()
	group, err := cgroup.ForPath(root, fmt.Sprintf("/lifeboat-track-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		t.Skip(err)
	}
	home, err := cgroup.ForProcess("/proc", root, pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(group.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600)
	}
	t.Cleanup(func() {
		if err := errors.Join(group.Thaw(context.Background()), move(home.Dir())); err != nil {
			t.Error(err)
		}
		until(t, "the cgroup is removed", func() bool { return !errors.Is(os.Remove(group.Dir()), unix.EBUSY) })
	})
	if err := move(group.Dir()); err != nil {
		t.Fatal(err)
	}
	return group
}

// TestFrozen looks at processes that their cgroups have frozen, and tries to attach to them.
func TestFrozen(t *testing.T) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		t.Run(strings.ReplaceAll(root, "/", "-"), func(t *testing.T) {
			onEachMethod(t, func(t *testing.T, method Method) {
				h := startHelper(t, "model", "5")
				group := freezable(t, root, h.pid)
				s := newShadow(t, h.pid, attach(t, h.pid, method))
				for range 5 {
					h.ask("do 30")
					if err := s.follow(); err != nil {
						t.Fatal(err)
					}
					h.ask("do 10")
					if err := group.Freeze(t.Context()); err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(s.follow(), s.compare()); err != nil {
						t.Fatal(err)
					}
					if method == Userfaultfd {
						attachToFrozen(t, h.pid)
					}
					if err := group.Thaw(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func attachToFrozen(t *testing.T, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Attach(ctx, pid, Userfaultfd)
	if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > time.Second {
		t.Fatalf("attach to a frozen process: after %v: %v", took, err)
	}
	if !strings.Contains(err.Error(), "frozen") {
		t.Fatal(err)
	}
}

// TestAreas compares with what CRIU would leave out, by what a process is known to have.
func TestAreas(t *testing.T) {
	const smaps = `55d4a000-55d6b000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
VmFlags: rd wr mr mw me ac 
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
VmFlags: rd wr mr mw me lo ac 
7f0000001000-7f0000002000 ---p 00000000 00:00 0 
VmFlags: mr mw me ac 
7f0000002000-7f0000003000 rw-p 00000000 00:00 0                          [anon:my heap]
VmFlags: rd wr mr mw me ac 
7f0000010000-7f0000020000 rw-s 00000000 00:01 1044                       /dev/zero (deleted)
VmFlags: rd wr sh mr mw me ms sd 
7f0000020000-7f0000030000 rw-p 00000000 00:00 0 
VmFlags: rd wr mr mw me dd nr wf dp 
7f0000200000-7f0000400000 rw-p 00000000 00:0f 2187                       /anon_hugepage (deleted)
VmFlags: rd wr mr mw me ht 
7f0000400000-7f0000401000 rw-p 00000000 fe:00 77                         /lib/a file
VmFlags: rd wr mr mw me ac 
7ffc0000-7ffe0000 rw-p 00000000 00:00 0                                  [stack]
VmFlags: rd wr mr mw me gd ac 
7fff0000-7fff4000 r--p 00000000 00:00 0                                  [vvar]
VmFlags: rd mr pf io de dd 
7fff4000-7fff6000 r-xp 00000000 00:00 0                                  [vdso]
VmFlags: rd ex mr mw me de sd 
`
	got, err := parseAreas(strings.NewReader(smaps))
	if err != nil {
		t.Fatal(err)
	}
	want := memory.NewSet(
		memory.Span{Start: 0x55d4a000, End: 0x55d6b000}, memory.Span{Start: 0x7f0000001000, End: 0x7f0000003000},
		memory.Span{Start: 0x7ffc0000, End: 0x7ffe0000})
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%v, not %v", got, want)
	}
	for _, line := range []string{"nonsense", "10-20", "10-xy rw-p 0 0 0", "10-20 rw 0 0:0 0"} {
		if _, err := parseAreas(strings.NewReader(line)); err == nil {
			t.Errorf("%q is read", line)
		}
	}
}
