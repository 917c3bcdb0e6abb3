// Package fencetest gives tests pods that a real fencer can freeze, thaw and kill:
// control groups with a process in them, registered as the container runtime does.
package fencetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// CgroupRoot is where the control groups of this machine are.
const CgroupRoot = "/sys/fs/cgroup"

// steps is what the process of a pod does: it adds a byte to a file, again and again.
const steps = `while :; do printf x >> "$1"; sleep 0.02; done`

var pods atomic.Int64

// Pod is a pod of one container, which has a process that takes steps.
type Pod struct {
	// Registration is what the fencer is told of the container.
	Registration client.Registration
	// Group is the pod's control group.
	Group cgroup.Group
	// Container is the container's.
	Container cgroup.Group

	t     *testing.T
	steps string
	ended chan struct{} // closed when the container's first process has ended
}

// Start starts a pod of an epoch. It ends with the test.
func Start(t *testing.T, epoch int64) *Pod {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("run this test as root: it makes, freezes and kills cgroups")
	}
	number := pods.Add(1)
	uid, id := fmt.Sprintf("uid-%d", number), fmt.Sprintf("c%d", number)
	p := &Pod{t: t, steps: filepath.Join(t.TempDir(), "steps"), ended: make(chan struct{}), Registration: client.Registration{
		Container:   client.Container{ID: id, Name: "main", Namespace: "default", PodName: "p-" + id, PodUID: uid},
		CgroupsPath: fmt.Sprintf("/lifeboat-fence-test-%d/pod%s/%s", os.Getpid(), uid, id), Epoch: epoch,
	}}
	var err error
	if p.Container, err = cgroup.ForPath(CgroupRoot, p.Registration.CgroupsPath); err != nil {
		t.Fatal(err)
	}
	p.Group = p.Container.Parent()
	if err := os.MkdirAll(p.Container.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, group := range []cgroup.Group{p.Container, p.Group, p.Group.Parent()} {
			// The last pod's cleanup removes the common parent.
			_ = os.Remove(group.Dir())
		}
	})
	// The shell waits for its input until it is in its group: its children are born there.
	process := exec.Command("/bin/sh", "-c", "read go; "+steps, "sh", p.steps)
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = process.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		if err := p.Group.Kill(context.Background()); err != nil {
			t.Errorf("clean up: %v", err)
		}
		<-p.ended
	})
	if err := os.WriteFile(filepath.Join(p.Container.Dir(), "cgroup.procs"), []byte(strconv.Itoa(process.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := input.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	return p
}

// Register writes the pod's registration into a fencer's folder.
func (p *Pod) Register(folder string) {
	p.t.Helper()
	content, err := json.Marshal(p.Registration)
	if err != nil {
		p.t.Fatal(err)
	}
	containers := filepath.Join(folder, filepath.Base(client.ContainersFolder))
	if err := os.MkdirAll(containers, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(containers, p.Registration.ID+".json"), content, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// Frozen is whether every process of the pod stands still.
func (p *Pod) Frozen() bool {
	frozen, err := p.Group.Frozen()
	if err != nil {
		p.t.Error(err)
	}
	return frozen
}

// Ordered is whether the pod was ordered to stand still: the kernel may still be at it.
func (p *Pod) Ordered() bool {
	file := "freezer.self_freezing"
	if p.Group.IsV2() {
		file = "cgroup.freeze"
	}
	order, err := os.ReadFile(filepath.Join(p.Group.Dir(), file))
	if err != nil {
		p.t.Error(err)
	}
	return strings.TrimSpace(string(order)) == "1"
}

// Alive is whether the container's first process exists.
func (p *Pod) Alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Steps is how many steps the pod has taken.
func (p *Pod) Steps() int64 {
	info, err := os.Stat(p.steps)
	if err != nil {
		return 0
	}
	return info.Size()
}
