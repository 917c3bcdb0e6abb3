package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

const (
	// aheadRounds is how often at most memory is read ahead of a pause.
	aheadRounds = 4
	// aheadEnough is the amount of newly written memory, in bytes, at which
	// reading ahead is of no more use: the pause reads that much in a moment.
	aheadEnough = 1 << 20
)

// reading is the memory of one process on its way into a checkpoint.
type reading struct {
	*task
	// fresh is what was read so far and has not changed since.
	fresh []memory.Stretch
}

// ahead reads what the process has written, while it may go on to write, and
// returns how many bytes it read. What is written meanwhile is found by the next
// call: the tracker is asked before the memory is read.
func (r *reading) ahead(arena *track.Arena) (int64, error) {
	if r.tracker == nil {
		return 0, nil // nothing would tell what is written meanwhile
	}
	areas, err := track.Areas(r.id.pid)
	if err != nil {
		return 0, err
	}
	if err := r.look(areas); err != nil {
		return 0, err
	}
	populated, err := track.Populated(r.id.pid, areas)
	if err != nil {
		return 0, err
	}
	missing := memory.Subtract(r.needed(populated), memory.Addresses(r.fresh))
	return int64(missing.Bytes()), r.read(missing, arena)
}

// look asks the tracker what was written since it was asked last, and drops it
// from what was read.
func (r *reading) look(areas memory.Set) error {
	written, err := r.task.look(areas)
	if err != nil {
		r.fresh = nil
		return err
	}
	r.fresh = memory.Keep(r.fresh, memory.Subtract(memory.Addresses(r.fresh), written))
	return nil
}

// finish reads what is missing of the pages that the images leave out. The
// process is stopped.
func (r *reading) finish(pages memory.Set, arena *track.Arena) error {
	r.next = pages
	if r.tracker != nil {
		areas, err := track.Areas(r.id.pid)
		if err != nil {
			return err
		}
		if err := r.look(areas); err == nil {
			// What is outside of the areas is not followed.
			r.changed = memory.Union(r.changed, memory.Subtract(pages, areas))
			r.fresh = memory.Keep(r.fresh, areas)
		}
	}
	needed := r.needed(pages)
	r.fresh = memory.Keep(r.fresh, needed)
	if err := r.read(memory.Subtract(needed, memory.Addresses(r.fresh)), arena); err != nil {
		return err
	}
	if missing := memory.Subtract(needed, memory.Addresses(r.fresh)); len(missing) > 0 {
		return fmt.Errorf("%d bytes from %x on cannot be read", missing.Bytes(), missing[0].Start)
	}
	return nil
}

func (r *reading) read(pages memory.Set, arena *track.Arena) error {
	if len(pages) == 0 {
		return nil
	}
	read, err := track.Read(r.id.pid, pages, arena)
	if err != nil {
		return err
	}
	r.fresh = memory.Merge(r.fresh, read)
	return nil
}

// aheadAll reads ahead until little is written between two rounds. A process
// that ends meanwhile is passed over.
func aheadAll(readings []*reading, arena *track.Arena) error {
	for range aheadRounds {
		var read int64
		for _, r := range readings {
			n, err := r.ahead(arena)
			if err != nil && !errors.Is(err, track.ErrEnded) && !gone(r.id) {
				return fmt.Errorf("read the memory of process %d of container %s: %w", r.inner, r.container, err)
			}
			read += n
		}
		if read <= aheadEnough {
			return nil
		}
	}
	return nil
}

// gone is whether a process has ended.
func gone(id taskID) bool {
	now, _, err := identify(id.pid)
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || err == nil && now != id
}

// finishAll reads what is missing of all processes of a container whose memory is
// described in its images.
func finishAll(d *dumper, readings []*reading, arena *track.Arena) error {
	byInner := map[int]*reading{}
	for _, r := range readings {
		if r.container == d.name() {
			byInner[r.inner] = r
		}
	}
	for _, file := range d.imageFiles("pagemap-*.img") {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "pagemap-"), ".img")
		inner, err := strconv.Atoi(name)
		if err != nil {
			continue // the image of shared memory
		}
		pages, err := leftOut(file)
		if err != nil {
			return err
		}
		r := byInner[inner]
		if r == nil {
			return fmt.Errorf("the images have a process %d that the container's cgroup does not have", inner)
		}
		if err := r.finish(pages, arena); err != nil {
			return fmt.Errorf("read the memory of process %d: %w", inner, err)
		}
	}
	return nil
}
