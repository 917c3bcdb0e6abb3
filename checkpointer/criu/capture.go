package criu

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
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

// capturer copies files while the pod is stopped.
type capturer struct {
	copier
	// ahead is what was copied before; nil for nothing.
	ahead *filesAhead
	// moves are the contents that are still in the spool.
	moves []move
	// kept are the contents that are left to the base, and saved the files that the next
	// generation may leave to this one.
	kept  []KeptFile
	saved map[inode]savedFile
	// late is how many bytes of files were copied with the pod stopped.
	late int64
}

// move is a content in the spool that belongs into a tar file.
type move struct {
	file                 string
	from, offset, length int64
}

// captureFiles writes the pod's files, as they are now, into tar files, but for what
// was copied ahead and is still as it was: that is left to finish. The pod is stopped.
func captureFiles(ctx context.Context, trees []tree, ahead *filesAhead, processes func() ([]int, error)) (*capturer, error) {
	c := &capturer{copier: copier{proceed: func() error { return context.Cause(ctx) }}, ahead: ahead, saved: map[inode]savedFile{}}
	ahead.stopped(processes)
	for _, t := range trees {
		if err := c.captureTree(t); err != nil {
			return nil, fmt.Errorf("%s: %w", t.what, err)
		}
	}
	return c, nil
}

// captureTree writes a tar file of a folder.
func (c *capturer) captureTree(t tree) error {
	out, err := os.OpenFile(t.file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	folder := t.folder
	root, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: folder, Err: err}
	}
	a := &archive{capturer: c, tree: t, tar: tarFile{file: out}, links: map[inode]string{}, overlay: t.kind == overlayUpper, device: stat.Dev}
	if a.stamped, err = stamped(int(root.Fd())); err != nil {
		return err
	}
	if t.kind == oneFileSystem {
		folder += "/." // the folder may be reached by a link
	}
	if err := a.add(folder, t.merged, "."); err != nil {
		return err
	}
	if err := errors.Join(a.tar.end(), out.Close()); err != nil {
		return err
	}
	if t.kind == overlayUpper && a.entries == 1 { // the root folder alone
		return os.Remove(t.file)
	}
	return nil
}

// archive is a tar file of a tree that is being written.
type archive struct {
	*capturer
	tree    tree
	tar     tarFile
	links   map[inode]string // the first name of each file that has several
	entries int
	// overlay is whether files are those of an overlay file system's upper folder.
	overlay bool
	// device is the tree's file system, and stamped whether it is one of stampedKinds.
	device  uint64
	stamped bool
}

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
	if a.tree.kind == oneFileSystem && stat.Dev != a.device {
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
		if overlay.has("metacopy") {
			return a.addFile(header, &stat, merged, "") // the upper file has attributes only
		}
		return a.addFile(header, &stat, source, merged)
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
		header.PAXRecords[opaqueRecord] = "y"
		a.overlay = false
		defer func() { a.overlay = true }()
		return a.addFolderEntries(header, merged, merged)
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

// addFile writes a regular file. merged is empty when content is not what the stamp is of.
func (a *archive) addFile(header *tar.Header, stat *unix.Stat_t, content, merged string) error {
	header.Typeflag, header.Size = tar.TypeReg, stat.Size
	if a.isLink(header, stat) {
		return a.write(header)
	}
	if err := a.write(header); err != nil {
		return err
	}
	offset, err := a.tar.skip(stat.Size)
	if err != nil || stat.Size == 0 {
		return err
	}
	var before *fileCopy
	own := a.stamped && merged != "" && stat.Dev == a.device
	if now := stampOf(stat); own && a.ahead != nil {
		if a.keep(now, merged, offset) {
			return nil
		}
		before = a.ahead.copies[now.inode]
		if before != nil && a.unchanged(before, now, merged) {
			a.take(before, offset, stat.Size)
			a.save(now, offset)
			return nil
		}
	}
	file, err := os.OpenFile(content, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	await(file)
	a.late += stat.Size
	if before != nil && before.room >= stat.Size {
		// To write over a copy takes less than to make one.
		err = a.copy(place{a.ahead.spool, before.offset}, place{file, 0}, stat.Size, sparse|used)
		a.take(before, offset, stat.Size)
	} else {
		how := 0
		if own {
			how = sparse
		}
		err = a.copy(place{a.tar.file, offset}, place{file, 0}, stat.Size, how)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", content, err)
	}
	return nil
}

// unchanged is whether a copy is what the file has now. merged is the file as the
// container sees it.
func (a *archive) unchanged(before *fileCopy, now stamp, merged string) bool {
	f := a.ahead
	return f.distrusted == nil && before.settled && before.stamp == now && !f.unstamped[now.inode] && !a.unstampedAt(merged)
}

// unstampedAt is whether a file of an overlay file system can change without a trace,
// by the numbers that it has there.
func (a *archive) unstampedAt(merged string) bool {
	if !a.overlay {
		return false
	}
	var stat unix.Stat_t
	err := unix.Lstat(merged, &stat)
	return err != nil || a.ahead.unstamped[inode{stat.Dev, stat.Ino}]
}

// take has a content be moved from the spool to its place in the tar file later.
func (a *archive) take(from *fileCopy, offset, length int64) {
	a.moves = append(a.moves, move{file: a.tree.file, from: from.offset, offset: offset, length: length})
}

// finish moves what was copied ahead to its place. The pod may run again.
func (c *capturer) finish(ctx context.Context) error {
	if len(c.moves) == 0 {
		return nil
	}
	c.proceed = func() error { return context.Cause(ctx) }
	var out *os.File
	defer func() { out.Close() }() // no file is as good as a closed one
	for _, m := range c.moves {
		if out == nil || out.Name() != m.file {
			out.Close()
			var err error
			if out, err = os.OpenFile(m.file, os.O_WRONLY, 0); err != nil {
				return err
			}
		}
		if err := c.move(m, out); err != nil {
			return fmt.Errorf("put a copied file into %s: %w", m.file, err)
		}
	}
	return nil
}

// moveStep is how many bytes are moved before the space that they had is given back.
const moveStep = 32 << 20

func (c *capturer) move(m move, out *os.File) error {
	spool := c.ahead.spool
	for done := int64(0); done < m.length; done += moveStep {
		n := min(moveStep, m.length-done)
		if err := c.copy(place{out, m.offset + done}, place{spool, m.from + done}, n, sparse); err != nil {
			return err
		}
		if m.length < ownBytes {
			continue // it shares its pages with others
		}
		if err := punch(spool, m.from+done, n); err != nil {
			return err
		}
	}
	return nil
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
	return a.tar.header(header)
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
