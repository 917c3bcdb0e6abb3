package fence

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// linesAhead is how many log lines may wait to be written.
const linesAhead = 1000

// neverWait returns a logger that writes to log without ever holding up who logs:
// the container runtime reads the fencer's output, and when the runtime hangs, or
// the disk under it, a write to the full pipe would hang as well. Lines that find
// no room are dropped and counted. It writes until ctx ends, and then what is left,
// and closes done.
func neverWait(ctx context.Context, log *slog.Logger) (_ *slog.Logger, done <-chan struct{}) {
	q := &lineQueue{lines: make(chan func(), linesAhead)}
	ended := make(chan struct{})
	tell := func() {
		if dropped := q.dropped.Swap(0); dropped > 0 {
			log.Warn("log lines were dropped: the container's output was not read in time", "lines", dropped)
		}
	}
	go func() {
		defer close(ended)
		for {
			select {
			case write := <-q.lines:
				write()
			case <-ctx.Done():
				for len(q.lines) > 0 {
					(<-q.lines)()
				}
				tell()
				return
			}
			tell()
		}
	}()
	return slog.New(queueingHandler{log.Handler(), q}), ended
}

type lineQueue struct {
	lines   chan func()
	dropped atomic.Int64
}

// queueingHandler puts lines into a queue.
type queueingHandler struct {
	slog.Handler
	queue *lineQueue
}

// Handle implements slog.Handler.
func (h queueingHandler) Handle(ctx context.Context, record slog.Record) error {
	record = record.Clone()
	ctx = context.WithoutCancel(ctx)
	select {
	case h.queue.lines <- func() { _ = h.Handler.Handle(ctx, record) }:
	default:
		h.queue.dropped.Add(1)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h queueingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return queueingHandler{h.Handler.WithAttrs(attrs), h.queue}
}

// WithGroup implements slog.Handler.
func (h queueingHandler) WithGroup(name string) slog.Handler {
	return queueingHandler{h.Handler.WithGroup(name), h.queue}
}
