package preflight

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// inodeOf is the inode of a connection's socket.
func inodeOf(t *testing.T, conn syscall.Conn) uint64 {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var stat syscall.Stat_t
	if err := raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &stat) }); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func TestReadSockets(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	sockets, err := readSockets(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	one, two := inodeOf(t, client.(*net.UnixConn)), inodeOf(t, server.(*net.UnixConn))
	if sockets[one] != (Socket{Peer: two, Stream: true}) || sockets[two] != (Socket{Peer: one, Stream: true}) {
		t.Errorf("sockets %d and %d are %+v and %+v", one, two, sockets[one], sockets[two])
	}
}

// FuzzParseUnixReply: no reply makes the parser fail, however its lengths lie.
func FuzzParseUnixReply(f *testing.F) {
	replies, err := dumpUnix()
	if err != nil {
		f.Fatal(err)
	}
	for _, reply := range replies {
		f.Add(reply)
	}
	broken := make([]byte, 16+unixReplySize+4)
	binary.NativeEndian.PutUint32(broken, uint32(len(broken)))
	binary.NativeEndian.PutUint16(broken[4:], 20)
	binary.NativeEndian.PutUint16(broken[16+unixReplySize:], 0xffff)
	f.Add(broken)
	f.Fuzz(func(_ *testing.T, reply []byte) {
		_, _ = parseUnixReply(reply)
		last(reply)
	})
}
