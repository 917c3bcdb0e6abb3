package criu

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// xattrRecord is the prefix of extended attributes in a tar file.
	xattrRecord = "SCHILY.xattr."
	// opaqueRecord marks a folder that hides what the image has at its place.
	opaqueRecord = xattrRecord + "trusted.overlay.opaque"
)

// captureFiles copies what of the pod's files belongs to its state into dir.
func captureFiles(pod PodTarget, dumpers []*dumper, dir string) error {
	for _, d := range dumpers {
		err := captureTree(filepath.Join(d.dir, RootfsFile), d.upper, d.merged, overlayUpper)
		if err == nil {
			err = d.captureTmpfs()
		}
		if err != nil {
			return fmt.Errorf("container %s: %w", d.name(), err)
		}
	}
	if len(pod.EmptyDirs) > 0 {
		if err := os.MkdirAll(filepath.Join(dir, VolumesDir), 0o700); err != nil {
			return err
		}
	}
	for volume, folder := range pod.EmptyDirs {
		if volume == "" || strings.Contains(volume, "/") {
			return fmt.Errorf("volume %q: not a volume's name", volume)
		}
		if err := captureTree(filepath.Join(dir, VolumesDir, volume+".tar"), folder, folder, wholeTree); err != nil {
			return fmt.Errorf("volume %s: %w", volume, err)
		}
	}
	if pod.ShmDir != "" {
		if err := captureTree(filepath.Join(dir, ShmFile), pod.ShmDir, pod.ShmDir, wholeTree); err != nil {
			return fmt.Errorf("shared memory: %w", err)
		}
	}
	return nil
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

// captureTree writes a tar file of a folder. merged is where an overlay file
// system is mounted, else the folder.
func captureTree(file, folder, merged string, kind treeKind) error {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	a := &archive{tar: tar.NewWriter(out), links: map[inode]string{}, overlay: kind == overlayUpper}
	if kind == oneFileSystem {
		var stat unix.Stat_t
		if err := unix.Stat(folder, &stat); err != nil {
			return &fs.PathError{Op: "stat", Path: folder, Err: err}
		}
		a.device = stat.Dev
		folder += "/." // the folder may be reached by a link
	}
	if err := a.add(folder, merged, "."); err != nil {
		return err
	}
	if err := errors.Join(a.tar.Close(), out.Close()); err != nil {
		return err
	}
	if kind == overlayUpper && a.entries == 1 { // the root folder alone
		return os.Remove(file)
	}
	return nil
}

// archive is a tar file that is being written.
type archive struct {
	tar     *tar.Writer
	links   map[inode]string // the first name of each file that has several
	entries int
	overlay bool
	device  uint64 // the only file system whose files are taken; 0 for all
}

type inode struct{ device, number uint64 }

// add writes a file, and all below it, under name. source is where the file is,
// and merged the same file as the container sees it.
func (a *archive) add(source, merged, name string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(source, &stat); err != nil {
		return &fs.PathError{Op: "lstat", Path: source, Err: err}
	}
	xattrs, err := readXattrs(source)
	if err != nil {
		return err
	}
	header := &tar.Header{
		Name: name, Mode: int64(stat.Mode & 0o7777), Uid: int(stat.Uid), Gid: int(stat.Gid),
		ModTime: timeOf(stat.Mtim), Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	if a.device != 0 && stat.Dev != a.device {
		return a.addMountPoint(header, &stat)
	}
	overlay := overlayMarks{}
	for key, value := range xattrs {
		if mark, isMark := strings.CutPrefix(key, "trusted.overlay."); isMark && a.overlay {
			overlay[mark] = value
		} else if mark, isMark := strings.CutPrefix(key, "user.overlay."); isMark && a.overlay {
			overlay[mark] = value
		} else if !strings.HasPrefix(key, "security.selinux") {
			header.PAXRecords[xattrRecord+key] = value
		}
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return a.addFolder(header, source, merged, overlay)
	case unix.S_IFREG:
		content := source
		if overlay.has("metacopy") {
			content = merged // the upper file has attributes only
		}
		return a.addFile(header, &stat, content)
	case unix.S_IFLNK:
		header.Typeflag = tar.TypeSymlink
		if header.Linkname, err = os.Readlink(source); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		header.Typeflag = tar.TypeChar
		if stat.Mode&unix.S_IFMT == unix.S_IFBLK {
			header.Typeflag = tar.TypeBlock
		}
		header.Devmajor, header.Devminor = int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))
	case unix.S_IFIFO:
		header.Typeflag = tar.TypeFifo
	default:
		return nil // a socket: CRIU makes it again where it is bound
	}
	return a.addLinked(header, &stat)
}

