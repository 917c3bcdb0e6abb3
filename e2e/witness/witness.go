package witness

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Seen is a step as it reached the witness.
type Seen struct {
	// From is the address that it came from: a copy's identity, as memory and
	// environment are the same in a restored copy.
	From string
	// At is when it came.
	At time.Time
	// Step is what the copy said of it.
	Step Step
}

// Witness hears steppers and answers each step. It runs outside the nodes.
type Witness struct {
	conn  net.PacketConn
	ended chan error

	mu   sync.Mutex
	seen []Seen
}

// Listen starts a witness that hears on the socket until Close.
func Listen(conn net.PacketConn) *Witness {
	w := &Witness{conn: conn, ended: make(chan error, 1)}
	go func() { w.ended <- w.hear() }()
	return w
}

// maxPacket is more than any step takes, in bytes.
const maxPacket = 1024

func (w *Witness) hear() error {
	packet := make([]byte, maxPacket)
	for {
		n, from, err := w.conn.ReadFrom(packet)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("hear steppers: %w", err)
		}
		step, err := ParseStep(string(packet[:n]))
		if err != nil {
			return err
		}
		host, _, err := net.SplitHostPort(from.String())
		if err != nil {
			return fmt.Errorf("hear steppers: %w", err)
		}
		w.mu.Lock()
		w.seen = append(w.seen, Seen{From: host, At: time.Now(), Step: step})
		w.mu.Unlock()
		// A sender that is gone, or cut off, does not hear it: it was seen all the same.
		_, _ = w.conn.WriteTo(fmt.Appendf(nil, "seen %d", step.Number), from)
	}
}

// Seen returns what was seen of a workload, in the order in which it came.
func (w *Witness) Seen(workload string) []Seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	var of []Seen
	for _, s := range w.seen {
		if s.Step.Workload == workload {
			of = append(of, s)
		}
	}
	return of
}

// Last returns the last step that was seen of a workload, and whether there is one.
func (w *Witness) Last(workload string) (Seen, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.seen) - 1; i >= 0; i-- {
		if w.seen[i].Step.Workload == workload {
			return w.seen[i], true
		}
	}
	return Seen{}, false
}

// Close ends the witness and returns what went wrong while it heard.
func (w *Witness) Close() error {
	return errors.Join(w.conn.Close(), <-w.ended)
}
