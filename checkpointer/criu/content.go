package criu

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyBuffer is how many bytes are copied at once.
const copyBuffer = 1 << 20

// copier copies files' content. It belongs to one goroutine.
type copier struct {
	buffer []byte
	// proceed is asked before each stretch; its error ends the copy.
	proceed func() error
}

// await waits for a write to the file that is under way, and has got its time already:
// of the file systems in stampedKinds xfs does not let a read overtake one, and the
// others no look for data.
func await(file *os.File) {
	var one [1]byte
	_, _ = file.ReadAt(one[:], 0) // what is wrong is found when all is read
	_, _ = file.Seek(0, unix.SEEK_DATA)
}

// place is where a content begins in a file.
type place struct {
	file *os.File
	at   int64
}

// How a content is copied.
const (
	// sparse leaves out the holes of where it comes from.
	sparse = 1 << iota
	// used removes what is where these holes go to.
	used
)

// copy copies size bytes.
func (c *copier) copy(to, from place, size int64, how int) error {
	for done := int64(0); done < size; {
		start, end := done, size
		if how&sparse != 0 {
			var err error
			if start, end, err = nextData(from.file, from.at+done, from.at+size); err != nil {
				return err
			}
			start, end = start-from.at, end-from.at
		}
		if how&used != 0 && start > done {
			if err := punch(to.file, to.at+done, start-done); err != nil {
				return err
			}
		}
		if err := c.copyData(place{to.file, to.at + start}, place{from.file, from.at + start}, end-start); err != nil {
			return err
		}
		done = end
	}
	return nil
}

func (c *copier) copyData(to, from place, size int64) error {
	if c.buffer == nil {
		c.buffer = make([]byte, copyBuffer)
	}
	for done := int64(0); done < size; {
		if err := c.proceed(); err != nil {
			return err
		}
		n, err := from.file.ReadAt(c.buffer[:min(size-done, copyBuffer)], from.at+done)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return errResized
		}
		if _, err := to.file.WriteAt(c.buffer[:n], to.at+done); err != nil {
			return err
		}
		done += int64(n)
	}
	return nil
}

// errResized means that a file has become shorter while it was read.
var errResized = errors.New("it changed its size while it was read")

// nextData returns the next stretch of a file that is not a hole, within its size;
// an empty one at its end when there is none.
func nextData(file *os.File, from, size int64) (start, end int64, err error) {
	fd := int(file.Fd())
	start, err = unix.Seek(fd, from, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if err == nil {
		end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	}
	if errors.Is(err, unix.ENXIO) { // it was cut short between the two
		return size, size, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look for holes: %w", err)
	}
	return min(start, size), min(end, size), nil
}

// punch makes a hole, and gives back what was there.
func punch(file *os.File, offset, length int64) error {
	if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length); err != nil {
		return &os.PathError{Op: "punch a hole into", Path: file.Name(), Err: err}
	}
	return nil
}
