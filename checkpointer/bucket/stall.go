package bucket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// How long the server may keep silent before it counts as gone. None of them
// bounds a whole copy: that is the caller's context.
const (
	// readStall bounds the time between two pieces of what is read: a recovery waits for it.
	readStall = 5 * time.Second
	// writeStall bounds the time between two pieces that the server takes, and
	// until it has made them last, which a busy one does slowly.
	writeStall = 60 * time.Second
)

// watchdog ends a request when the server makes no progress with it.
type watchdog struct {
	timer *time.Timer
	limit time.Duration
	// lost is why the last attempt of the request got no answer, if there was one.
	lost atomic.Pointer[error]
}

type watchdogKey struct{}

// watched makes a request with a context that ends when the limit passes without
// a call of progress or pause: the error wraps transfer.ErrStalled then. Attempts
// that the client repeats are no progress.
func (b *Bucket) watched(ctx context.Context, limit time.Duration, request func(ctx context.Context, dog *watchdog) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := &watchdog{timer: time.AfterFunc(limit, func() { cancel(transfer.ErrStalled) }), limit: limit}
	defer dog.timer.Stop()
	err := request(context.WithValue(ctx, watchdogKey{}, dog), dog)
	if err == nil || !errors.Is(context.Cause(ctx), transfer.ErrStalled) {
		return b.explain(err)
	}
	if lost := dog.lost.Load(); lost != nil {
		return b.explain(*lost)
	}
	return fmt.Errorf("%s has not answered for %s: %w", b.config.Endpoint, limit, transfer.ErrStalled)
}

func (w *watchdog) progress() { w.timer.Reset(w.limit) }

// pause keeps it quiet until the next progress, while this node is the slow one.
func (w *watchdog) pause() { w.timer.Stop() }

// attempts tells each request's watchdog why an attempt of it got no answer:
// the client repeats it, and says nothing when its context ends meanwhile.
type attempts struct{ http.RoundTripper }

func (a attempts) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := a.RoundTripper.RoundTrip(request)
	dog, ok := request.Context().Value(watchdogKey{}).(*watchdog)
	if ok && err != nil && request.Context().Err() == nil {
		dog.lost.Store(&err)
	}
	return response, err
}
