package hold

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pod is a network namespace of its own, with loopback alone.
func pod(t *testing.T) string {
	t.Helper()
	made, end := make(chan string), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the namespace is the thread's, and ends with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- ""
			return
		}
		path := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			request, _ := unix.NewIfreq("lo")
			request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
			err = errors.Join(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request), unix.Close(fd))
		}
		if err != nil {
			path = ""
		}
		made <- path
		<-end
	}()
	path := <-made
	t.Cleanup(func() { close(end) })
	if path == "" {
		t.Skip("network namespaces need root")
	}
	return path
}

// podIP is an address that is the pod's alone, and needs no interface but loopback.
const podIP = "127.7.7.7"

func hold(t *testing.T, netns string, ports ...int32) *Holder {
	t.Helper()
	h, err := Listen(Config{NetNS: netns, PodIPs: []string{podIP}, Ports: ports}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// connect connects to where a port is held.
func connect(t *testing.T, h *Holder, port int32) *net.TCPConn {
	t.Helper()
	conn, err := inNetwork(h.config.NetNS, func() (net.Conn, error) {
		return net.DialTimeout("tcp", net.JoinHostPort(podIP, strconv.Itoa(int(h.Ports()[port]))), time.Second)
	})
	if err != nil {
		t.Fatalf("a connection that is to be held: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// serve is the pod's own program: it answers with a word and what it was sent.
func serve(t *testing.T, netns, address, word string) {
	t.Helper()
	listener, err := inNetwork(netns, func() (net.Listener, error) { return net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				sent, _ := io.ReadAll(conn) // until the client has said all
				fmt.Fprintf(conn, "%s %s at %s", word, sent, conn.LocalAddr())
			}()
		}
	}()
}

// ask says all that it has to, and returns the answer.
func ask(conn *net.TCPConn, what string) (string, error) {
	if _, err := io.WriteString(conn, what); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// TestHold: who connects before the pod's processes are there is answered by them, each
// at its own port, to the last byte, and so is who comes later. An end of what either side
// sends reaches the other one, which may still send.
func TestHold(t *testing.T) {
	netns := pod(t)
	h := hold(t, netns, 8080, 9090)
	if p := h.Ports(); len(p) != 2 || p[8080] == p[9090] || p[8080] == 8080 {
		t.Fatalf("ports %v", p)
	}
	const clients = 40
	large := strings.Repeat("x", 1<<20)
	answers := make(chan string, clients)
	for i := range clients {
		port := []int32{8080, 9090}[i%2]
		conn := connect(t, h, port)
		go func() {
			answer, err := ask(conn, large)
			answers <- fmt.Sprintf("%d %v %s", port, err, strings.ReplaceAll(answer, large, "all"))
		}()
	}
	serve(t, netns, podIP+":8080", "web")
	select {
	case answer := <-answers:
		t.Fatalf("answered before the pod runs: %s", answer)
	case <-time.After(100 * time.Millisecond):
	}
	h.Release()
	serve(t, netns, "127.0.0.1:9090", "admin") // only at loopback, and a moment late
	for range clients {
		if answer := <-answers; answer != "8080 <nil> web all at "+podIP+":8080" && answer != "9090 <nil> admin all at 127.0.0.1:9090" {
			t.Errorf("answer %q", answer)
		}
	}
	for len(h.slots) > 0 { // until the others are gone
		time.Sleep(time.Millisecond)
	}
	later := connect(t, h, 8080)
	for len(h.slots) == 0 { // until it is let in
		time.Sleep(time.Millisecond)
	}
	h.Stop() // lets in nobody else
	if answer, err := ask(later, "late"); err != nil || answer != "web late at "+podIP+":8080" {
		t.Errorf("answer %q: %v", answer, err)
	}
	_, err := inNetwork(netns, func() (net.Conn, error) {
		return net.Dial("tcp", net.JoinHostPort(podIP, strconv.Itoa(int(h.Ports()[8080]))))
	})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a holder that was stopped lets in: %v", err)
	}
}

// TestHoldEnds: nobody waits for a pod that does not come, and nothing is left of one
// that is gone.
func TestHoldEnds(t *testing.T) {
	netns := pod(t)
	reset := func(t *testing.T, conn *net.TCPConn) {
		t.Helper()
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d: %v, want a reset", n, err)
		}
	}
	t.Run("given up", func(t *testing.T) {
		h := hold(t, netns, 80)
		conn := connect(t, h, 80)
		h.Stop()
		reset(t, conn)
	})
	t.Run("the pod is gone", func(t *testing.T) {
		h := hold(t, netns, 81)
		serve(t, netns, podIP+":81", "web")
		h.Release()
		conn := connect(t, h, 81)
		if _, err := io.WriteString(conn, "half"); err != nil {
			t.Fatal(err)
		}
		for len(h.dials) > 0 || len(h.slots) == 0 { // until it is led on
			time.Sleep(time.Millisecond)
		}
		h.Close()
		reset(t, conn)
		for len(h.slots) > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	t.Run("no network", func(t *testing.T) {
		if _, err := Listen(Config{NetNS: "/proc/nothing", Ports: []int32{80}}, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("it listens nowhere")
		}
	})
}

// TestListenAside: the port is none that the pod may want.
func TestListenAside(t *testing.T) {
	netns := pod(t)
	for _, tc := range []struct {
		kernels     string
		first, last int
	}{
		{"32768 60999", 61000, 65535},
		{"25000 65535", 20000, 24999},
		{"1024 65535", 20000, 65535},
	} {
		var avoid []int32
		for port := tc.first; port < tc.last; port++ {
			if port != tc.first+1 {
				avoid = append(avoid, int32(port)) // but one, and the last
			}
		}
		var listeners []net.Listener
		taken := map[int]bool{}
		for range 2 {
			listener, err := inNetwork(netns, func() (net.Listener, error) {
				if err := os.WriteFile(portRangeFile, []byte(tc.kernels), 0o600); err != nil {
					return nil, err
				}
				return listenAside(avoid)
			})
			if err != nil {
				t.Fatalf("%s: %v", tc.kernels, err)
			}
			listeners = append(listeners, listener)
			taken[listener.Addr().(*net.TCPAddr).Port] = true
		}
		if !taken[tc.first+1] || !taken[tc.last] {
			t.Errorf("%s: ports %v", tc.kernels, taken)
		}
		for _, listener := range listeners {
			listener.Close()
		}
	}
}
