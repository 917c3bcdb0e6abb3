package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// softDirty follows a process with the kernel's soft-dirty bits, which say what was
// written since they were cleared. Only one can do so at a time, for they are
// cleared for the whole process; CRIU's own memory tracking clears them too.
// Of a huge page all counts as written when some of it is.
type softDirty struct {
	process *process
	// followed are the areas whose bits are exact since the last look.
	followed memory.Set
	// alone is whether nothing writes to the areas while they are looked at.
	alone bool
}

func attachSoftDirty(p *process) (*softDirty, error) {
	file, err := p.file("clear_refs", os.O_WRONLY)
	if err != nil {
		return nil, err
	}
	return &softDirty{process: p}, file.Close()
}

// Written implements Tracker.
//
// The bits are read and cleared in two steps, and what a process writes in
// between would be lost. So it must not run in between: a process that is not
// frozen or stopped already is stopped for that moment. One that can be stopped
// in no way (a debugger has it) is believed nothing: all its pages count as written the
// next time as well.
func (s *softDirty) Written(areas memory.Set) (memory.Set, error) {
	found, err := s.look(areas)
	if err != nil {
		s.followed = nil
		return nil, fmt.Errorf("find what process %d has written: %w", s.process.pid, err)
	}
	return found, nil
}

func (s *softDirty) look(areas memory.Set) (memory.Set, error) {
	pages, err := s.process.pagemap()
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	known := memory.Intersect(areas, s.followed)
	s.followed = nil
	var dirty memory.Set
	readAndClear := func() error {
		var err error
		if dirty, err = pages.softDirty(known); err != nil {
			return err
		}
		return s.clear()
	}
	still := true
	if s.alone || len(known) == 0 {
		err = readAndClear() // there is nothing to lose
	} else {
		still, err = whileStill(s.process, readAndClear)
	}
	if err != nil {
		return nil, err
	}
	// Of areas that were not followed all pages count, after the bits are cleared:
	// what is written from now on is found again.
	fresh, err := pages.populated(memory.Subtract(areas, known))
	if err != nil {
		return nil, err
	}
	if still {
		s.followed = areas
	}
	return memory.Union(dirty, fresh), nil
}

func (s *softDirty) clear() error {
	file, err := s.process.file("clear_refs", os.O_WRONLY)
	if err != nil {
		return err
	}
	const softDirtyBits = "4"
	_, err = file.WriteString(softDirtyBits)
	return errors.Join(err, file.Close())
}

// Close implements Tracker.
func (s *softDirty) Close() error { return s.process.Close() }

// whileStill calls do while no thread of a process runs, and returns whether that was so.
func whileStill(p *process, do func() error) (bool, error) {
	if isStill(p.pid) {
		return true, do()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	var stopErr, doErr error
	done := make(chan struct{})
	onTracer(func() {
		defer close(done)
		s, err := stop(ctx, p, 0)
		if err != nil {
			stopErr = err
			return
		}
		doErr = errors.Join(do(), s.resume())
	})
	<-done
	if stopErr == nil {
		return true, doErr
	}
	if err := p.alive(); err != nil {
		return false, err
	}
	// It may have been frozen just now.
	return isStill(p.pid), do()
}

// cgroupRoot is where the cgroups of the node are.
const cgroupRoot = "/sys/fs/cgroup"

// isStill is whether a process is frozen by its cgroup, or all its threads are stopped by somebody.
func isStill(pid int) bool {
	if group, err := cgroup.ForProcess("/proc", cgroupRoot, pid); err == nil && !group.IsRoot() {
		if frozen, err := group.Frozen(); err == nil && frozen {
			return true
		}
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false
	}
	for _, entry := range entries {
		tid, err := strconv.Atoi(entry.Name())
		if state := readStat(pid, tid).state; err != nil || state != "T" && state != "t" {
			return false
		}
	}
	return len(entries) > 0
}
