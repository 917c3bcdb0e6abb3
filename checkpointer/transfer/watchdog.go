package transfer

import (
	"context"
	"errors"
	"time"
)

// watchdog ends a context when the holder makes no progress.
type watchdog struct {
	ctx   context.Context
	timer *time.Timer
	limit time.Duration
}

// watch returns a context that ends, with ErrStalled as its cause, when the
// watchdog's limit passes without a call of progress or pause.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{ctx, time.AfterFunc(limit, func() { cancel(ErrStalled) }), limit}
	return ctx, w, func() {
		w.timer.Stop()
		cancel(nil)
	}
}

func (w *watchdog) progress() { w.timer.Reset(w.limit) }

// pause keeps it quiet until the next progress, while this node is the slow one.
func (w *watchdog) pause() { w.timer.Stop() }

// explain returns the error of a call that was watched: ErrStalled when it was
// the watchdog that ended it.
func (w *watchdog) explain(err error) error {
	if err != nil && errors.Is(context.Cause(w.ctx), ErrStalled) {
		return ErrStalled
	}
	return err
}
