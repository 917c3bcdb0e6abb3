package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// onEachVersion runs a test on cgroup v1 and on v2, as far as the machine has
// them. A machine with v1 mostly has an empty v2 beside it, which freezes as well.
func onEachVersion(t *testing.T, test func(t *testing.T, cgroupRoot string)) {
	ran := false
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		_, v2, err := hierarchy(root)
		if err != nil {
			continue
		}
		ran = true
		name := "v1"
		if v2 {
			name = "v2"
		}
		t.Run(name, func(t *testing.T) { test(t, root) })
	}
	if !ran {
		t.Fatal("no cgroup hierarchy with a freezer is mounted below /sys/fs/cgroup")
	}
}

// newGroup makes a group for one test in the hierarchy and removes it, with all
// that is in it, at the end of the test.
func newGroup(t *testing.T, cgroupRoot string) Group {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes cgroups and must run as root")
	}
	g, err := ForPath(cgroupRoot, fmt.Sprintf("/lifeboat-test-%d-%d/inner", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(g.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Parent().Kill(context.Background()); err != nil {
			t.Error(err)
		}
		removeTree(t, g.Parent().Dir())
	})
	return g
}

// removeTree removes a group and those below it, from the lowest up. A group
// whose last process has just died is busy for a moment.
func removeTree(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			removeTree(t, filepath.Join(dir, e.Name()))
		}
	}
	until(t, "remove "+dir, func() bool { return !errors.Is(os.Remove(dir), unix.EBUSY) })
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := wait(ctx, func() (bool, error) { return done(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// startCounter runs a shell in the group that counts into a file as fast as it can.
func startCounter(t *testing.T, g Group) (pid int, read func() int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "count")
	script := `echo $$ > "$1/cgroup.procs" || exit 1; i=0; while :; do i=$((i+1)); echo $i > "$2"; done`
	cmd := exec.Command("/bin/sh", "-c", script, "sh", g.Dir(), file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { defer close(exited); cmd.Wait() }()
	t.Cleanup(func() {
		g.Kill(context.Background())
		<-exited
	})
	read = func() int {
		content, _ := os.ReadFile(file)
		n, _ := strconv.Atoi(strings.TrimSpace(string(content)))
		return n
	}
	until(t, "the counter starts", func() bool { return read() > 0 })
	return cmd.Process.Pid, read
}

func TestFreezeStopsAndThawResumes(t *testing.T) { onEachVersion(t, testFreezeStopsAndThawResumes) }

func testFreezeStopsAndThawResumes(t *testing.T, cgroupRoot string) {
	g := newGroup(t, cgroupRoot)
	pid, count := startCounter(t, g)
	ctx := context.Background()

	found, err := ForProcess("/proc", cgroupRoot, pid)
	if err != nil {
		t.Fatal(err)
	}
	if found != g {
		t.Errorf("ForProcess = %v, want %v", found, g)
	}
	for _, group := range []Group{g, g.Parent()} {
		started := time.Now()
		if err := group.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("frozen after %v", time.Since(started))
		if frozen, err := group.Frozen(); err != nil || !frozen {
			t.Fatalf("Frozen = %v, %v", frozen, err)
		}
		before := procTime(t, pid)
		time.Sleep(30 * time.Millisecond)
		if after := procTime(t, pid); after != before {
			t.Errorf("the process used processor time while frozen: %d, then %d ticks", before, after)
		}
		n := count()
		if err := group.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
		if frozen, err := group.Frozen(); err != nil || frozen {
			t.Fatalf("Frozen = %v, %v after Thaw", frozen, err)
		}
		until(t, "the counter goes on", func() bool { return count() > n })
	}
}

// procTime is the processor time of a process, in clock ticks.
func procTime(t *testing.T, pid int) uint64 {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	user, _ := strconv.ParseUint(fields[11], 10, 64)
	system, _ := strconv.ParseUint(fields[12], 10, 64)
	return user + system
}

func TestThawUnderFrozenParentReturns(t *testing.T) {
	onEachVersion(t, testThawUnderFrozenParentReturns)
}

func testThawUnderFrozenParentReturns(t *testing.T, cgroupRoot string) {
	g := newGroup(t, cgroupRoot)
	startCounter(t, g)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := errors.Join(g.Freeze(ctx), g.Parent().Freeze(ctx), g.Thaw(ctx)); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Errorf("Frozen = %v, %v; the parent is still frozen", frozen, err)
	}
	if err := g.Parent().Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || frozen {
		t.Errorf("Frozen = %v, %v after the parent was thawed", frozen, err)
	}
}

func TestFreezeThatIsCancelledLeavesTheGroupThawed(t *testing.T) {
	onEachVersion(t, testFreezeThatIsCancelledLeavesTheGroupThawed)
}

func testFreezeThatIsCancelledLeavesTheGroupThawed(t *testing.T, cgroupRoot string) {
	g := newGroup(t, cgroupRoot)
	_, count := startCounter(t, g)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Freeze(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatalf("Freeze = %v, want %v", err, context.Canceled)
	} else if err == nil {
		// The first look already found it frozen.
		if err := g.Thaw(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	n := count()
	until(t, "the counter goes on", func() bool { return count() > n })
}

func TestKill(t *testing.T) { onEachVersion(t, testKill) }

func testKill(t *testing.T, cgroupRoot string) {
	for name, frozen := range map[string]bool{"running": false, "frozen": true} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, cgroupRoot)
			below := Group{root: g.root, path: g.path + "/deep", v2: g.v2}
			if err := os.Mkdir(below.Dir(), 0o755); err != nil {
				t.Fatal(err)
			}
			pid, _ := startCounter(t, g)
			other, _ := startCounter(t, below)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if frozen {
				if err := errors.Join(below.Freeze(ctx), g.Freeze(ctx)); err != nil {
					t.Fatal(err)
				}
			}
			pids, err := g.Procs()
			if err != nil || len(pids) < 2 {
				t.Fatalf("Procs = %v, %v; want %d and %d among them", pids, err, pid, other)
			}
			if err := g.Kill(ctx); err != nil {
				t.Fatal(err)
			}
			if pids, err := g.Procs(); err != nil || len(pids) != 0 {
				t.Errorf("Procs = %v, %v after Kill", pids, err)
			}
			for _, p := range []int{pid, other} {
				until(t, "the process is gone", func() bool { return errors.Is(syscall.Kill(p, 0), syscall.ESRCH) })
			}
		})
	}
}

