package preflight

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readSockets reads the tables of a process's network namespace.
func readSockets(pid int) (map[uint64]Socket, error) {
	sockets := map[uint64]Socket{}
	for _, name := range []string{"net/tcp", "net/tcp6", "net/netlink"} {
		content, err := os.ReadFile(procFile(pid, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		if name == "net/netlink" {
			for _, inode := range parseNetlink(string(content)) {
				sockets[inode] = Socket{Pending: true}
			}
			continue
		}
		for _, inode := range parseTCP(string(content)) {
			sockets[inode] = Socket{Connected: true}
		}
	}
	replies, err := askUnix(procFile(pid, "ns/net"))
	if err != nil {
		return sockets, fmt.Errorf("ask for the peers of UNIX sockets: %w", err)
	}
	for _, reply := range replies {
		found, err := parseUnixReply(reply)
		if err != nil {
			return sockets, err
		}
		for inode, s := range found {
			sockets[inode] = s
		}
	}
	return sockets, nil
}

// unixRequest is the kernel's struct unix_diag_req, behind a netlink header.
type unixRequest struct {
	header          unix.NlMsghdr
	family          uint8
	protocol        uint8
	_               uint16
	states          uint32
	inode           uint32
	show            uint32
	cookie0, cookie uint32
}

const (
	showPeer       = 4 // UDIAG_SHOW_PEER
	peerAttribute  = 2 // UNIX_DIAG_PEER
	unixReplySize  = 16
	netlinkTimeout = 2 * time.Second
)

// askUnix asks the kernel for all UNIX sockets of a network namespace, and
// returns its replies as they came.
func askUnix(namespace string) ([][]byte, error) {
	type answer struct {
		replies [][]byte
		err     error
	}
	result := make(chan answer, 1)
	// A thread of its own, never unlocked: it ends with the goroutine, so that
	// nothing else runs in the container's namespace by accident.
	ns, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- answer{err: fmt.Errorf("enter the network namespace: %w", err)}
			return
		}
		replies, err := dumpUnix()
		result <- answer{replies, err}
	}()
	a := <-result
	return a.replies, a.err
}

func dumpUnix() ([][]byte, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(netlinkTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, err
	}
	request := unixRequest{family: unix.AF_UNIX, states: 1<<32 - 1, show: showPeer}
	request.header = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(request)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if err := unix.Sendto(fd, raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var replies [][]byte
	for {
		buffer := make([]byte, 32<<10)
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		replies = append(replies, buffer[:n])
		if last(buffer[:n]) {
			return replies, nil
		}
	}
}

// last is whether a reply ends the kernel's answer.
func last(reply []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(reply)
	if err != nil {
		return true
	}
	for _, m := range messages {
		if m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR {
			return true
		}
	}
	return false
}

// parseUnixReply reads the sockets in one reply of the kernel: a struct
// unix_diag_msg for each, with attributes behind it.
func parseUnixReply(reply []byte) (map[uint64]Socket, error) {
	messages, err := syscall.ParseNetlinkMessage(reply)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's list of UNIX sockets: %w", err)
	}
	sockets := map[uint64]Socket{}
	for _, m := range messages {
		if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
			if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno > 0 {
				return nil, fmt.Errorf("list UNIX sockets: %w", unix.Errno(errno))
			}
		}
		if m.Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(m.Data) < unixReplySize {
			continue
		}
		s := Socket{Stream: m.Data[1] != unix.SOCK_DGRAM}
		inode := binary.NativeEndian.Uint32(m.Data[4:])
		for rest := m.Data[unixReplySize:]; len(rest) >= unix.SizeofNlAttr; {
			length := int(binary.NativeEndian.Uint16(rest))
			if length < unix.SizeofNlAttr || length > len(rest) {
				break
			}
			if binary.NativeEndian.Uint16(rest[2:]) == peerAttribute && length >= unix.SizeofNlAttr+4 {
				s.Peer = uint64(binary.NativeEndian.Uint32(rest[unix.SizeofNlAttr:]))
			}
			rest = rest[min((length+3)&^3, len(rest)):]
		}
		sockets[uint64(inode)] = s
	}
	return sockets, nil
}
