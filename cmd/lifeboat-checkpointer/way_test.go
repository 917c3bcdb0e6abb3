package main

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// way is a way to a server, which can be cut: what was sent and what is sent then
// arrives nowhere, and nobody is told.
type way struct {
	listener net.Listener
	target   string

	mu  sync.Mutex
	cut bool
	// healed is closed when the way is not cut any more.
	healed chan struct{}
}

func newWay(t *testing.T, target string) *way {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	w := &way{listener: listener, target: target}
	t.Cleanup(func() { w.setCut(false); _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go w.carry(near)
		}
	}()
	return w
}

func (w *way) address() string { return w.listener.Addr().String() }

func (w *way) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case cut && !w.cut:
		w.healed = make(chan struct{})
	case !cut && w.cut:
		close(w.healed)
	}
	w.cut = cut
}

// pass waits while the way is cut, and returns whether it was.
func (w *way) pass() (wasCut bool) {
	w.mu.Lock()
	cut, healed := w.cut, w.healed
	w.mu.Unlock()
	if cut {
		<-healed
	}
	return cut
}

func (w *way) carry(near net.Conn) {
	defer near.Close()
	if w.pass() {
		return
	}
	far, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.target)
	if err != nil {
		return
	}
	defer far.Close()
	ended := make(chan struct{}, 2)
	for _, direction := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			defer func() { ended <- struct{}{} }()
			_, _ = io.Copy(gate{direction[1], w}, direction[0])
		}()
	}
	<-ended
}

// gate writes unless the way is cut; after a cut the connection is of no use.
type gate struct {
	net.Conn
	way *way
}

func (g gate) Write(p []byte) (int, error) {
	if g.way.pass() {
		return 0, io.ErrClosedPipe
	}
	return g.Conn.Write(p)
}
