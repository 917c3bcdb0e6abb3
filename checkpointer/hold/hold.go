// Package hold keeps connections waiting for a pod that is being moved. The pod's
// successor waits in the runtime's create with its network ready, but nobody listens there
// yet. A Holder listens in that network, on ports of its own, and lets whoever connects
// wait until the pod's processes are back; then it connects to them, and hands on what
// either side sends. See docs/adr/0015-held-connections.md.
package hold

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// mostHeld bounds the connections of one pod that wait or were led on.
	mostHeld = 4096
	// dialWithin is how long the pod's own port may take to answer once its processes are
	// back. They listen from their first moment on, so that it is seldom needed.
	dialWithin = 5 * time.Second
	// dialEvery is how often it is tried in that time.
	dialEvery = 20 * time.Millisecond
	// dialsAtOnce bounds the threads that connect to the pod at the same time.
	dialsAtOnce = 16
)

// Config is what is held, and where.
type Config struct {
	// NetNS is the path of the pod's network namespace.
	NetNS string
	// PodIPs are the pod's addresses.
	PodIPs []string
	// Ports are the pod's TCP ports to which connections are held.
	Ports []int32
	// Avoid are further ports that the pod's processes are known to use.
	Avoid []int32
}

// Holder holds connections to the ports of one pod.
type Holder struct {
	config    Config
	log       *slog.Logger
	listeners map[int32]net.Listener // by the pod's own port
	slots     chan struct{}
	dials     chan struct{}

	released chan struct{} // closed when those who wait may be led on
	stopped  chan struct{} // closed when nobody may wait any more
	release  sync.Once
	stop     sync.Once
	life     context.Context // ends with the pod
	end      context.CancelFunc
}

// Listen begins to hold connections. An error means that none are held.
func Listen(config Config, log *slog.Logger) (*Holder, error) {
	h := &Holder{
		config: config, log: log, listeners: map[int32]net.Listener{}, slots: make(chan struct{}, mostHeld), dials: make(chan struct{}, dialsAtOnce),
		released: make(chan struct{}), stopped: make(chan struct{}),
	}
	h.life, h.end = context.WithCancel(context.Background())
	for _, port := range config.Ports {
		if h.listeners[port] != nil {
			continue
		}
		listener, err := inNetwork(config.NetNS, func() (net.Listener, error) { return listenAside(append(config.Ports, config.Avoid...)) })
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("listen in place of port %d: %w", port, err)
		}
		h.listeners[port] = listener
	}
	for port, listener := range h.listeners {
		go h.accept(port, listener)
	}
	return h, nil
}

// Ports are the ports that are listened on, by the pod's own.
func (h *Holder) Ports() map[int32]int32 {
	ports := map[int32]int32{}
	for port, listener := range h.listeners {
		ports[port] = int32(listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// Release leads those who wait, and those who still come, to the pod's own ports.
func (h *Holder) Release() { h.release.Do(func() { close(h.released) }) }

// Stop lets nobody in any more, and resets those who wait. Who was led on stays.
func (h *Holder) Stop() {
	h.stop.Do(func() {
		close(h.stopped)
		for _, listener := range h.listeners {
			_ = listener.Close() // it was open
		}
	})
}

// Close ends every connection, as the pod is gone.
func (h *Holder) Close() {
	h.Stop()
	h.end()
}

func (h *Holder) accept(port int32, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			h.log.Warn("a connection cannot be held", "port", port, "err", err)
			select {
			case <-h.stopped:
			case <-time.After(dialEvery): // as when too many files are open
			}
			continue
		}
		client := conn.(*net.TCPConn)
		select {
		case h.slots <- struct{}{}:
			go func() {
				defer func() { <-h.slots }()
				h.serve(port, client)
			}()
		default:
			reset(client)
		}
	}
}

// serve lets one connection wait, and leads it on.
func (h *Holder) serve(port int32, client *net.TCPConn) {
	defer client.Close()
	select {
	case <-h.released:
	case <-h.stopped:
		reset(client)
		return
	}
	server, err := h.dial(port)
	if err != nil {
		h.log.Warn("a connection that waited cannot be led on", "port", port, "err", err)
		reset(client)
		return
	}
	defer server.Close()
	unwatch := context.AfterFunc(h.life, func() {
		reset(client)
		reset(server)
	})
	defer unwatch()
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{server, client}, {client, server}} {
		both.Go(func() {
			to, from := way[0], way[1]
			if _, err := io.Copy(to, from); err != nil {
				reset(to) // what was sent so far is not all
				reset(from)
				return
			}
			_ = to.CloseWrite() // the other way may still be in use
		})
	}
	both.Wait()
}

// dial connects to the pod's own port: at its addresses, or else at its loopback ones.
func (h *Holder) dial(port int32) (*net.TCPConn, error) {
	select {
	case h.dials <- struct{}{}:
		defer func() { <-h.dials }()
	case <-h.life.Done():
		return nil, h.life.Err()
	}
	ctx, cancel := context.WithTimeout(h.life, dialWithin)
	defer cancel()
	for {
		conn, err := inNetwork(h.config.NetNS, func() (*net.TCPConn, error) {
			var errs []error
			for _, ip := range append(h.config.PodIPs[:len(h.config.PodIPs):len(h.config.PodIPs)], "127.0.0.1", "::1") {
				// To one address that is no name: then nothing is done on another thread.
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(ip, strconv.Itoa(int(port))))
				if err == nil {
					return conn.(*net.TCPConn), nil
				}
				errs = append(errs, err)
			}
			return nil, errors.Join(errs...)
		})
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(dialEvery):
		}
	}
}

// reset ends a connection so that its other end does not take it for a proper end.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // it may be closed already
	_ = conn.Close()
}
