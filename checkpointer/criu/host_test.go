package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

func init() {
	workloads["checkpointer"] = checkpointer
}

// staged is a folder that has the same path in both mount namespaces below.
const staged = "/run/lifeboat/staged"

// checkpointer takes a checkpoint from a mount namespace in which the node's
// containers cannot be seen, as in a pod, and readies its restore.
func checkpointer(args []string) {
	for _, hidden := range []string{"/run/containerd", "/usr/sbin", "/sys/fs/cgroup", nodetest.Disk} {
		check(unix.Mount("hidden", hidden, "tmpfs", 0, ""))
	}
	e := NewEngine(Host{ProcRoot: "/proc", Root: "/proc/1/root", EnterMountNS: true}, Options{Tracking: track.None}, slog.Default())
	var job struct {
		Pod               *PodTarget
		Container, Rootfs string
		Work, Config      string
		EmptyDirs         map[string]string
		Shm               string
	}
	check(json.Unmarshal([]byte(args[0]), &job))
	ctx := context.Background()
	if job.Pod != nil {
		dump := must(e.Checkpoint(ctx, *job.Pod, staged, false))
		check(os.WriteFile(staged+"/memory.json", must(json.Marshal(dump.Memory)), 0o600))
		fmt.Println("paused", dump.Pause, "bytes", dump.Bytes)
		return
	}
	var processes []memory.Process
	check(json.Unmarshal(must(os.ReadFile(staged+"/memory.json")), &processes))
	var kept nodetest.Memory
	check(kept.Take(processes))
	check(e.ApplyFiles(ctx, staged, job.Container, job.Rootfs, job.EmptyDirs, job.Shm))
	check(e.PrepareRestore(ctx, staged, job.Container, job.Config, false))
	daemon := must(pages.Start(ctx, job.Work, kept.Of(job.Container), pages.Options{}))
	fmt.Println("listening")
	check(daemon.Wait())
	check(e.CleanRestore(staged, job.Container))
	fmt.Println("filled in")
}

// asCheckpointer runs the workload above in a mount namespace of its own.
func asCheckpointer(t *testing.T, job map[string]any) *exec.Cmd {
	t.Helper()
	raw, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nodetest.Program, "lifeboat-workload", "checkpointer", string(raw))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	return cmd
}

func TestFromAnotherMountNamespace(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	for _, dir := range []string{staged, "/run/lifeboat/work"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "counter")
	before := number(t, c.Output.WaitFor(t, "count "))
	output, err := asCheckpointer(t, map[string]any{"Pod": targetOf(t, source, c)}).CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Fatal(err)
	}
	c.Delete(t)

	goal := nodetest.NewPod(t, "pod", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"counter"}})
	images := filepath.Join(staged, "main", ImagesDir)
	daemon := asCheckpointer(t, map[string]any{
		"Container": "main", "Rootfs": filepath.Join(r.Bundle, "rootfs"), "EmptyDirs": goal.EmptyDirs, "Shm": goal.Shm,
		"Work": "/run/lifeboat/work", "Config": "/run/lifeboat/work/restore.conf",
	})
	r.SetCRIUConfig(t, "/run/lifeboat/work/restore.conf")
	lines := new(nodetest.Output)
	if daemon.Stdout, err = lines.Pipe(); err != nil {
		t.Fatal(err)
	}
	daemon.Stderr = daemon.Stdout
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	lines.WaitFor(t, "listening")
	err = r.Runtime("runc", "restore", "--detach", "--bundle", r.Bundle, "--pid-file", r.PidFile(), "--image-path", images,
		"--work-path", "/run/lifeboat/work", "--lazy-pages", r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if first := number(t, r.Output.WaitFor(t, "count ")); first < before {
		t.Errorf("the count goes on at %d, but was at %d", first, before)
	}
	lines.WaitFor(t, "filled in")
	if err := daemon.Wait(); err != nil {
		t.Error(err)
	}
}

