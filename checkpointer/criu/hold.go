package criu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
)

// settleTime bounds how long the threads take from CRIU's stop to the freezer's.
const settleTime = 2 * time.Second

// errRan means that a pod which was to stand still since its last checkpoint has run.
var errRan = errors.New("it ran after its last checkpoint: something else has let it go on")

// Hold is a pod that stands still since its last checkpoint. Either Kill or Release
// ends it.
type Hold struct {
	host   Host
	groups []cgroup.Group
	// ran is the processor time of each thread when the checkpoint was complete.
	ran map[thread]uint64
}

// thread is one thread of the pod; its number may be given again.
type thread struct {
	number  int
	started uint64
}

// CheckpointAndHold is Checkpoint, but that the pod does not run again after a success.
// After an error it does. The caller closes the Dump, and ends the Hold.
func (e *Engine) CheckpointAndHold(ctx context.Context, pod PodTarget, dir string, whole bool) (*Dump, *Hold, error) {
	return e.take(ctx, pod, dir, whole, true)
}

// Hold stops a pod without a checkpoint. After an error it runs. The caller ends the Hold.
func (e *Engine) Hold(ctx context.Context, pod PodTarget) (*Hold, error) {
	if len(pod.Containers) == 0 {
		return nil, fmt.Errorf("stop pod %s/%s: it has no running container", pod.Namespace, pod.Name)
	}
	var folders []string
	for _, c := range pod.Containers {
		folders = append(folders, c.RuncStateDir)
	}
	hold := &Hold{host: e.host}
	err := e.host.Run(func() error {
		err := hold.takeOthers(ctx, pod.Others)
		others := len(hold.groups)
		if err == nil {
			err = hold.takeOthers(ctx, folders)
		}
		if err == nil && len(hold.groups) != others+len(folders) {
			err = errors.New("one of its containers has just ended")
		}
		if err == nil {
			err = hold.settle(ctx)
		}
		if err != nil {
			err = errors.Join(err, hold.thawAll(ctx))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("stop pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return hold, nil
}

// takeOthers stops containers that CRIU does not, as those that are no part of a checkpoint:
// they may write to the pod's volumes, too. One that has ended meanwhile needs no stop. It
// must run within Host.Run, and be followed by thawAll after an error.
func (h *Hold) takeOthers(ctx context.Context, runcStates []string) error {
	for _, folder := range runcStates {
		var state runcState
		err := readJSON(filepath.Join(folder, "state.json"), &state)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read runc's state of a container: %w", err)
		}
		group, err := state.group()
		if err != nil {
			return err
		}
		if !group.Exists() {
			continue
		}
		h.groups = append(h.groups, group)
		if err := group.Freeze(ctx); err != nil {
			return fmt.Errorf("stop a container: %w", err)
		}
	}
	return nil
}

// thawAll lets all that is held run, also when ctx has ended.
func (h *Hold) thawAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTime)
	defer cancel()
	var errs []error
	for _, group := range h.groups {
		errs = append(errs, group.Thaw(ctx))
	}
	return errors.Join(errs...)
}

// take begins the hold of what CRIU has just let go of, in groups that are frozen. It
// must run within Host.Run. Each thread is still to be seen on its way from CRIU's
// stop to the freezer's, on which it runs nothing of its own.
func (h *Hold) take(ctx context.Context, dumpers []*dumper) error {
	for _, d := range dumpers {
		h.groups = append(h.groups, d.group)
		if err := d.group.Freeze(ctx); err != nil {
			return err
		}
	}
	return h.settle(ctx)
}

// settle waits until the threads of all groups, which are frozen, are at rest, and notes
// how long each has run.
func (h *Hold) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		var settled bool
		var err error
		if h.ran, settled, err = processorTimes(h.groups); err != nil {
			return err
		}
		if settled {
			return h.frozen()
		}
		select {
		case <-ctx.Done():
			return errors.New("its threads do not come to rest after the checkpoint")
		case <-time.After(time.Millisecond):
		}
	}
}

