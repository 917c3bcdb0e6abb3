package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// socketName is where CRIU's restore looks for its page daemon, in its work folder.
	socketName = "lazy-pages.socket"
	// restoredMark is what CRIU sends when all processes are restored: "RSTF".
	restoredMark = 0x52535446
)

// listen listens in a folder with a path of any length: a UNIX socket's address
// has room for 107 bytes.
func listen(workDir string) (*net.UnixListener, error) {
	folder, err := os.OpenFile(workDir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()), socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove a former daemon's socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // its folder's descriptor is another by then
	return listener, nil
}

// receive reads what a restore sends, and calls attach with each process's number
// and userfaultfd, until all processes are restored. Attach owns the descriptor.
func receive(conn *net.UnixConn, attach func(pid, userfaultfd int) error) error {
	for {
		var word [4]byte
		if _, err := io.ReadFull(conn, word[:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return ErrNotRestored
			}
			return fmt.Errorf("%w: %w", ErrNotRestored, err)
		}
		pid := int(int32(binary.NativeEndian.Uint32(word[:])))
		if pid == restoredMark {
			return nil
		}
		if pid < 0 {
			continue // a zombie has no memory
		}
		fd, err := receiveDescriptor(conn)
		if err != nil {
			return fmt.Errorf("%w: receive the userfaultfd of process %d: %w", ErrNotRestored, pid, err)
		}
		if err := attach(pid, fd); err != nil {
			return err
		}
	}
}

// receiveDescriptor reads the one byte that a descriptor comes with.
func receiveDescriptor(conn *net.UnixConn) (int, error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4*4)) // for more than the one that is right
	n, controlBytes, _, _, err := conn.ReadMsgUnix(data[:], control)
	if err != nil {
		return -1, err
	}
	if n == 0 {
		return -1, io.ErrUnexpectedEOF
	}
	fds, err := descriptors(control[:controlBytes])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("it came with %d descriptors", len(fds))
	}
	return fds[0], nil
}

// descriptors are those of a control message.
func descriptors(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		fds = append(fds, more...)
	}
	return fds, nil
}
