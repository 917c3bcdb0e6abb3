package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/experiments/load"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
	"github.com/lifeboat-dev/lifeboat/experiments/subject"
)

// asApplication, in the environment, has the test program be the application.
const asApplication = "LIFEBOAT_EXPERIMENT"

func TestMain(m *testing.M) {
	if os.Getenv(asApplication) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestClientsSeeHowLongAProcessWasStopped: the downtime in the log of requests is the
// time for which the application was in fact stopped, and a write that was under
// way is found to be done twice, not lost.
func TestClientsSeeHowLongAProcessWasStopped(t *testing.T) {
	cell := matrix.Cell{Application: matrix.Cart, MemoryMB: 1, Content: "text"}
	address := "127.0.0.1:" + strconv.Itoa(subject.Port(cell.Application))
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := listener.Addr().String()
	listener.Close()
	process := exec.CommandContext(t.Context(), os.Args[0], "--application", "cart", "--content", "text", "--bytes", strconv.FormatInt(cell.Bytes(), 10), "--rewrite", "10", "--listen", free)
	process.Env = append(os.Environ(), asApplication+"=1")
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	// The client goes to where the application listens in its pod.
	client, err := subject.Connect(cell, func(ctx context.Context, network, to string) (net.Conn, error) {
		if to != address {
			t.Errorf("the client goes to %s", to)
		}
		return (&net.Dialer{}).DialContext(ctx, network, free)
	}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for client.Read(t.Context()) != nil {
		if !passed(t, 10*time.Millisecond) {
			t.Fatal("the application does not answer")
		}
	}
	clients := load.Start(t.Context(), client, load.Writing())
	passed(t, 500*time.Millisecond)
	asked := time.Now()
	if err := process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	passed(t, 600*time.Millisecond)
	stopped := time.Since(asked)
	if err := process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	passed(t, 500*time.Millisecond)
	requests := clients.Stop()
	longest, _ := load.Longest(load.Silences(requests, asked, time.Now()), matrix.SilentOver)
	t.Logf("stopped for %s, silence for %s", stopped, longest.Length())
	// It may be longer on a busy machine, by what the machine needs to get going again.
	if got := longest.Length(); got < stopped-10*time.Millisecond || got > stopped+time.Second {
		t.Errorf("stopped for %s, and the clients were without an answer for %s", stopped, got)
	}
	counts, err := client.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	writes := load.Judge(requests, counts)
	if len(writes.Lost) > 0 || len(writes.Repeated) == 0 || writes.Acked < 100 {
		t.Errorf("of %d writes %v are lost, %v repeated", writes.Acked, writes.Lost, writes.Repeated)
	}
	if rewritten, err := client.Rewritten(t.Context()); err != nil || rewritten == 0 {
		t.Errorf("%d bytes were rewritten, %v", rewritten, err)
	}
	if wrong, err := client.Check(t.Context()); err != nil || wrong > 0 {
		t.Errorf("%d pages are wrong, %v", wrong, err)
	}
}

// passed waits, and says whether the test goes on.
func passed(t *testing.T, d time.Duration) bool {
	select {
	case <-t.Context().Done():
		return false
	case <-time.After(d):
		return true
	}
}
