package preflight

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

// readProcess reads what /proc shows of a process. The error is fs.ErrNotExist
// or ESRCH when it has ended.
func readProcess(pid int) (Process, error) {
	status, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return Process{}, err
	}
	p := parseStatus(string(status))
	p.Namespaces = readNamespaces(pid)
	if p.Files, err = readFiles(pid); err != nil {
		return p, err
	}
	p.Mappings, err = readMappings(pid)
	return p, err
}

func readNamespaces(pid int) map[string]string {
	links := map[string]string{}
	for _, kind := range nestable {
		// A zombie has none, and a process that has no child in another
		// namespace yet may lack those for children.
		if link, err := os.Readlink(procFile(pid, "ns/"+kind)); err == nil {
			links[kind] = link
		}
	}
	return links
}

// readFiles reads the open files of a process. It opens none of them, so that a
// file system that does not answer holds nobody up.
func readFiles(pid int) ([]File, error) {
	folder := procFile(pid, "fd")
	directory, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	names, err := directory.Readdirnames(-1)
	directory.Close()
	if err != nil {
		return nil, err
	}
	var files []File
	for _, name := range names {
		number, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		file := filepath.Join(folder, name)
		link, err := os.Readlink(file)
		if err != nil {
			continue // closed meanwhile
		}
		f := File{Number: number, Link: link}
		switch {
		case strings.HasPrefix(link, "socket:"):
			f.Protocol = protocol(file)
		case strings.HasPrefix(link, "/"):
			lookAt(file, &f)
			if f.isTunnel() {
				f.Interface = parseInterface(readInfo(pid, name))
			}
		case link == "anon_inode:inotify", link == "anon_inode:[fanotify]":
			f.Watches = parseWatches(readInfo(pid, name))
		case strings.HasPrefix(link, "pidfd:"), link == "anon_inode:[pidfd]":
			f.Handle = handle(readInfo(pid, name))
		}
		files = append(files, f)
	}
	return files, nil
}

// readInfo reads what the kernel says of an open file; nothing when it is closed.
func readInfo(pid int, name string) string {
	info, _ := os.ReadFile(procFile(pid, "fdinfo/"+name))
	return string(info)
}

// handle is the process that a pidfd stands for, 0 when it has ended: a process
// that nobody has waited for yet has a number, but is no more.
func handle(info string) int {
	pid, found := parseHandle(info)
	if !found || pid <= 0 {
		return 0
	}
	status, err := os.ReadFile(procFile(pid, "status"))
	if err != nil || parseStatus(string(status)).State == "Z" {
		return 0
	}
	return pid
}

// protocol asks the kernel for a socket's protocol.
func protocol(file string) string {
	name := make([]byte, 64)
	n, err := unix.Getxattr(file, "system.sockprotoname", name)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(name[:n]), "\x00")
}

// lookAt notes what a file is, by what the kernel knows without asking a server.
func lookAt(file string, f *File) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, file, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_NLINK|unix.STATX_BLOCKS, &stat); err != nil {
		return
	}
	f.Character = stat.Mode&unix.S_IFMT == unix.S_IFCHR
	f.Device = fmt.Sprintf("%d:%d", stat.Dev_major, stat.Dev_minor)
	f.Major, f.Minor = stat.Rdev_major, stat.Rdev_minor
	f.DeletedBytes = deletedBytes(f.Link, &stat)
}

// blockSize is the unit of a file's space.
const blockSize = 512

func deletedBytes(path string, stat *unix.Statx_t) int64 {
	regular := stat.Mode&unix.S_IFMT == unix.S_IFREG
	// A memfd never had a name, and is dumped otherwise.
	if !regular || stat.Nlink != 0 || strings.HasPrefix(path, "/memfd:") {
		return 0
	}
	return int64(stat.Blocks) * blockSize
}

// readMappings reads what files a process has mapped. A zombie has none.
func readMappings(pid int) ([]Mapping, error) {
	content, err := os.ReadFile(procFile(pid, "maps"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mappings, ranges := parseMaps(string(content))
	for i, m := range mappings {
		if !strings.HasSuffix(m.Path, " (deleted)") || strings.HasPrefix(m.Path, "/SYSV") || strings.HasPrefix(m.Path, "/dev/zero") {
			continue
		}
		var stat unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, procFile(pid, "map_files/"+ranges[i]), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_NLINK|unix.STATX_BLOCKS, &stat)
		if err == nil {
			mappings[i].DeletedBytes = deletedBytes(m.Path, &stat)
		}
	}
	return mappings, nil
}
