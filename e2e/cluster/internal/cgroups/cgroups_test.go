package cgroups

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseMountinfo(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []Hierarchy
	}{
		"version 2": {
			"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			[]Hierarchy{{Mount: "/sys/fs/cgroup", V2: true}},
		},
		"version 1 with shared and named hierarchies, and the hybrid's version 2": {
			`31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`,
			[]Hierarchy{
				{Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
				{Mount: "/sys/fs/cgroup/systemd", Options: "none,name=systemd"},
				{Mount: "/sys/fs/cgroup/unified", V2: true},
			},
		},
		"a second mount of a hierarchy, and one elsewhere": {
			`32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:29 / /sys/fs/cgroup/again rw - cgroup cgroup rw,memory
41 31 0:30 / /mnt/pids rw - cgroup cgroup rw,pids
`,
			[]Hierarchy{{Mount: "/sys/fs/cgroup/memory", Options: "memory"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseMountinfo(strings.NewReader(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGroup(t *testing.T) {
	if testing.Short() {
		t.Skip("makes control groups: not with -short")
	}
	parent := fmt.Sprintf("lifeboat-test-%d", os.Getpid())
	group, err := New(parent + "/child")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := New(parent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := whole.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := group.Create(); err != nil {
		t.Fatal(err)
	}
	inside, outside := exec.Command("sleep", "100"), exec.Command("sleep", "100")
	for _, cmd := range []*exec.Cmd{inside, outside} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if err := outside.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = outside.Wait() // it tells that it was killed
	}()
	if err := group.Add(inside.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if got, err := whole.Processes(); err != nil || len(got) != 1 || got[0] != inside.Process.Pid {
		t.Errorf("processes %v (%v), want %d alone", got, err, inside.Process.Pid)
	}
	// A frozen process does not die of SIGKILL on version 1.
	if err := group.Freeze(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- inside.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := whole.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the process in the group was not killed")
	}
	if err := outside.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process outside the group: %v", err)
	}
	if left := mustDirs(t, whole); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := whole.Destroy(ctx); err != nil {
		t.Errorf("second Destroy: %v", err)
	}
}

func mustDirs(t *testing.T, g Group) []string {
	t.Helper()
	dirs, err := g.Dirs()
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func TestNewRefusesOtherPaths(t *testing.T) {
	for _, path := range []string{"", "/", "/a", "..", "../a", "a/../..", "a//b", "."} {
		if _, err := New(path); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
}