// addMountPoint writes an empty folder or file where something is mounted.
func (a *archive) addMountPoint(header *tar.Header, stat *unix.Stat_t) error {
	header.Typeflag = tar.TypeReg
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		header.Typeflag = tar.TypeDir
		header.Name += "/"
	}
	return a.write(header)
}

// overlayMarks are the notes that overlayfs keeps in a file's attributes.
type overlayMarks map[string]string

func (m overlayMarks) has(mark string) bool { _, found := m[mark]; return found }

func (a *archive) addFolder(header *tar.Header, source, merged string, overlay overlayMarks) error {
	header.Typeflag = tar.TypeDir
	if overlay.has("redirect") {
		// The folder was renamed: most of it is still in the image, under its
		// old name. The container's view of it has everything.
		inner := *a
		inner.overlay = false
		header.PAXRecords[opaqueRecord] = "y"
		err := inner.addFolderEntries(header, merged, merged)
		a.entries = inner.entries
		return err
	}
	if overlay["opaque"] == "y" {
		header.PAXRecords[opaqueRecord] = "y"
	}
	return a.addFolderEntries(header, source, merged)
}

func (a *archive) addFolderEntries(header *tar.Header, source, merged string) error {
	name := header.Name
	header.Name += "/"
	if err := a.write(header); err != nil {
		return err
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		inner := entry.Name()
		if err := a.add(filepath.Join(source, inner), filepath.Join(merged, inner), path.Join(name, inner)); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) addFile(header *tar.Header, stat *unix.Stat_t, content string) error {
	header.Typeflag, header.Size = tar.TypeReg, stat.Size
	if a.isLink(header, stat) {
		return a.write(header)
	}
	file, err := os.Open(content)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := a.write(header); err != nil {
		return err
	}
	n, err := io.Copy(a.tar, io.LimitReader(file, stat.Size))
	if err == nil && n != stat.Size {
		err = fmt.Errorf("%s changed its size while it was read", content)
	}
	return err
}

func (a *archive) addLinked(header *tar.Header, stat *unix.Stat_t) error {
	a.isLink(header, stat)
	return a.write(header)
}

// isLink turns the header of a file that was written before, under another
// name, into one of a link to it.
func (a *archive) isLink(header *tar.Header, stat *unix.Stat_t) bool {
	isWhiteout := header.Typeflag == tar.TypeChar && header.Devmajor == 0 && header.Devminor == 0
	if stat.Nlink < 2 || isWhiteout {
		return false // overlayfs links all whiteouts to one file
	}
	key := inode{stat.Dev, stat.Ino}
	first, found := a.links[key]
	if !found {
		a.links[key] = header.Name
		return false
	}
	*header = tar.Header{Typeflag: tar.TypeLink, Name: header.Name, Linkname: first, ModTime: header.ModTime, Format: tar.FormatPAX}
	return true
}

func (a *archive) write(header *tar.Header) error {
	a.entries++
	return a.tar.WriteHeader(header)
}

// readXattrs reads a file's extended attributes. A file system without them has none.
func readXattrs(file string) (map[string]string, error) {
	size, err := unix.Llistxattr(file, nil)
	if err != nil || size == 0 {
		return nil, ignoreUnsupported("llistxattr", file, err)
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(file, list); err != nil {
		return nil, ignoreUnsupported("llistxattr", file, err)
	}
	xattrs := map[string]string{}
	for key := range bytes.SplitSeq(bytes.TrimSuffix(list[:size], []byte{0}), []byte{0}) {
		value := make([]byte, 64<<10) // the kernel's limit
		n, err := unix.Lgetxattr(file, string(key), value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, ignoreUnsupported("lgetxattr "+string(key), file, err)
		}
		xattrs[string(key)] = string(slices.Clip(value[:n]))
	}
	return xattrs, nil
}

func ignoreUnsupported(op, file string, err error) error {
	if err == nil || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return &fs.PathError{Op: op, Path: file, Err: err}
}

func timeOf(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }
