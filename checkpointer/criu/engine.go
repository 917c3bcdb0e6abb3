// Package criu checkpoints the containers of a pod with CRIU so that stock
// runc restores them, and readies what runc needs for that.
//
// A checkpoint is one pause of the whole pod: every container is frozen, CRIU
// dumps each one, what has changed of the pod's files is copied, and only then does
// anything of the pod run again.
package criu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

// arenaBytes bounds the memory that is read into at once.
const arenaBytes = 16 << 30

// pauseLimit bounds a pause. A checkpoint that would take longer is given up, and
// the pod goes on.
const pauseLimit = 20 * time.Second

// errPause ends a pause that takes too long.
var errPause = fmt.Errorf("the pause reached its limit of %v", pauseLimit)

// Engine checkpoints pods of one node and readies their restore.
type Engine struct {
	host   Host
	log    *slog.Logger
	method track.Method

	mu       sync.Mutex
	sessions map[string]*session // by pod UID
	idle     []*track.Arena
}

// Options are what an engine may use.
type Options struct {
	// Tracking is how it finds out what processes write.
	Tracking track.Method
}

// NewEngine returns an engine for the containers of a node.
func NewEngine(host Host, options Options, log *slog.Logger) *Engine {
	return &Engine{host: host, log: log, method: options.Tracking, sessions: map[string]*session{}}
}

// Forget ends what is known of a pod's memory, and lets its processes be.
func (e *Engine) Forget(podUID string) {
	e.mu.Lock()
	s := e.sessions[podUID]
	delete(e.sessions, podUID)
	e.mu.Unlock()
	if s != nil {
		s.busy.Lock()
		defer s.busy.Unlock()
		s.close()
	}
}

// session returns the session of a pod, and an arena for its memory. Release gives
// both back.
func (e *Engine) session(podUID string) (s *session, arena *track.Arena, release func()) {
	e.mu.Lock()
	s = e.sessions[podUID]
	if s == nil {
		s = &session{tasks: map[taskID]*task{}}
		e.sessions[podUID] = s
	}
	e.mu.Unlock()
	s.busy.Lock() // an earlier checkpoint of the pod may still be in use
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.idle); n > 0 {
		arena, e.idle = e.idle[n-1], e.idle[:n-1]
	} else {
		arena = track.NewArena(arenaBytes)
	}
	return s, arena, sync.OnceFunc(func() {
		arena.Reset()
		e.mu.Lock()
		e.idle = append(e.idle, arena)
		e.mu.Unlock()
		s.busy.Unlock()
	})
}

// Checkpoint writes a checkpoint of the pod into dir, which must exist, be
// empty, have the same path on the node as here, and should lie on a tmpfs; all
// but the memory that the processes have for themselves, which is in the Dump.
// Of that memory the Dump has what was written since the checkpoint that was
// sealed last, or with whole all of it. The pod runs again when Checkpoint returns,
// whether it succeeded or not. After an error the caller removes what is in dir;
// else it closes the Dump.
//
// The error is a *NotCheckpointable where a container has to change first.
func (e *Engine) Checkpoint(ctx context.Context, pod PodTarget, dir string, whole bool) (*Dump, error) {
	dump, _, err := e.take(ctx, pod, dir, whole, false)
	return dump, err
}

