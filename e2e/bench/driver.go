package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

// This file is all that knows how Lifeboat checkpoints and restores.

// kept is which generations a store keeps.
var kept = store.Retention{Count: 2}

// lifeboat checkpoints one pod, generation after generation, into a peer's store.
type lifeboat struct {
	engine *criu.Engine
	home   *peer
	pod    criu.PodTarget
	key    store.Key
}

// taken is a checkpoint before it is sealed.
type taken struct {
	dir    string
	dump   *criu.Dump
	pause  time.Duration
	phases []phase // of the pause
}

// newEngine returns the engine, and how it finds out what was written.
func newEngine(log *slog.Logger) (*criu.Engine, string, error) {
	method, err := track.Probe()
	if err != nil {
		return nil, "", err
	}
	return criu.NewEngine(criu.Host{ProcRoot: "/proc", Root: "/"}, criu.Options{Tracking: method}, log), string(method), nil
}

// protect begins to checkpoint a pod.
func protect(engine *criu.Engine, home *peer, pod criu.PodTarget) *lifeboat {
	return &lifeboat{engine: engine, home: home, pod: pod, key: store.Key{Namespace: pod.Namespace, PodUID: pod.UID}}
}

// checkpoint pauses the pod, and takes what is needed to make a generation.
func (l *lifeboat) checkpoint(ctx context.Context) (*taken, error) {
	if err := os.MkdirAll(stagedFolder, 0o700); err != nil {
		return nil, err
	}
	dump, err := l.engine.Checkpoint(ctx, l.pod, stagedFolder, false)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(stagedFolder))
	}
	p := dump.Phases
	return &taken{dir: stagedFolder, dump: dump, pause: dump.Pause, phases: []phase{
		{"freeze", p.Freeze}, {"images", p.Images}, {"memory", p.Memory}, {"files", p.Files}, {"thaw", p.Thaw},
	}}, nil
}

// seal makes a generation of what was taken, and keeps the newest two.
func (l *lifeboat) seal(ctx context.Context, t *taken) (store.Generation, error) {
	defer t.dump.Close()
	generation := store.Generation{TakenAt: t.dump.TakenAt, PodName: l.pod.Name, Containers: []string{containerName}, Base: t.dump.Base}
	sealed, err := l.home.store.Seal(ctx, l.key, generation, t.dir, t.dump.Memory)
	if err == nil {
		t.dump.Sealed(sealed.Number)
	}
	return sealed, errors.Join(err, os.RemoveAll(t.dir), l.home.store.Retain(l.key, kept))
}

// close ends the pod's checkpoints.
func (l *lifeboat) close() error {
	l.engine.Forget(l.pod.UID)
	return l.home.store.Remove(l.key)
}

// restored is a container that runs again while its memory is being filled in.
type restored struct {
	reader *store.Reader
	daemon *pages.Daemon
	clean  func() error
	phases []phase // of the restore, up to the return of the runtime's create
}

// containerMemory is a pages.Source: the memory of the one container.
type containerMemory struct{ *store.Reader }

func (m containerMemory) Chunks() []memory.Chunk { return m.Memory(containerName) }

// restore brings a pod's generation back in a container, at a peer: from its own
// store, or, when holder is not nil, from that peer's.
func restore(ctx context.Context, engine *criu.Engine, at, holder *peer, key store.Key, number int64, s *subject) (_ *restored, err error) {
	laps := newLaps()
	var from store.Segments
	if holder != nil {
		if from, err = at.client.Holder(holder.name, holder.address).Segments(ctx, key, number); err != nil {
			return nil, err
		}
	}
	reader, err := at.store.OpenReader(ctx, key, number, from)
	if err != nil {
		if from != nil {
			err = errors.Join(err, from.Close())
		}
		return nil, err
	}
	c := s.container
	r := &restored{reader: reader, clean: func() error {
		return errors.Join(engine.CleanRestore(stagedFolder, c.Name), os.RemoveAll(stagedFolder), reader.Close())
	}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.clean())
		}
	}()
	laps.end("open")
	if err := reader.Materialize(ctx, stagedFolder); err != nil {
		return nil, err
	}
	laps.end("images")
	if err := engine.ApplyFiles(ctx, stagedFolder, c.Name, filepath.Join(c.Bundle, "rootfs"), s.pod.EmptyDirs, s.pod.Shm); err != nil {
		return nil, err
	}
	config := filepath.Join(workFolder, "restore.conf")
	if err := engine.PrepareRestore(ctx, stagedFolder, c.Name, config, false); err != nil {
		return nil, err
	}
	if err := attempt(func(t nodetest.T) { c.SetCRIUConfig(t, config) }); err != nil {
		return nil, err
	}
	laps.end("files")
	// Not with ctx: it ends with the first answer.
	if r.daemon, err = pages.Start(context.WithoutCancel(ctx), workFolder, containerMemory{reader}, pages.Options{}); err != nil {
		return nil, err
	}
	laps.end("page daemon")
	err = c.Runtime("runc", "restore", "--detach", "--bundle", c.Bundle, "--pid-file", c.PidFile(), "--image-path",
		filepath.Join(stagedFolder, c.Name, criu.ImagesDir), "--work-path", workFolder, "--lazy-pages", "--manage-cgroups-mode", "ignore", c.ID)
	if err != nil {
		r.daemon.Stop()
		return nil, fmt.Errorf("%w: %s", err, lastErrors(filepath.Join(workFolder, "restore.log")))
	}
	laps.end("runc")
	r.phases = laps.phases
	return r, nil
}

// drain is how all memory was filled in.
type drain struct {
	bytes, faults int64
	took          time.Duration // from the restore on
}

// drained waits until all memory is filled in.
func (r *restored) drained() (drain, error) {
	err := r.daemon.Wait()
	s := r.daemon.Stats()
	return drain{s.FaultBytes + s.DrainedBytes, s.Faults, s.Done.Sub(s.Restored)}, errors.Join(err, r.clean())
}
