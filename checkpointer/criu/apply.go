package criu

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ApplyFiles brings the file changes of a checkpoint in dir into the root file
// system of the container that it is to be restored into, which must not run
// yet, and the content of the pod's emptyDir volumes (folders by name) and
// shared memory into theirs, replacing what is there. A nil map or an empty
// shmDir leaves those alone, as is right for all containers of a pod but the
// first. Paths are the node's.
//
// Whatever names and links the checkpoint holds, nothing outside of these
// folders is written.
func (e *Engine) ApplyFiles(ctx context.Context, dir, container, rootfs string, emptyDirs map[string]string, shmDir string) error {
	if !filepath.IsLocal(container) || strings.Contains(container, "/") {
		return fmt.Errorf("apply file changes: %q is not a container's name", container)
	}
	return e.host.Run(func() error {
		if err := applyTree(ctx, filepath.Join(dir, container, RootfsFile), rootfs, false); err != nil {
			return fmt.Errorf("apply file changes of container %s: %w", container, err)
		}
		for volume, folder := range emptyDirs {
			if err := applyTree(ctx, filepath.Join(dir, VolumesDir, volume+".tar"), folder, true); err != nil {
				return fmt.Errorf("restore volume %s: %w", volume, err)
			}
		}
		if shmDir != "" {
			if err := applyTree(ctx, filepath.Join(dir, ShmFile), shmDir, true); err != nil {
				return fmt.Errorf("restore shared memory: %w", err)
			}
		}
		return nil
	})
}

// applyTree unpacks a tar file into a folder; with replace the folder is emptied
// first. A file that is not there changes nothing.
func applyTree(ctx context.Context, file, folder string, replace bool) error {
	in, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	if replace {
		if err := emptyFolder(root, "."); err != nil {
			return err
		}
	}
	return unpack(ctx, tar.NewReader(in), root)
}

func unpack(ctx context.Context, reader *tar.Reader, root *os.Root) error {
	// A folder's time of change is set last: what is put into it changes it.
	var folders []*tar.Header
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if err := unpackOne(reader, header, root); err != nil {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
		if header.Typeflag == tar.TypeDir {
			folders = append(folders, header)
		}
	}
	for _, header := range folders {
		err := atEntry(root, path.Clean(header.Name), func(entry string) error { return setTime(entry, header) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
	}
	return nil
}

func unpackOne(content io.Reader, header *tar.Header, root *os.Root) error {
	name := path.Clean(header.Name)
	if !filepath.IsLocal(name) {
		return errors.New("not a path inside of the folder")
	}
	if header.Typeflag == tar.TypeDir {
		return unpackFolder(header, name, root)
	}
	if name == "." {
		return errors.New("the folder itself can only be a folder")
	}
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	if isWhiteout(header) {
		return nil
	}
	parent, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	fd, base := int(parent.Fd()), path.Base(name)
	switch header.Typeflag {
	case tar.TypeReg:
		err = unpackFile(content, header, fd, base)
	case tar.TypeLink:
		if !filepath.IsLocal(header.Linkname) {
			return fmt.Errorf("link to %q: not a path inside of the folder", header.Linkname)
		}
		return root.Link(header.Linkname, name) // its attributes are those of the first name
	case tar.TypeSymlink:
		err = unix.Symlinkat(header.Linkname, fd, base)
	case tar.TypeChar:
		err = makeNode(header, unix.S_IFCHR, fd, base)
	case tar.TypeBlock:
		err = makeNode(header, unix.S_IFBLK, fd, base)
	case tar.TypeFifo:
		err = makeNode(header, unix.S_IFIFO, fd, base)
	default:
		return fmt.Errorf("unknown kind of entry %q", header.Typeflag)
	}
	if err != nil {
		return err
	}
	return atEntry(root, name, func(entry string) error { return setAttributes(entry, header) })
}

// isWhiteout is whether the entry says that a file of the image is deleted.
func isWhiteout(header *tar.Header) bool {
	return header.Typeflag == tar.TypeChar && header.Devmajor == 0 && header.Devminor == 0
}

func unpackFolder(header *tar.Header, name string, root *os.Root) error {
	info, err := root.Lstat(name)
	if err == nil && !info.IsDir() {
		err = errors.Join(root.Remove(name), fs.ErrNotExist)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = root.Mkdir(name, 0o700)
	case err == nil && header.PAXRecords[opaqueRecord] == "y":
		err = emptyFolder(root, name)
	}
	if err != nil {
		return err
	}
	return atEntry(root, name, func(entry string) error { return setAttributes(entry, header) })
}

func emptyFolder(root *os.Root, name string) error {
	folder, err := root.Open(name)
	if err != nil {
		return err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, inner := range names {
		if err := root.RemoveAll(path.Join(name, inner)); err != nil {
			return err
		}
	}
	return nil
}

func unpackFile(content io.Reader, header *tar.Header, parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), base)
	n, err := io.Copy(file, content)
	if err == nil && n != header.Size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, file.Close())
}

func makeNode(header *tar.Header, kind uint32, parent int, base string) error {
	device := unix.Mkdev(uint32(header.Devmajor), uint32(header.Devminor))
	return unix.Mknodat(parent, base, kind|0o600, int(device))
}

// atEntry calls do with a path that names the entry itself, and goes on to do
// so whatever is put in its place: it must not become a link to the outside
// between two calls.
func atEntry(root *os.Root, name string, do func(entry string) error) error {
	parent, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	fd, err := unix.Openat(int(parent.Fd()), path.Base(name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// setAttributes gives an entry its owner, mode, extended attributes and time.
func setAttributes(entry string, header *tar.Header) error {
	if header.Typeflag == tar.TypeSymlink {
		return setLinkOwner(entry, header)
	}
	if err := unix.Chown(entry, header.Uid, header.Gid); err != nil {
		return fmt.Errorf("set its owner: %w", err)
	}
	if err := unix.Chmod(entry, uint32(header.Mode&0o7777)); err != nil {
		return fmt.Errorf("set its mode: %w", err)
	}
	for record, value := range header.PAXRecords {
		key, isXattr := strings.CutPrefix(record, xattrRecord)
		if !isXattr || strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "user.overlay.") {
			continue
		}
		if err := unix.Setxattr(entry, key, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set its attribute %s: %w", key, err)
		}
	}
	return setTime(entry, header)
}

// setLinkOwner gives a symbolic link its owner. A path under /proc/self/fd would
// be followed to the link's target, so the link's own descriptor is used.
func setLinkOwner(entry string, header *tar.Header) error {
	var fd int
	if _, err := fmt.Sscanf(entry, "/proc/self/fd/%d", &fd); err != nil {
		return err
	}
	if err := unix.Fchownat(fd, "", header.Uid, header.Gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set its owner: %w", err)
	}
	return nil
}

func setTime(entry string, header *tar.Header) error {
	t, err := unix.TimeToTimespec(header.ModTime)
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, entry, []unix.Timespec{t, t}, 0)
	}
	if err != nil {
		return fmt.Errorf("set its time: %w", err)
	}
	return nil
}