func TestGroupThatIsGone(t *testing.T) { onEachVersion(t, testGroupThatIsGone) }

func testGroupThatIsGone(t *testing.T, cgroupRoot string) {
	g, err := ForPath(cgroupRoot, "/lifeboat-test-that-never-was")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if g.Exists() {
		t.Error("Exists = true")
	}
	if err := g.Freeze(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Freeze = %v, want %v", err, fs.ErrNotExist)
	}
	if err := errors.Join(g.Thaw(ctx), g.Kill(ctx)); err != nil {
		t.Error(err)
	}
	if pids, err := g.Procs(); err != nil || len(pids) != 0 {
		t.Errorf("Procs = %v, %v", pids, err)
	}
}

func TestRootIsLeftAlone(t *testing.T) { onEachVersion(t, testRootIsLeftAlone) }

func testRootIsLeftAlone(t *testing.T, cgroupRoot string) {
	g, err := ForPath(cgroupRoot, "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Freeze(context.Background()); err == nil {
		t.Error("Freeze of the root succeeded")
	}
	if err := g.Kill(context.Background()); err == nil {
		t.Error("Kill of the root succeeded")
	}
}

func TestForPath(t *testing.T) {
	tests := map[string]struct {
		path, want string
		wrong      bool
	}{
		"cgroupfs":        {path: "/kubepods/besteffort/pod1/c1", want: "/kubepods/besteffort/pod1/c1"},
		"relative":        {path: "kubepods/c1", want: "/kubepods/c1"},
		"climbs out":      {path: "/../../etc", want: "/etc"},
		"systemd":         {path: "kubepods-besteffort-pod1.slice:cri-containerd:abc", want: "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-abc.scope"},
		"systemd default": {path: ":runc:abc", want: "/system.slice/runc-abc.scope"},
		"systemd root":    {path: "-.slice::abc", want: "/abc.scope"},
		"empty":           {wrong: true},
		"bad slice":       {path: "a--b.slice:x:y", wrong: true},
		"no slice":        {path: "a:x:y", wrong: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g, err := ForPath("/sys/fs/cgroup", test.path)
			if (err != nil) != test.wrong {
				t.Fatalf("ForPath(%q): %v", test.path, err)
			}
			if diff := cmp.Diff(test.want, g.Path()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPathInLine(t *testing.T) {
	tests := map[string]struct {
		line  string
		v2    bool
		want  string
		found bool
	}{
		"v1":               {line: "6:freezer:/a/b", want: "/a/b", found: true},
		"v1 joined":        {line: "6:cpu,freezer:/a", want: "/a", found: true},
		"v1 other":         {line: "4:memory:/a"},
		"v1 sees no v2":    {line: "0::/a"},
		"v2":               {line: "0::/a:b", v2: true, want: "/a:b", found: true},
		"v2 sees no v1":    {line: "6:freezer:/a", v2: true},
		"v1 named freezer": {line: "9:name=freezer:/a"},
		"empty":            {line: ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, found := pathInLine(test.line, test.v2)
			if got != test.want || found != test.found {
				t.Errorf("pathInLine = %q, %v; want %q, %v", got, found, test.want, test.found)
			}
		})
	}
}
