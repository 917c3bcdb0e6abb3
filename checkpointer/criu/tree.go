package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a folder that belongs to the pod's state, and the tar file that it goes into.
type tree struct {
	file string
	// name is file, relative to the generation's folder.
	name   string
	folder string
	// merged is where an overlay file system is mounted, else the folder.
	merged string
	kind   treeKind
	// what names it in errors.
	what string
}

// treeKind says what of a folder is copied.
type treeKind int

const (
	// wholeTree is all that is in the folder.
	wholeTree treeKind = iota
	// overlayUpper is the upper folder of an overlay file system. One without
	// changes leaves no file.
	overlayUpper
	// oneFileSystem is all but what is mounted in the folder: of that there is just
	// an empty place to mount it at.
	oneFileSystem
)

// trees lists all folders of the pod's state.
func trees(pod PodTarget, dumpers []*dumper, dir string) ([]tree, error) {
	var list []tree
	for _, d := range dumpers {
		list = append(list, tree{file: filepath.Join(d.dir, RootfsFile), folder: d.upper, merged: d.merged, kind: overlayUpper, what: "container " + d.name()})
		list = append(list, d.tmpfsTrees()...)
	}
	if len(pod.EmptyDirs) > 0 {
		if err := os.MkdirAll(filepath.Join(dir, VolumesDir), 0o700); err != nil {
			return nil, err
		}
	}
	for volume, folder := range pod.EmptyDirs {
		if volume == "" || strings.Contains(volume, "/") {
			return nil, fmt.Errorf("volume %q: not a volume's name", volume)
		}
		list = append(list, tree{file: filepath.Join(dir, VolumesDir, volume+".tar"), folder: folder, merged: folder, kind: wholeTree, what: "volume " + volume})
	}
	if pod.ShmDir != "" {
		list = append(list, tree{file: filepath.Join(dir, ShmFile), folder: pod.ShmDir, merged: pod.ShmDir, kind: wholeTree, what: "shared memory"})
	}
	for i := range list {
		var err error
		if list[i].name, err = filepath.Rel(dir, list[i].file); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// stampedKinds are the file systems of which it is known, and tested, that every
// change of a file's content but a store to a shared mapping gives the file a time
// first, and that a read, or a look for holes, waits for a write that is under way.
var stampedKinds = map[string]bool{"ext4": true, "xfs": true, "btrfs": true}

// stamped is whether the file system of an open file is one of them.
func stamped(fd int) (bool, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/thread-self/fdinfo/%d", fd))
	if err != nil {
		return false, err
	}
	_, rest, found := strings.Cut(string(info), "mnt_id:")
	if !found {
		return false, nil
	}
	id, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false, err
	}
	for _, m := range parseMountinfo(string(mounts)) {
		if m.id == id {
			return stampedKinds[m.kind], nil
		}
	}
	return false, nil // not of this mount namespace
}

// openWithin opens a file or folder below a folder. It follows no link, and goes into
// nothing that is mounted there: while the pod runs it may change what a path leads to.
func openWithin(root int, name string, flags int) (int, error) {
	const confined = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Resolve: confined})
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}
