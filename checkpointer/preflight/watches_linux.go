package preflight

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// searched are the folders in which CRIU looks for a watched file, with all that
// is below them, and beside them the root folder itself.
var searched = []string{"/etc", "/var/spool", "/var/log", "/usr/share/dbus-1/services", "/usr/share/dbus-1/system-services",
	"/var/lib/polkit-1/localauthority", "/usr/share/polkit-1/actions", "/lib/udev"}

// maxSearched bounds how many files are looked at for it.
const maxSearched = 20_000

// knowWatches finds out which of the watched files of the container's image CRIU
// finds by itself. root is where the container's root folder is seen.
func (c *Container) knowWatches(root string) {
	wanted := map[Watch][]*Watch{}
	for i := range c.Processes {
		for j := range c.Processes[i].Files {
			watches := c.Processes[i].Files[j].Watches
			for k := range watches {
				if c.onImage(watches[k]) {
					wanted[watches[k]] = append(wanted[watches[k]], &watches[k])
				}
			}
		}
	}
	if len(wanted) == 0 {
		return
	}
	found := func(file string) {
		var stat unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, file, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &stat) == nil {
			for _, w := range wanted[Watch{Device: fmt.Sprintf("%d:%d", stat.Dev_major, stat.Dev_minor), Inode: stat.Ino}] {
				w.Known = true
			}
		}
	}
	// With the slash, the link to the root is followed.
	found(root + "/")
	left := maxSearched
	for _, folder := range searched {
		// An error means that the folder, or a file in it, is not there (any more).
		_ = filepath.WalkDir(filepath.Join(root, folder), func(file string, entry fs.DirEntry, err error) error {
			if left--; left < 0 {
				return fs.SkipAll
			}
			inside := strings.TrimPrefix(file, root)
			mounted := slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Point == inside })
			if err == nil && !mounted {
				found(file)
			}
			if err != nil && entry != nil && entry.IsDir() || mounted && entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
	}
}
