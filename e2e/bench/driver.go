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
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// This file is all that knows how Lifeboat checkpoints and restores.

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
	at     time.Time
	pause  time.Duration
	phases []phase // of the pause
}

// newEngine returns the engine, and how it finds out what was written.
func newEngine(log *slog.Logger) (engine *criu.Engine, tracking string, err error) {
	return criu.NewEngine(criu.Host{ProcRoot: "/proc", Root: "/"}, log), "none", nil
}

// protect begins to checkpoint a pod.
func protect(engine *criu.Engine, home *peer, pod criu.PodTarget) *lifeboat {
	return &lifeboat{engine: engine, home: home, pod: pod, key: store.Key{Namespace: pod.Namespace, PodUID: pod.UID}}
}

// checkpoint pauses the pod, and takes what is needed to make a generation.
func (l *lifeboat) checkpoint(ctx context.Context) (_ *taken, err error) {
	if err := os.MkdirAll(stagedFolder, 0o700); err != nil {
		return nil, err
	}
	dump, err := l.engine.Checkpoint(ctx, l.pod, stagedFolder)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(stagedFolder))
	}
	t := &taken{dir: stagedFolder, at: dump.TakenAt, pause: dump.Pause}
	for _, c := range dump.Containers {
		t.phases = append(t.phases, phase{"frozen by CRIU", c.Frozen})
	}
	return t, nil
}

// seal makes a generation of what was taken, and keeps the newest two.
func (l *lifeboat) seal(ctx context.Context, t *taken) (store.Generation, error) {
	generation := store.Generation{TakenAt: t.at, PodName: l.pod.Name, Containers: []string{containerName}}
	sealed, err := l.home.store.Seal(ctx, l.key, generation, t.dir, nil)
	return sealed, errors.Join(err, os.RemoveAll(t.dir), l.home.store.Retain(l.key, store.Retention{Count: 2}))
}

// close ends the pod's checkpoints.
func (l *lifeboat) close() error { return l.home.store.Remove(l.key) }

// restoreAnnotations are what a container to be restored needs of its configuration.
func restoreAnnotations() (map[string]string, error) {
	file := filepath.Join(workFolder, "restore.conf")
	if err := os.MkdirAll(workFolder, 0o700); err != nil {
		return nil, err
	}
	return map[string]string{"org.criu.config": file}, criu.WriteRestoreConfig(file)
}

// restored is a container that runs again while its memory is being filled in.
type restored struct {
	lazy  *criu.LazyPages
	from  time.Time
	bytes int64
}

// restore brings a pod's generation back in a container, at a peer: from its own
// store, or, when holder is not nil, from that peer's.
func restore(ctx context.Context, engine *criu.Engine, at, holder *peer, key store.Key, number int64, s *subject) (*restored, error) {
	if holder != nil {
		if err := at.client.Fetch(ctx, holder.address, key, number); err != nil {
			return nil, err
		}
	}
	if err := at.store.Materialize(ctx, key, number, stagedFolder); err != nil {
		return nil, err
	}
	c := s.container
	if err := engine.ApplyFiles(ctx, stagedFolder, c.Name, filepath.Join(c.Bundle, "rootfs"), s.pod.EmptyDirs, s.pod.Shm); err != nil {
		return nil, err
	}
	images := filepath.Join(stagedFolder, c.Name, criu.ImagesDir)
	lazy, err := engine.StartLazyPages(ctx, images, workFolder)
	if err != nil {
		return nil, err
	}
	err = c.Runtime("runc", "restore", "--detach", "--bundle", c.Bundle, "--pid-file", c.PidFile(), "--image-path", images,
		"--work-path", workFolder, "--lazy-pages", "--manage-cgroups-mode", "ignore", c.ID)
	if err != nil {
		lazy.Stop()
		return nil, fmt.Errorf("%w: %s", err, lastErrors(filepath.Join(workFolder, "restore.log")))
	}
	return &restored{lazy: lazy, from: time.Now(), bytes: s.Bytes}, nil
}

// drained waits until all memory is filled in, and returns how many bytes that was,
// and how long it took from the restore on.
func (r *restored) drained() (bytes int64, took time.Duration, err error) {
	err = r.lazy.Wait()
	return r.bytes, time.Since(r.from), errors.Join(err, os.RemoveAll(stagedFolder))
}
