package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unstamped are files that can change while their times stay as they are: those that
// a process maps shared, for only the first store to a page that is not yet waiting
// for the disk is noticed; and those that it has open for direct writes, which get
// their times before they reach the disk. A file is in it under each number that it
// is seen by: an overlay file system has other ones than the one below it.
type unstamped map[inode]bool

// maxSearches bounds how often new processes are looked for.
const maxSearches = 100

// search looks through the processes that list returns. It looks again for those that
// came meanwhile, which may have their files of a process that was looked at late. So
// a file that is not found, and changes later without a trace in its times, was first
// written after search began; that first time it got a trace. direct is whether
// descriptors are looked at, which may be many.
func (u unstamped) search(list func() ([]int, error), direct bool) error {
	seen := map[taskID]bool{}
	for range maxSearches {
		pids, err := list()
		if err != nil {
			return err
		}
		found := false
		for _, pid := range pids {
			id, _, err := identify(pid)
			if err == nil && !seen[id] {
				found, seen[id] = true, true
				err = u.searchMaps(pid)
				if err == nil && direct {
					err = u.searchDescriptors(pid)
				}
			}
			if err != nil && !ended(err) {
				return fmt.Errorf("look at the files of process %d: %w", pid, err)
			}
		}
		if !found {
			return nil
		}
	}
	return errors.New("look at the files of the pod's processes: new ones come faster than that")
}

// ended is whether an error says that a process, or something of it, is gone.
func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// searchMaps adds what a process maps shared. A mapping that cannot be written counts
// too: the process may be about to change that.
func (u unstamped) searchMaps(pid int) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		m, shared, err := parseMapping(line)
		if err != nil {
			return err
		}
		if !shared {
			continue
		}
		u[m.inode] = true
		var stat unix.Stat_t
		link := fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.start, m.end)
		if err := unix.Stat(link, &stat); err == nil {
			u[inode{stat.Dev, stat.Ino}] = true
		} else if !ended(err) {
			return &fs.PathError{Op: "stat", Path: link, Err: err}
		}
	}
	return nil
}

type mapping struct {
	inode
	start, end uint64
}

// parseMapping reads a line of a process's maps, and says whether it is a shared
// mapping of a file.
func parseMapping(line string) (m mapping, shared bool, err error) {
	fields := strings.Fields(line)
	if len(fields) < 5 || len(fields[1]) < 4 {
		return m, false, fmt.Errorf("%q is no mapping", line)
	}
	if fields[1][3] != 's' || fields[4] == "0" {
		return m, false, nil
	}
	var major, minor uint32
	_, err = fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end)
	if err == nil {
		_, err = fmt.Sscanf(fields[3], "%x:%x", &major, &minor)
	}
	if err == nil {
		m.number, err = strconv.ParseUint(fields[4], 10, 64)
	}
	if err != nil {
		return m, false, fmt.Errorf("%q is no mapping: %w", line, err)
	}
	m.device = unix.Mkdev(major, minor)
	return m, true, nil
}

// searchDescriptors adds what a process has open for direct reads or writes.
func (u unstamped) searchDescriptors(pid int) error {
	folder := fmt.Sprintf("/proc/%d/fdinfo", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if ended(err) {
			continue
		}
		if err != nil {
			return err
		}
		direct, err := isDirect(string(info))
		if err != nil {
			return err
		}
		if !direct {
			continue
		}
		var stat unix.Stat_t
		link := fmt.Sprintf("/proc/%d/fd/%s", pid, entry.Name())
		if err := unix.Stat(link, &stat); err == nil {
			u[inode{stat.Dev, stat.Ino}] = true
		} else if !ended(err) {
			return &fs.PathError{Op: "stat", Path: link, Err: err}
		}
	}
	return nil
}

// isDirect reads from a descriptor's fdinfo whether it is for direct I/O.
func isDirect(info string) (bool, error) {
	for line := range strings.Lines(info) {
		if text, found := strings.CutPrefix(line, "flags:"); found {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 64)
			return flags&unix.O_DIRECT != 0, err
		}
	}
	return false, errors.New("its fdinfo has no flags")
}
