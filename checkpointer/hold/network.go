package hold

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// portRangeFile has the range from which the kernel takes ports for connections.
	portRangeFile = "/proc/sys/net/ipv4/ip_local_port_range"
	// lowest is the lowest port that is listened on, and highest the highest.
	lowest, highest = 20000, 65535
	// enough is how many ports beside the kernel's range have to be left.
	enough = 256
)

// listenAside listens on a free port that the pod's processes, once they are back, will
// hardly want: it is none of those to avoid and, where there is room, none of the kernel's
// range for connections, of which they may have bound any. It is called in their network.
func listenAside(avoid []int32) (net.Listener, error) {
	first, last := aside()
	listen := net.ListenConfig{}
	listen.SetMultipathTCP(false) // CRIU cannot dump such sockets, and they are in its way
	offset, count := rand.IntN(last-first+1), last-first+1
	for i := range count {
		port := first + (offset+i)%count
		if slices.Contains(avoid, int32(port)) {
			continue
		}
		listener, err := listen.Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		return listener, err
	}
	return nil, fmt.Errorf("every port from %d to %d is in use", first, last)
}

// aside is the range of ports beside the kernel's.
func aside() (first, last int) {
	var from, to int
	raw, err := os.ReadFile(portRangeFile)
	if err == nil {
		_, err = fmt.Sscan(string(raw), &from, &to)
	}
	switch {
	case err != nil:
		return lowest, highest
	case highest-to >= enough:
		return to + 1, highest
	case from-lowest >= enough:
		return lowest, from - 1
	}
	return lowest, highest
}

// inNetwork calls f on a thread in a network namespace: a socket belongs to the one of
// the thread that makes it.
func inNetwork[T any](path string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := enter(path); err != nil {
			done <- result{err: fmt.Errorf("enter the pod's network: %w", err)}
			return
		}
		value, err := f()
		done <- result{value, err}
	}()
	r := <-done
	return r.value, r.err
}

func enter(path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}
