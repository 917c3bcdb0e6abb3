// Package load has clients work with an application, keeps a log of every request, and
// finds out from the log alone for how long nobody was answered, and which writes were
// lost or done more than once.
package load

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Request is one request of a client, and how it ended.
type Request struct {
	// Sequence numbers the requests in the order in which they began.
	Sequence int
	// Key is what a write counts up, and empty for a read; Attempt is 1 for a write that
	// was sent for the first time.
	Key     string
	Attempt int
	// Start and End are when it was sent, and when it was answered or given up.
	Start, End time.Time
	// Error is empty for a request that was answered as it should be.
	Error string
}

// OK says whether the request was answered as it should be.
func (r Request) OK() bool { return r.Error == "" }

// Log is what clients did.
type Log struct {
	mu       sync.Mutex
	sequence int
	requests []Request
}

// begin numbers a request.
func (l *Log) begin() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sequence++
	return l.sequence
}

func (l *Log) end(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r)
}

// Requests are those that have ended by now, in that order.
func (l *Log) Requests() []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Request(nil), l.requests...)
}

// timeFormat keeps a moment to the microsecond.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// Save writes requests to a compressed file of comma-separated values.
func Save(file string, requests []Request) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("save the log of requests: %w", err)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("save the log of requests: %w", err)
	}
	if err := errors.Join(write(f, requests), f.Close()); err != nil {
		return fmt.Errorf("save the log of requests to %s: %w", file, err)
	}
	return nil
}

func write(out io.Writer, requests []Request) error {
	compressed := gzip.NewWriter(out)
	buffered := bufio.NewWriter(compressed)
	w := csv.NewWriter(buffered)
	err := w.Write([]string{"sequence", "start", "end", "kind", "key", "attempt", "error"})
	for _, r := range requests {
		kind := "read"
		if r.Key != "" {
			kind = "write"
		}
		err = errors.Join(err, w.Write([]string{
			strconv.Itoa(r.Sequence), r.Start.UTC().Format(timeFormat), r.End.UTC().Format(timeFormat), kind, r.Key, strconv.Itoa(r.Attempt), r.Error,
		}))
	}
	w.Flush()
	return errors.Join(err, w.Error(), buffered.Flush(), compressed.Close())
}
