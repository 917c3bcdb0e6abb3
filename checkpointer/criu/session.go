package criu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

// session is what is known of a pod's memory from one checkpoint to the next:
// what its processes have written since the generation that was stored last.
type session struct {
	// busy is held while a checkpoint of the pod is taken, or its memory is in use.
	busy sync.Mutex
	// base is the generation that tasks relate to; 0 means none.
	base  int64
	tasks map[taskID]*task
	// files are those of the base, and nextFiles those of the checkpoint that is being taken.
	files, nextFiles filesBase
	// verifying is whether memory is being compared with a generation.
	verifying bool
	// untracked is set when a tracker turned out to be wrong.
	untracked bool
	// mixed is set when CRIU numbered its images otherwise than was foreseen: it then
	// copies shared memory itself.
	mixed bool
}

// taskID tells a process from a later one of the same number.
type taskID struct {
	pid     int
	started uint64 // in ticks since the boot
}

// task is one process of a pod.
type task struct {
	id        taskID
	container string
	// inner is the process's number in its container.
	inner int
	// tracker is nil where the process cannot be followed.
	tracker track.Tracker
	// changed are the pages that were written since the base, as far as the
	// tracker was asked. Without a base every page counts.
	changed memory.Set
	// based is whether the process's memory is in the base, and pages are all
	// pages that it has there.
	based bool
	pages memory.Set
	// since are the pages that were written since the generation that is being
	// verified.
	since memory.Set
	// next are the pages of the checkpoint that is being taken.
	next memory.Set
}

// find brings the session's tasks in line with the processes of a container. It
// does not follow new ones yet.
func (s *session) find(c *container) ([]*task, error) {
	pids, err := c.group.Procs()
	if err != nil {
		return nil, err
	}
	var found []*task
	for _, pid := range pids {
		id, inner, err := identify(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
		t := s.tasks[id]
		if t == nil {
			t = &task{id: id, container: c.target.Container.Name, inner: inner}
			s.tasks[id] = t
		}
		found = append(found, t)
	}
	return found, nil
}

// forgetOthers ends the tasks that are gone.
func (s *session) forgetOthers(found map[taskID]bool) {
	for id, t := range s.tasks {
		if !found[id] {
			t.close()
			delete(s.tasks, id)
		}
	}
}

// reset forgets the base: all memory counts as changed.
func (s *session) reset() {
	s.base, s.files = 0, filesBase{}
	for _, t := range s.tasks {
		t.based, t.pages, t.changed = false, nil, nil
	}
}

// sealed makes the checkpoint that was taken last the base.
func (s *session) sealed(generation int64) {
	s.base, s.files, s.nextFiles = generation, s.nextFiles, filesBase{}
	for _, t := range s.tasks {
		t.based, t.pages, t.changed = t.tracker != nil, t.next, nil
		if !s.verifying {
			t.since = nil
		}
	}
}

func (s *session) close() {
	for id, t := range s.tasks {
		t.close()
		delete(s.tasks, id)
	}
	s.base, s.files = 0, filesBase{}
}

// follow begins to follow a process, if that is possible and not done yet.
func (t *task) follow(ctx context.Context, method track.Method, log *slog.Logger) {
	if t.tracker != nil || method == track.None {
		return
	}
	tracker, err := track.Attach(ctx, t.id.pid, method)
	if err != nil {
		// All of its memory is then read in the pause, which takes longer and loses nothing.
		log.Debug("process cannot be followed", "container", t.container, "pid", t.id.pid, "err", err)
		return
	}
	// What was written before it was followed is not known.
	t.tracker, t.based = tracker, false
}

func (t *task) close() {
	if t.tracker != nil {
		t.tracker.Close() // the process goes on without it
		t.tracker = nil
	}
}

// look asks the tracker what was written since it was asked last. A tracker that
// fails has lost what it knew: without it all of the process's memory counts as
// written.
func (t *task) look(areas memory.Set) (memory.Set, error) {
	written, err := t.tracker.Written(areas)
	if err != nil {
		t.close()
		return nil, fmt.Errorf("follow what it writes: %w", err)
	}
	t.changed = memory.Union(t.changed, written)
	t.since = memory.Union(t.since, written)
	return written, nil
}

// needed are the pages of a set that the base does not have as they are now.
func (t *task) needed(pages memory.Set) memory.Set {
	if !t.based || t.tracker == nil {
		return pages
	}
	return memory.Union(memory.Intersect(pages, t.changed), memory.Subtract(pages, t.pages))
}

// identify reads what tells a process apart, and its number in the innermost
// process namespace.
func identify(pid int) (id taskID, inner int, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return id, 0, err
	}
	// The name stands in brackets, and may have some itself.
	_, rest, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " ")
	fields := strings.Fields(rest)
	const started = 22 - 3 // counted from the state, which is the third
	if len(fields) <= started {
		return id, 0, fmt.Errorf("its stat file is too short: %q", stat)
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return id, 0, os.ErrNotExist // it has ended, and waits for its parent to look
	}
	id.pid = pid
	if id.started, err = strconv.ParseUint(fields[started], 10, 64); err != nil {
		return id, 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return id, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if numbers, found := strings.CutPrefix(line, "NSpid:"); found {
			fields := strings.Fields(numbers)
			inner, err = strconv.Atoi(fields[len(fields)-1])
			return id, inner, err
		}
	}
	return id, 0, errors.New("its status file names no process numbers")
}

var (
	pageSize = uint64(os.Getpagesize())
	zeroPage = make([]byte, pageSize)
)
