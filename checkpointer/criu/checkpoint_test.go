package criu

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m, workloads) }

func newEngine(t *testing.T) *Engine {
	return NewEngine(Host{ProcRoot: "/proc", Root: "/"}, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

func targetOf(t *testing.T, p *nodetest.Pod, containers ...*nodetest.Container) PodTarget {
	target := PodTarget{Namespace: p.Namespace, Name: p.Name, UID: p.UID, EmptyDirs: p.EmptyDirs, ShmDir: p.Shm, Hostname: p.Name}
	for _, c := range containers {
		target.Containers = append(target.Containers, Target{
			Container:    client.Container{ID: c.ID, Name: c.Name, Namespace: p.Namespace, PodName: p.Name, PodUID: p.UID, SandboxID: p.SandboxID},
			Pid:          c.Pid(t),
			BundleDir:    c.Bundle,
			RuncStateDir: filepath.Join(nodetest.RuncRoot, c.ID),
		})
	}
	return target
}

// checkpoint takes a checkpoint of running containers.
func checkpoint(t *testing.T, p *nodetest.Pod, containers ...*nodetest.Container) (string, Dump) {
	t.Helper()
	dir := t.TempDir()
	dump, err := newEngine(t).Checkpoint(context.Background(), targetOf(t, p, containers...), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("paused %v for %d bytes; %+v", dump.Pause, dump.Bytes, dump.Containers)
	return dir, dump
}

// restore restores one container of a checkpoint with stock runc. The first of
// a pod brings the pod's files.
func restore(t *testing.T, dir string, c *nodetest.Container, first bool) {
	t.Helper()
	e := newEngine(t)
	volumes, shm := c.Pod.EmptyDirs, c.Pod.Shm
	if !first {
		volumes, shm = nil, ""
	}
	if err := e.ApplyFiles(context.Background(), dir, c.Name, filepath.Join(c.Bundle, "rootfs"), volumes, shm); err != nil {
		t.Fatal(err)
	}
	images, work := filepath.Join(dir, c.Name, ImagesDir), t.TempDir()
	lazy, err := e.StartLazyPages(context.Background(), images, work)
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	err = c.Runtime("runc", "restore", "--detach", "--bundle", c.Bundle, "--pid-file", c.PidFile(), "--image-path", images,
		"--work-path", work, "--lazy-pages", "--manage-cgroups-mode", "ignore", c.ID)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(work, "restore.log"))
		t.Fatalf("%v\n%s", err, log)
	}
	t.Logf("restored in %v", time.Since(started))
	if err := lazy.Wait(); err != nil {
		t.Error(err)
	}
}

// restoreConfigAnnotation makes runc restore with a file of WriteRestoreConfig.
func restoreConfigAnnotation(t *testing.T) map[string]string {
	file := filepath.Join(t.TempDir(), "restore.conf")
	if err := WriteRestoreConfig(file); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"org.criu.config": file}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCounterGoesOnAfterRestore(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "counter-0", "1")
	c := source.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"counter"}})
	c.Start(t)
	before := number(t, c.Output.WaitFor(t, "count "))
	dir, _ := checkpoint(t, source, c)
	nodetest.Eventually(t, 5*time.Second, "the source goes on", func() bool { return number(t, c.Output.Last("count ")) > before+20 })
	c.Delete(t)

	goal := nodetest.NewPod(t, "counter-0", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"counter"}, Annotations: restoreConfigAnnotation(t)})
	restore(t, dir, r, true)
	r.Output.WaitFor(t, "count ")
	if first := number(t, strings.TrimPrefix(r.Output.Lines()[0], "count ")); first < before {
		t.Errorf("the count goes on at %d, but was at %d before the checkpoint", first, before)
	}
}