// take is Checkpoint; with hold the pod stays stopped after a success, and the Hold
// is what keeps it so.
func (e *Engine) take(ctx context.Context, pod PodTarget, dir string, whole, hold bool) (*Dump, *Hold, error) {
	s, arena, release := e.session(pod.UID)
	if whole {
		s.reset()
	}
	var dump *Dump
	var held *Hold
	err := e.host.Run(func() error {
		var err error
		dump, held, err = e.checkpoint(ctx, pod, dir, s, arena, hold)
		return err
	})
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("checkpoint pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	dump.session, dump.release = s, release
	return dump, held, nil
}

func (e *Engine) checkpoint(ctx context.Context, pod PodTarget, dir string, s *session, arena *track.Arena, hold bool) (_ *Dump, held *Hold, err error) {
	if len(pod.Containers) == 0 {
		return nil, nil, errors.New("it has no running container")
	}
	report, err := look(pod)
	if err != nil {
		return nil, nil, err
	}
	dumpers, err := prepare(ctx, pod, dir)
	defer func() {
		for _, d := range dumpers {
			err = errors.Join(err, d.close())
		}
	}()
	if err != nil {
		return nil, nil, err
	}
	folders, err := trees(pod, dumpers, dir)
	if err != nil {
		return nil, nil, err
	}
	files, err := newFilesAhead(dir, s.files, func() error { return context.Cause(ctx) }, e.log)
	if err != nil {
		return nil, nil, err
	}
	defer files.close()
	if err := files.read(ctx, folders, allProcesses(dumpers)); err != nil {
		return nil, nil, err
	}
	for _, d := range dumpers {
		if s.mixed {
			break
		}
		if d.shared, err = readShared(ctx, d.images.Name(), d.group.Procs, s.files.shared); err != nil {
			return nil, nil, fmt.Errorf("container %s: %w", d.name(), err)
		}
	}
	readings, err := e.readAhead(ctx, dumpers, s, arena)
	if err != nil {
		return nil, nil, err
	}

	if pod.Silence != nil {
		if err := pod.Silence(); err != nil {
			return nil, nil, err
		}
	}
	result := &Dump{TakenAt: time.Now(), Base: s.base, Preflight: report}
	if hold {
		held = &Hold{host: e.host}
		defer func() {
			if err != nil {
				err = errors.Join(err, thaw(ctx, dumpers), held.thawAll(ctx)) // whatever it was, the pod goes on
			}
		}()
		if err := held.takeOthers(ctx, pod.Others); err != nil {
			return nil, nil, err
		}
	}
	var captured *capturer
	capture := func(ctx context.Context) error {
		var err error
		if captured, err = captureFiles(ctx, folders, files, allProcesses(dumpers)); err != nil {
			return fmt.Errorf("copy the file changes: %w", err)
		}
		return nil
	}
	readings, err = pause(ctx, dumpers, s, readings, arena, capture, result, held)
	if err != nil {
		s.mixed = s.mixed || errors.Is(err, errSharedMixed)
		return nil, nil, err
	}

	for _, d := range dumpers {
		if err := d.shared.place(ctx); err != nil {
			return nil, nil, fmt.Errorf("container %s: %w", d.name(), err)
		}
	}
	if err := captured.finish(ctx); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(divideIPC(dumpers), dropSharedSizes(pod, dumpers), rearmTimers(dumpers)); err != nil {
		return nil, nil, err
	}
	result.take(readings)
	result.Kept, s.nextFiles = captured.kept, filesBase{files.began, captured.saved, map[uint64]sharedBase{}}
	for _, d := range dumpers {
		kept, err := d.shared.onBase(dir, s.nextFiles.shared)
		if err != nil {
			return nil, nil, err
		}
		result.Kept = append(result.Kept, kept...)
	}
	for _, d := range dumpers {
		part, err := d.measure(result.Memory)
		if err != nil {
			return nil, nil, err
		}
		result.Containers = append(result.Containers, part)
		result.Bytes += part.MemoryBytes
	}
	size, err := sizeOf(dir)
	result.Bytes += size
	if err == nil {
		e.logPause(ctx, pod, result, captured.late, size)
	}
	return result, held, err
}

// longPause is from when on a pause is told at the level of information: clients notice it.
const longPause = time.Second

// logPause tells what the pod was stopped for.
func (e *Engine) logPause(ctx context.Context, pod PodTarget, d *Dump, files, images int64) {
	level := slog.LevelDebug
	if d.Pause >= longPause {
		level = slog.LevelInfo
	}
	e.log.Log(ctx, level, "pod was paused for its checkpoint", "pod", pod.Namespace+"/"+pod.Name, "pause", d.Pause,
		"freeze", d.Phases.Freeze, "images", d.Phases.Images, "memory", d.Phases.Memory, "files", d.Phases.Files, "thaw", d.Phases.Thaw,
		"fileBytes", files, "bytes", images)
}

// look finds out what is in the way of a checkpoint, before anything is stopped.
func look(pod PodTarget) (preflight.Report, error) {
	var targets []preflight.Target
	for _, t := range pod.Containers {
		targets = append(targets, preflight.Target{Name: t.Container.Name, Pid: t.Pid, BundleDir: t.BundleDir, RuncStateDir: t.RuncStateDir})
	}
	report, err := preflight.Look(targets)
	if err != nil || report.Checkpointable() {
		return report, lookFailed(err)
	}
	// What comes and goes while it is looked at can seem to be in the way, as one end of
	// a socket whose other end a new process has.
	again, err := preflight.Look(targets)
	if err != nil {
		return again, lookFailed(err)
	}
	if f := again.Insists(report); f != nil {
		return again, &NotCheckpointable{Container: f.Container, Reason: f.Message(), Hint: f.Hint, Preflight: &again}
	}
	return again.WithoutRefusals(), nil
}

func lookFailed(err error) error {
	if err != nil {
		return fmt.Errorf("look at its processes: %w", err)
	}
	return nil
}

// readAhead follows the pod's processes, and reads what they have written.
func (e *Engine) readAhead(ctx context.Context, dumpers []*dumper, s *session, arena *track.Arena) ([]*reading, error) {
	var readings []*reading
	found := map[taskID]bool{}
	for _, d := range dumpers {
		tasks, err := s.find(d.container)
		if err != nil {
			return nil, err
		}
		for _, t := range tasks {
			found[t.id] = true
			if !s.untracked {
				t.follow(ctx, e.method, e.log)
			}
			readings = append(readings, &reading{task: t})
		}
	}
	s.forgetOthers(found)
	return readings, aheadAll(readings, arena)
}

// pause stops the pod, takes all that has to be of one moment, and lets the pod go
// on, or after a success leaves it to a Hold that is not nil. It returns the readings
// with those of processes that are new.
func pause(ctx context.Context, dumpers []*dumper, s *session, readings []*reading, arena *track.Arena, capture func(context.Context) error, result *Dump, held *Hold) ([]*reading, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pauseLimit, errPause)
	defer cancel()
	begin := result.TakenAt
	lap := func(phase *time.Duration) {
		now := time.Now()
		*phase += now.Sub(begin)
		begin = now
	}
	err := freeze(ctx, dumpers)
	lap(&result.Phases.Freeze)
	if err == nil {
		err = dumpAll(ctx, dumpers, func() error {
			lap(&result.Phases.Images)
			var err error
			if readings, err = late(dumpers, s, readings); err != nil {
				return err
			}
			for _, d := range dumpers {
				if err := errors.Join(finishAll(d, readings, arena), d.shared.finish(ctx)); err != nil {
					return fmt.Errorf("container %s: %w", d.name(), err)
				}
			}
			lap(&result.Phases.Memory)
			if err := capture(ctx); err != nil {
				return err
			}
			lap(&result.Phases.Files)
			return nil
		})
	}
	if err == nil && held != nil {
		err = held.take(ctx, dumpers)
	} else {
		err = errors.Join(err, thaw(ctx, dumpers))
	}
	lap(&result.Phases.Thaw)
	result.Pause = time.Since(result.TakenAt)
	return readings, err
}

