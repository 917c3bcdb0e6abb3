// Command stepper takes a step every 20 ms for as long as it lives, writes it to standard
// output and sends it to a witness. Whoever lets it stand still or starts a second copy
// of it can tell by its steps.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/witness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name := flag.String("name", "", "the workload's name, the same in all of its copies")
	to := flag.String("witness", "", "address of the witness, as 10.89.0.1:7999")
	health := flag.String("health", ":8080", "where to answer that it lives")
	flag.Parse()
	if err := run(ctx, *name, *to, *health); err != nil {
		fmt.Fprintln(os.Stderr, "stepper:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name, to, health string) error {
	if name == "" || to == "" {
		return errors.New("--name and --witness must be given")
	}
	w, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		return fmt.Errorf("--witness %s: %w", to, err)
	}
	// Bound to no address of the pod: a restored copy has another one.
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return fmt.Errorf("reach the witness: %w", err)
	}
	defer conn.Close()
	// The kernel's own numbers: those of a generator in memory would be the same in a
	// restored copy.
	random, err := os.Open("/dev/urandom")
	if err != nil {
		return fmt.Errorf("find random numbers: %w", err)
	}
	defer random.Close()
	go hear(conn)
	stopped := make(chan error, 1)
	go func() {
		server := &http.Server{
			Addr: health, ReadHeaderTimeout: time.Second,
			Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		}
		stopped <- server.ListenAndServe()
	}()
	born, err := nonce(random)
	if err != nil {
		return err
	}
	last := witness.Step{Hash: witness.Birth(name, born)}
	ticker := time.NewTicker(witness.StepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-stopped:
			return fmt.Errorf("answer on %s: %w", health, err)
		case <-ticker.C:
		}
		number, err := nonce(random)
		if err != nil {
			return err
		}
		// The step is made before its time is taken: a step that claims to be older than
		// a checkpoint is in it.
		last = witness.Next(name, last.Number, last.Hash, number)
		last.At = time.Now()
		line := last.String()
		if err := log(line); err != nil {
			return err
		}
		// Without a network it goes on; the log on its node's disk tells of it.
		_, _ = conn.WriteTo([]byte(line), w)
	}
}

// hear takes the witness's answers off the socket.
func hear(conn net.PacketConn) {
	buffer := make([]byte, 64)
	for {
		if _, _, err := conn.ReadFrom(buffer); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func nonce(random io.Reader) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, fmt.Errorf("draw a random number: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// log writes a line to standard output, unless whoever reads it does not keep up: the
// stepper must not stand still because of that, and a gap in its log can be told.
func log(line string) error {
	ready := []unix.PollFd{{Fd: 1, Events: unix.POLLOUT}}
	n, err := unix.Poll(ready, 0)
	if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	if _, err := os.Stdout.WriteString(line + "\n"); err != nil && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("write the log: %w", err)
	}
	return nil
}
