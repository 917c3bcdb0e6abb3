package controlplane

import (
	"context"
	"errors"
	"net"
	"time"
)

// Eventually waits until the condition returns nil. When it has not within the given
// time, the test ends with the condition's last error.
func Eventually(t T, within time.Duration, what string, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	last := errors.New("not tried")
	for ctx.Err() == nil {
		if err := condition(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("waited %s until %s: %v", within, what, last)
}

// FreeAddress is an address on 127.0.0.1 at which nobody listens.
func FreeAddress(t T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", FreePort(t))
}

// FreePort is a port of 127.0.0.1 at which nobody listens.
func FreePort(t T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
