package hooks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// podNetwork is the network namespace of a process.
type podNetwork struct {
	procRoot string
	pid      int
	podIP    string
}

// dial connects to a port of the pod: on its loopback address, or else on its own. A
// socket belongs to the network that the thread is in which makes it.
func (p podNetwork) dial(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	type dialed struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialed, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := p.enter(); err != nil {
			done <- dialed{err: fmt.Errorf("enter the pod's network: %w", err)}
			return
		}
		var errs []error
		for _, ip := range []string{"127.0.0.1", "::1", p.podIP} {
			if ip == "" {
				continue
			}
			// To one address that is no name: then nothing is done on another thread.
			conn, err := (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(ip, port))
			if err == nil {
				done <- dialed{conn: conn}
				return
			}
			errs = append(errs, err)
		}
		done <- dialed{err: errors.Join(errs...)}
	}()
	d := <-done
	return d.conn, d.err
}

func (p podNetwork) enter() error {
	ns, err := os.Open(filepath.Join(p.procRoot, strconv.Itoa(p.pid), "ns/net"))
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}
