package criu

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// inode names a file on the node, whatever its names are.
type inode struct{ device, number uint64 }

// stamp tells a file's content from what it is after any later write. The kernel
// sets changed, which is ctime, whenever it changes a file, and no program can set
// it; so the other times matter less.
type stamp struct {
	inode
	size              int64
	modified, changed int64 // in nanoseconds since 1970
}

func stampOf(stat *unix.Stat_t) stamp {
	return stamp{inode{stat.Dev, stat.Ino}, stat.Size, stat.Mtim.Nano(), stat.Ctim.Nano()}
}

const (
	// settledAge is how old a file's last change must be when its content is read, so
	// that every later change gives it another time. A file system may keep whole
	// seconds; the rest is for steps of the clock that are too small to be noticed, and
	// for a direct write that has got its time and is still on its way to the disk.
	settledAge = 2 * time.Second
	// stepTolerance is the step back of the clock that goes unnoticed.
	stepTolerance = 500 * time.Millisecond
)

// moment is a point in time.
type moment struct {
	// wall is the time that a file gets which is changed now, in nanoseconds since
	// 1970: that of the clock's last tick, however long ago that is.
	wall int64
	// ahead is by how much the wall clock is ahead of the clock that nobody can set. It
	// changes only when the clock is set.
	ahead int64
}

// clock reads the time.
func clock() (moment, error) {
	var times [3]unix.Timespec
	for i, id := range []int32{unix.CLOCK_REALTIME_COARSE, unix.CLOCK_REALTIME, unix.CLOCK_BOOTTIME} {
		if err := unix.ClockGettime(id, &times[i]); err != nil {
			return moment{}, fmt.Errorf("read the clock: %w", err)
		}
	}
	return moment{wall: times[0].Nano(), ahead: times[1].Nano() - times[2].Nano()}, nil
}

// settled is whether a file that is read at m, or later, has another stamp after
// every change that comes later than m, where age is settledAge.
func (s stamp) settled(m moment, age time.Duration) bool { return s.changed < m.wall-int64(age) }

// stepped is whether the clock was set back between m and a later moment. A file that
// is changed then may get a time that it has had before.
func (m moment) stepped(later moment) bool { return later.ahead < m.ahead-int64(stepTolerance) }