// Still returns an error unless nothing of the pod has run since its checkpoint: its
// groups are frozen, and no thread has come, gone, or had a processor. The freezer's
// state alone would not tell that somebody has thawed the pod for a moment.
func (h *Hold) Still() error {
	return h.host.Run(func() error {
		if err := h.frozen(); err != nil {
			return err
		}
		now, _, err := processorTimes(h.groups)
		if err != nil {
			return err
		}
		if len(now) != len(h.ran) {
			return fmt.Errorf("%w: it had %d threads and has %d", errRan, len(h.ran), len(now))
		}
		for t, ran := range now {
			if before, known := h.ran[t]; !known || before != ran {
				return fmt.Errorf("%w: thread %d has had %d ns of processor time more", errRan, t.number, ran-before)
			}
		}
		return nil
	})
}

func (h *Hold) frozen() error {
	for _, group := range h.groups {
		frozen, err := group.Frozen()
		if err != nil {
			return err
		}
		if !frozen {
			return fmt.Errorf("%w: %s is not frozen", errRan, group)
		}
	}
	return nil
}

// Kill ends every process of the pod's containers while it is frozen, so that none of
// them runs once more, and returns when none is left. It may be called again.
func (h *Hold) Kill(ctx context.Context) error {
	return h.host.Run(func() error { return killAll(ctx, h.groups) })
}

// Release lets the pod run again.
func (h *Hold) Release(ctx context.Context) error {
	return h.host.Run(func() error {
		var errs []error
		for _, group := range h.groups {
			errs = append(errs, group.Thaw(ctx))
		}
		return errors.Join(errs...)
	})
}

// Cgroups are the groups that are held, as KillAll takes them.
func (h *Hold) Cgroups() []string {
	var paths []string
	for _, group := range h.groups {
		paths = append(paths, group.Path())
	}
	return paths
}

// KillAll ends every process of containers that an earlier process held and did not
// live to kill. It takes what Cgroups returned; those that are gone count as killed.
func (e *Engine) KillAll(ctx context.Context, cgroups []string) error {
	return e.host.Run(func() error {
		var groups []cgroup.Group
		for _, path := range cgroups {
			group, err := cgroup.ForPath(cgroupRoot, path)
			if err != nil {
				return err
			}
			groups = append(groups, group)
		}
		return killAll(ctx, groups)
	})
}

func killAll(ctx context.Context, groups []cgroup.Group) error {
	var errs []error
	for _, group := range groups {
		errs = append(errs, group.Kill(ctx))
	}
	return errors.Join(errs...)
}

// processorTimes reads how long each thread of the groups has run, in nanoseconds, and
// whether all are at rest. A process that has ended, and waits for its parent to look,
// does not run.
func processorTimes(groups []cgroup.Group) (times map[thread]uint64, settled bool, err error) {
	times, settled = map[thread]uint64{}, true
	for _, group := range groups {
		pids, err := group.Procs()
		if err != nil {
			return nil, false, err
		}
		for _, pid := range pids {
			id, _, err := identify(pid)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue
			}
			rests := false
			if err == nil {
				rests, err = threadTimes(id, times)
			}
			if err != nil {
				return nil, false, fmt.Errorf("read the processor time of process %d: %w", pid, err)
			}
			settled = settled && rests
		}
	}
	return times, settled, nil
}

// threadTimes adds the threads of a process, and says whether all of them are at rest.
func threadTimes(process taskID, into map[thread]uint64) (rest bool, err error) {
	tasks := fmt.Sprintf("/proc/%d/task", process.pid)
	entries, err := os.ReadDir(tasks)
	if err != nil {
		return false, err
	}
	rest = true
	for _, entry := range entries {
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			return false, err
		}
		stat, err := os.ReadFile(filepath.Join(tasks, entry.Name(), "stat"))
		if err != nil {
			return false, err
		}
		// Runnable, or still stopped by CRIU: the state follows the name in brackets.
		if _, state, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " "); strings.ContainsAny(state[:min(1, len(state))], "Rt") {
			rest = false
		}
		// Its first number is the time on a processor. A kernel without it leaves the
		// freezer's state to tell.
		content, err := os.ReadFile(filepath.Join(tasks, entry.Name(), "schedstat"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		var ran uint64
		if first, _, found := strings.Cut(string(content), " "); found {
			if ran, err = strconv.ParseUint(first, 10, 64); err != nil {
				return false, err
			}
		}
		into[thread{number: number, started: process.started}] = ran
	}
	return rest, nil
}