func TestThawAllAfterACrash(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "counter")
	c.Output.WaitFor(t, "count ")
	group, err := cgroup.ForPath(cgroupRoot, c.CgroupsPath())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := group.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if err := newEngine(t).ThawAll(ctx, []string{"/kubepods/gone/c0", c.CgroupsPath()}); err != nil {
		t.Error(err)
	}
	thawed(t, c)
}

func TestRestrictedContainerIsRestored(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	spec := nodetest.Spec{Args: []string{"memory"}, Restricted: true, UID: 1000}
	if !mayReadLimits(t) {
		// CRIU reads the limits of every process, which without that
		// capability is allowed for those of its own user alone.
		t.Log("this machine lacks CAP_SYS_RESOURCE: the container runs as user 0")
		spec.UID = 0
	}
	c := source.NewContainer(t, "c1", "main", spec)
	c.Start(t)
	c.Output.WaitFor(t, "checked")
	from := checkpoint(t, source, c)
	c.Delete(t)
	goal := nodetest.NewPod(t, "pod", "2")
	r := goal.NewContainer(t, "r1", "main", spec)
	restore(t, from, r, true)
	r.Output.WaitFor(t, "checked")
	noErrors(t, r)
	masked := fmt.Sprintf("/proc/%d/root/sys/firmware", r.Pid(t))
	if entries, err := os.ReadDir(masked); err != nil || len(entries) > 0 {
		t.Errorf("a masked folder holds %v, %v", entries, err)
	}
	if err := os.WriteFile(masked+"/new", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a masked folder can be written to: %v", err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Pid(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t", spec.UID), "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the restored process has no %q", want)
		}
	}
}

// mayReadLimits is whether this process has CAP_SYS_RESOURCE.
func mayReadLimits(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// Whenever the checkpointer is killed, the next one finds the container whole: CRIU
// takes its code out of the processes when nobody is there to answer it, and what
// is left frozen is thawed.
func TestCheckpointerKilledDuringThePause(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	if err := os.MkdirAll(staged, 0o700); err != nil {
		t.Fatal(err)
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "memory")
	c.Output.WaitFor(t, "ready")
	ctx := t.Context()
	frozen := 0
	for after := 10 * time.Millisecond; after < 250*time.Millisecond; after += 12 * time.Millisecond {
		if err := errors.Join(os.RemoveAll(staged), os.Mkdir(staged, 0o700)); err != nil {
			t.Fatal(err)
		}
		cmd := asCheckpointer(t, map[string]any{"Pod": targetOf(t, source, c)})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		select { // no condition: any moment is as good as another
		case <-ctx.Done():
		case <-time.After(after):
		}
		cmd.Process.Kill()
		cmd.Wait()
		nodetest.Eventually(t, 20*time.Second, "CRIU has let go", func() bool { return len(running(t, "criu")) == 0 })
		group, err := cgroup.ForPath(cgroupRoot, c.CgroupsPath())
		if err != nil {
			t.Fatal(err)
		}
		if is, err := group.Frozen(); err != nil {
			t.Fatal(err)
		} else if is {
			frozen++
		}
		if err := newEngine(t).ThawAll(ctx, []string{c.CgroupsPath()}); err != nil {
			t.Fatal(err)
		}
		seen := len(c.Output.Lines())
		nodetest.Eventually(t, 10*time.Second, fmt.Sprintf("the container goes on after a kill at %v", after), func() bool { return len(c.Output.Lines()) > seen+1 })
	}
	if frozen == 0 {
		t.Error("no kill came during a pause: this has shown nothing")
	}
	noErrors(t, c)
	from := checkpoint(t, source, c)
	c.Delete(t)
	goal := nodetest.NewPod(t, "pod", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"memory"}})
	restore(t, from, r, true)
	nodetest.Eventually(t, 10*time.Second, "the restored container goes on", func() bool { return len(r.Output.Lines()) > 2 })
	noErrors(t, r)
}

// running lists the processes of a name in this node.
func running(t *testing.T, name string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if comm, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(comm)) == name {
			pids = append(pids, file)
		}
	}
	return pids
}
