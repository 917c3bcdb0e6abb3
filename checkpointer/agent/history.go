package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
)

const (
	// leastFilled is how much memory must have been filled in for its rate to mean
	// something.
	leastFilled = 16 << 20
	// newestShare is what the newest rate counts beside those before.
	newestShare = 0.3
	// failuresKept is how long a failed restore is remembered.
	failuresKept = time.Hour
	// tellHistoryEvery bounds how often the history is written, and
	// lookAtFailuresEvery is how often old failures are dropped from it.
	tellHistoryEvery    = 10 * time.Second
	lookAtFailuresEvery = time.Minute
)

// history is what restores on the node have shown. It is safe for concurrent use.
type history struct {
	mu     sync.Mutex
	shown  v1alpha1.RestoreHistory
	change chan struct{} // has room for one
}

func newHistory() *history { return &history{change: make(chan struct{}, 1)} }

// filled takes over how fast a container's memory was filled in, from the node's
// own store or from elsewhere. What was begun by an earlier checkpointer, or was
// little, shows nothing.
func (h *history) filled(local bool, stats pages.Stats) {
	bytes, took := stats.FaultBytes+stats.DrainedBytes, stats.Done.Sub(stats.Attached)
	if bytes < leastFilled || stats.Attached.IsZero() || took <= 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	rate := &h.shown.RemoteBytesPerSecond
	if local {
		rate = &h.shown.LocalBytesPerSecond
	}
	newest := float64(bytes) / took.Seconds()
	if *rate > 0 {
		newest = newestShare*newest + (1-newestShare)*float64(*rate)
	}
	*rate = int64(newest)
	h.changed()
}

// failed takes over that a restore failed, with a reason of a Migration's result.
func (h *history) failed(at time.Time, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown.Failures = slices.Insert(h.shown.Failures, 0, v1alpha1.RestoreFailure{At: metav1.NewTime(at), Reason: reason})
	h.shown.Failures = h.shown.Failures[:min(len(h.shown.Failures), v1alpha1.MaxRestoreFailures)]
	h.changed()
}

func (h *history) changed() {
	select {
	case h.change <- struct{}{}:
	default: // it is to be written already
	}
}

// status is the history as of now, nil while there is none.
func (h *history) status(now time.Time) *v1alpha1.RestoreHistory {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown.Failures = slices.DeleteFunc(h.shown.Failures, func(f v1alpha1.RestoreFailure) bool { return now.Sub(f.At.Time) > failuresKept })
	if h.shown.LocalBytesPerSecond == 0 && h.shown.RemoteBytesPerSecond == 0 && len(h.shown.Failures) == 0 {
		return nil
	}
	return h.shown.DeepCopy()
}

// resume goes on with what an earlier checkpointer of the node has told. What was
// seen since is newer.
func (h *history) resume(told *v1alpha1.RestoreHistory) {
	if told == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shown.LocalBytesPerSecond == 0 {
		h.shown.LocalBytesPerSecond = told.LocalBytesPerSecond
	}
	if h.shown.RemoteBytesPerSecond == 0 {
		h.shown.RemoteBytesPerSecond = told.RemoteBytesPerSecond
	}
	h.shown.Failures = append(h.shown.Failures, told.DeepCopy().Failures...)
	h.shown.Failures = h.shown.Failures[:min(len(h.shown.Failures), v1alpha1.MaxRestoreFailures)]
}

// publishHistory writes the history into the status of the node's Fence until ctx
// ends. The one that is there is gone on with first.
func (a *Agent) publishHistory(ctx context.Context) error {
	resumed := false
	ticker := time.NewTicker(lookAtFailuresEvery)
	defer ticker.Stop()
	for {
		err := a.patchStatus(ctx, func(status *v1alpha1.FenceStatus) {
			if !resumed {
				a.history.resume(status.Restores)
			}
			resumed = true
			status.Restores = a.history.status(time.Now())
		})
		if err != nil && ctx.Err() == nil {
			a.log.Debug("history of restores not published yet", "err", err)
			a.history.changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tellHistoryEvery):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.history.change:
		case <-ticker.C:
		}
	}
}
