package criu

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

func TestMain(m *testing.M) { nodetest.Main(m, workloads) }

// engines are those of the tests that run, by their names.
var engines sync.Map

// newEngine is the engine of a test: its processes can be followed by one alone.
func newEngine(t *testing.T) *Engine {
	method, err := track.Probe()
	if err != nil {
		t.Fatal(err)
	}
	e := NewEngine(Host{ProcRoot: "/proc", Root: "/"}, Options{Tracking: method}, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	known, loaded := engines.LoadOrStore(t.Name(), e)
	if !loaded {
		t.Cleanup(func() { engines.Delete(t.Name()) })
	}
	return known.(*Engine)
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

// taken is a checkpoint that a test has taken.
type taken struct {
	dir    string
	dump   *Dump
	memory nodetest.Memory
}

// checkpoint takes a checkpoint of running containers.
func checkpoint(t *testing.T, p *nodetest.Pod, containers ...*nodetest.Container) *taken {
	t.Helper()
	c := &taken{dir: t.TempDir()}
	var err error
	c.dump, err = newEngine(t).Checkpoint(context.Background(), targetOf(t, p, containers...), c.dir, false)
	if err == nil {
		err = c.memory.Take(c.dump.Memory)
		defer c.dump.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("paused %v, %+v, for %d bytes; %+v", c.dump.Pause, c.dump.Phases, c.dump.Bytes, c.dump.Containers)
	return c
}

// restore restores one container of a checkpoint with stock runc. The first of
// a pod brings the pod's files.
func restore(t *testing.T, from *taken, c *nodetest.Container, first bool) {
	t.Helper()
	e := newEngine(t)
	volumes, shm := c.Pod.EmptyDirs, c.Pod.Shm
	if !first {
		volumes, shm = nil, ""
	}
	ctx := t.Context()
	if err := e.ApplyFiles(ctx, from.dir, c.Name, filepath.Join(c.Bundle, "rootfs"), volumes, shm); err != nil {
		t.Fatal(err)
	}
	images, work := filepath.Join(from.dir, c.Name, ImagesDir), t.TempDir()
	config := filepath.Join(work, "restore.conf")
	if err := e.PrepareRestore(ctx, from.dir, c.Name, config, false); err != nil {
		t.Fatal(err)
	}
	c.SetCRIUConfig(t, config)
	daemon, err := pages.Start(ctx, work, from.memory.Of(c.Name), pages.Options{})
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
	if err := errors.Join(daemon.Wait(), e.CleanRestore(from.dir, c.Name)); err != nil {
		t.Error(err)
	}
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
	from := checkpoint(t, source, c)
	nodetest.Eventually(t, 5*time.Second, "the source goes on", func() bool { return number(t, c.Output.Last("count ")) > before+20 })
	c.Delete(t)

	goal := nodetest.NewPod(t, "counter-0", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"counter"}})
	restore(t, from, r, true)
	r.Output.WaitFor(t, "count ")
	if first := number(t, strings.TrimPrefix(r.Output.Lines()[0], "count ")); first < before {
		t.Errorf("the count goes on at %d, but was at %d before the checkpoint", first, before)
	}
}
