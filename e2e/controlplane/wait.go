package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// patience is how long to wait for what has to come. It is no claim about how fast that
// is: a machine that many share stands still for seconds.
const patience = 90 * time.Second

// Eventually waits until the condition returns nil. When it has not within patience, the
// test ends with the condition's last error.
func Eventually(t T, what string, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
	t.Fatalf("waited %s until %s: %v", patience, what, last)
}

// FreeAddress is an address on 127.0.0.1 at which nobody listens.
func FreeAddress(t T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", FreePort(t))
}

// given are the ports that FreePort has returned: no two programs get the same one.
var given sync.Map

const (
	firstPort, lastPort = 10000, 65535
	fewPorts            = 4000
	portTries           = 100
)

// ports are the first and the last port to choose from. Those that the kernel gives to
// connections are none of them if there are enough others, so that a port is only taken
// by who asks for it.
var ports = sync.OnceValues(func() (first, last int) {
	var low, high int
	content, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(content), &low, &high)
	}
	switch {
	case err == nil && low-firstPort >= fewPorts:
		return firstPort, low - 1
	case err == nil && lastPort-high >= fewPorts:
		return high + 1, lastPort
	}
	return firstPort, lastPort
})

// FreePort is a port at which nobody listens, neither for TCP nor for UDP, at any
// address of this machine.
func FreePort(t T) string {
	t.Helper()
	first, last := ports()
	var err error
	for range portTries {
		port := strconv.Itoa(first + rand.IntN(last-first+1))
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		var stream net.Listener
		if stream, err = new(net.ListenConfig).Listen(t.Context(), "tcp", ":"+port); err != nil {
			continue
		}
		var packets net.PacketConn
		packets, err = new(net.ListenConfig).ListenPacket(t.Context(), "udp", ":"+port)
		_ = stream.Close()
		if err == nil {
			_ = packets.Close()
			return port
		}
	}
	t.Fatal("find a free port:", err)
	return ""
}