// allProcesses returns what lists the processes of all containers.
func allProcesses(dumpers []*dumper) func() ([]int, error) {
	return func() ([]int, error) {
		var all []int
		for _, d := range dumpers {
			pids, err := d.group.Procs()
			if err != nil {
				return nil, err
			}
			all = append(all, pids...)
		}
		return all, nil
	}
}

// late adds the processes that began after memory was read ahead. It forgets what the
// others had in the generation before: one that has ended since has no memory in this one.
func late(dumpers []*dumper, s *session, readings []*reading) ([]*reading, error) {
	known := map[taskID]bool{}
	for _, r := range readings {
		known[r.id], r.next = true, nil
	}
	for _, d := range dumpers {
		tasks, err := s.find(d.container)
		if err != nil {
			return nil, err
		}
		for _, t := range tasks {
			if !known[t.id] {
				readings = append(readings, &reading{task: t})
			}
		}
	}
	return readings, nil
}

// take hands over what was read.
func (d *Dump) take(readings []*reading) {
	for _, r := range readings {
		if len(r.next) > 0 {
			d.Memory = append(d.Memory, memory.Process{Container: r.container, PID: r.inner, Pages: r.next, Fresh: r.fresh})
		}
	}
}

// ThawAll lets containers run that an earlier process has left frozen in the
// middle of a checkpoint. It takes the cgroupsPaths of their OCI
// configurations, and passes over those that are gone.
func (e *Engine) ThawAll(ctx context.Context, cgroupsPaths []string) error {
	return e.host.Run(func() error {
		var errs []error
		for _, path := range cgroupsPaths {
			group, err := cgroup.ForPath(cgroupRoot, path)
			if err == nil {
				err = group.Thaw(ctx)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}
