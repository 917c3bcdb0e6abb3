package pages

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// socketPair are two ends of a connection.
func socketPair(t testing.TB) (*net.UnixConn, *net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

func descriptorsOpen(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// FuzzReceive sends anything in place of CRIU: each byte of cuts says how many
// bytes go into one packet, and how many descriptors with it.
func FuzzReceive(f *testing.F) {
	handover := func(words ...uint32) []byte {
		var raw []byte
		for _, w := range words {
			raw = binary.NativeEndian.AppendUint32(raw, w)
		}
		return raw
	}
	f.Add(handover(restoredMark), []byte{4})
	f.Add(append(append(handover(7), 0), handover(restoredMark)...), []byte{4, 1 | 1<<4, 4})
	f.Add(handover(0xffffffff, restoredMark), []byte{8})
	f.Add(handover(7), []byte{4})
	f.Add(append(handover(7), 0, 0), []byte{4, 1 | 3<<4, 1 | 15<<4})
	f.Fuzz(func(t *testing.T, raw, cuts []byte) {
		before := descriptorsOpen(t)
		here, there := socketPair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer there.Close()
			for _, cut := range cuts {
				n, fds := min(int(cut&15), len(raw)), int(cut>>4)
				if n == 0 {
					return
				}
				var control []byte
				if fds > 0 {
					control = unix.UnixRights(make([]int, fds)...)
				}
				if _, _, err := there.WriteMsgUnix(raw[:n], control, nil); err != nil {
					return
				}
				raw = raw[n:]
			}
		}()
		err := receive(here, func(pid, fd int) error {
			if pid < 0 {
				t.Errorf("process %d", pid)
			}
			return unix.Close(fd)
		})
		if err != nil && !errors.Is(err, ErrNotRestored) {
			t.Errorf("receive = %v", err)
		}
		here.Close()
		<-done
		if after := descriptorsOpen(t); after > before {
			t.Errorf("%d descriptors are left over", after-before)
		}
	})
}
