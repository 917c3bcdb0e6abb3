package criu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// filesEnough is the amount of files' content, in bytes, at which copying ahead is
	// of no more use.
	filesEnough = 16 << 20
	// ownBytes is the size from which a file's content is stored by itself: as many
	// bytes as the store's chunks have at most.
	ownBytes = 64 << 10
)

// filesAhead is the content of the pod's files that was copied before the pause.
type filesAhead struct {
	log *slog.Logger
	// age is settledAge, but in tests that do not want to wait.
	age time.Duration
	copier
	// spool has the copies, one behind another; it has no name.
	spool *os.File
	end   int64
	// began is a moment before the pod's processes were last searched, and unstamped
	// what was found then and before.
	began     moment
	unstamped unstamped
	// distrusted is why no copy can be trusted; nil mostly.
	distrusted error
	copies     map[inode]*fileCopy
	// base is what needs no copy.
	base filesBase
}

// fileCopy is a copy of a file's content in the spool.
type fileCopy struct {
	stamp stamp
	// settled is whether any change since the copy gave the file another stamp,
	// unless the file is among the unstamped.
	settled bool
	// offset is its place in the spool, which has room for so many bytes.
	offset, room int64
}

// newFilesAhead makes an empty one, whose spool lies in dir.
func newFilesAhead(dir string, base filesBase, proceed func() error, log *slog.Logger) (*filesAhead, error) {
	spool, err := os.CreateTemp(dir, "")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(spool.Name()); err != nil {
		return nil, errors.Join(err, spool.Close())
	}
	return &filesAhead{
		log: log, age: settledAge, copier: copier{proceed: proceed}, spool: spool,
		unstamped: unstamped{}, copies: map[inode]*fileCopy{}, base: base,
	}, nil
}

// close gives back the space of the copies.
func (f *filesAhead) close() { f.spool.Close() }

// read copies the content of regular files while the pod runs. What changes meanwhile
// is copied again, a few times; what changes all the time has then a copy that is to be
// written over in the pause, which takes less than to make one. What cannot be copied
// now is left to the pause.
func (f *filesAhead) read(ctx context.Context, trees []tree, processes func() ([]int, error)) error {
	for range aheadRounds {
		if err := f.look(processes, true); err != nil {
			f.distrusted = err
			return nil
		}
		var copied int64
		for _, t := range trees {
			n, err := f.readTree(ctx, t)
			if err != nil {
				return err
			}
			copied += n
		}
		if copied <= filesEnough {
			return nil
		}
	}
	return nil
}

// look finds out which files can change without a trace from now on; direct is whether
// it looks for descriptors, too.
func (f *filesAhead) look(processes func() ([]int, error), direct bool) error {
	now, err := clock()
	if err != nil {
		return err
	}
	if f.began.stepped(now) {
		return errClockStepped
	}
	f.base.since(now)
	now.ahead = max(now.ahead, f.began.ahead, f.base.until.ahead)
	f.began = now
	return f.unstamped.search(processes, direct)
}

// errClockStepped means that files' times tell nothing.
var errClockStepped = errors.New("the node's clock was set back")

// readTree copies what of a tree is worth it, and returns how many bytes that were.
func (f *filesAhead) readTree(ctx context.Context, t tree) (copied int64, err error) {
	if t.kind == oneFileSystem {
		return 0, nil // it is in memory
	}
	root, err := unix.Open(t.folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, nil // the pause tells
	}
	defer unix.Close(root)
	var stat unix.Stat_t
	known, err := stamped(root)
	if err == nil {
		err = unix.Fstat(root, &stat)
	}
	if err != nil || !known {
		return 0, err
	}
	folders := []string{"."}
	for len(folders) > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		last := len(folders) - 1
		folder := folders[last]
		n, inner, err := f.readFolder(root, folder, stat.Dev)
		if err != nil {
			return 0, err
		}
		folders = append(folders[:last], inner...)
		copied += n
	}
	return copied, nil
}

// readFolder copies the files of one folder, and returns the folders in it.
func (f *filesAhead) readFolder(root int, name string, device uint64) (copied int64, folders []string, err error) {
	fd, err := openWithin(root, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return 0, nil, nil // it is gone, or not reached
	}
	folder := os.NewFile(uintptr(fd), name)
	defer folder.Close()
	entries, err := folder.ReadDir(-1)
	if err != nil {
		return 0, nil, nil
	}
	for _, entry := range entries {
		switch {
		case entry.IsDir():
			folders = append(folders, path.Join(name, entry.Name()))
		case entry.Type().IsRegular():
			n, err := f.readFile(int(folder.Fd()), entry.Name(), device)
			if err != nil {
				return 0, nil, err
			}
			copied += n
		}
	}
	return copied, folders, nil
}

// readFile copies a file, if that is worth it.
func (f *filesAhead) readFile(folder int, name string, device uint64) (copied int64, err error) {
	var stat unix.Stat_t
	if err := unix.Fstatat(folder, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, nil // it is gone
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Dev != device || stat.Size == 0 || f.keeps(stampOf(&stat)) || !f.worth(stampOf(&stat)) {
		return 0, nil
	}
	file, err := openRegular(folder, name, &stat)
	if err != nil {
		return 0, nil
	}
	defer file.Close()
	if stat.Dev != device {
		return 0, nil
	}
	seen := stampOf(&stat)
	to := f.room(seen)
	to.stamp, to.settled = seen, false
	await(file)
	if err := f.copy(place{f.spool, to.offset}, place{file, 0}, seen.size, sparse|used); err != nil {
		if errors.Is(err, errResized) {
			return seen.size, nil
		}
		return 0, fmt.Errorf("copy a file ahead of the pause: %w", err)
	}
	to.settled = seen.settled(f.began, f.age)
	return seen.size, nil
}

// worth is whether a file is to be copied now: when there is no copy yet, or when a
// new one can be trusted and the old one cannot.
func (f *filesAhead) worth(s stamp) bool {
	before := f.copies[s.inode]
	if before == nil {
		return true
	}
	return s.settled(f.began, f.age) && !f.unstamped[s.inode] && (!before.settled || before.stamp != s)
}

// openRegular opens a regular file, and says what it is. Nothing else is opened in its
// place, as a device might be.
func openRegular(folder int, name string, stat *unix.Stat_t) (*os.File, error) {
	fd, err := unix.Openat(folder, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, stat); err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.EINVAL
	}
	// Reading it is not to be seen in its times.
	file, err := unix.Open(fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(file), name), nil
}

// room finds room for a file in the spool: its own from before, or at the end.
func (f *filesAhead) room(s stamp) *fileCopy {
	to := f.copies[s.inode]
	if to == nil {
		to = &fileCopy{}
		f.copies[s.inode] = to
	}
	if to.room < s.size {
		if to.room >= ownBytes {
			// Whatever is left of it is given back with the spool.
			_ = punch(f.spool, to.offset, to.room)
		}
		if s.size >= ownBytes { // whole pages can be given back
			f.end = (f.end + int64(pageSize) - 1) &^ int64(pageSize-1)
		}
		to.offset, to.room = f.end, s.size
		f.end += s.size
	}
	return to
}

// stopped looks, once the pod is stopped, for what tells that copies cannot be trusted.
// Descriptors for direct writes that are new since the last look do not: a write takes
// its time before it begins.
func (f *filesAhead) stopped(processes func() ([]int, error)) {
	if f.distrusted == nil {
		f.distrusted = f.look(processes, false)
	}
	if f.distrusted != nil {
		f.log.Warn("all of the pod's files are copied in its pause", "err", f.distrusted)
	}
}
