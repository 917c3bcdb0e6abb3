package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// answerTime is how long one side may take for a packet: both only remember things.
const answerTime = 5 * time.Second

// receive reads one packet. Its descriptors are the caller's.
func receive(conn *net.UnixConn) ([]byte, []int, error) {
	data := make([]byte, maxMessage)
	control := make([]byte, unix.CmsgSpace(descriptorsEach*4))
	n, controlBytes, flags, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return nil, nil, err
	}
	fds, err := descriptors(control[:controlBytes])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("a packet is too large")
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return data[:n], fds, nil
}

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
			return fds, err
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

// send writes one packet.
func send(conn *net.UnixConn, value any, fds []int) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(raw) > maxMessage {
		return fmt.Errorf("a packet of %d bytes is too large", len(raw))
	}
	var control []byte
	if len(fds) > 0 {
		control = unix.UnixRights(fds...)
	}
	conn.SetWriteDeadline(time.Now().Add(answerTime))
	_, _, err = conn.WriteMsgUnix(raw, control, nil)
	return err
}

// respond writes an answer, and in further packets the descriptors that it tells of.
func respond(conn *net.UnixConn, reply answer, fds []int) error {
	defer closeAll(fds)
	first := min(len(fds), 1) // the state
	if err := send(conn, reply, fds[:first]); err != nil {
		return err
	}
	for left := fds[first:]; len(left) > 0; {
		n := min(len(left), descriptorsEach)
		if err := send(conn, n, left[:n]); err != nil {
			return err
		}
		left = left[n:]
	}
	return nil
}
