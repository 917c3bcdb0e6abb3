package agent

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// schedule says when each protected pod is due for a checkpoint. It is pure:
// the caller gives the time.
type schedule struct {
	pods map[types.UID]*turn
}

// turn is one pod's place in the schedule.
type turn struct {
	interval time.Duration
	// due is when the next checkpoint may start.
	due time.Time
	// running is whether a checkpoint of the pod is under way.
	running bool
	// failures counts the failed attempts since the last success.
	failures int
	// asked is when a generation was asked for that no turn has made yet; else zero.
	asked time.Time
}

// maxBackoff bounds the time between two attempts at a pod whose checkpoints fail.
const maxBackoff = 5 * time.Minute

func newSchedule() *schedule { return &schedule{pods: map[types.UID]*turn{}} }

// set adds a pod, due at once, or changes its interval.
func (s *schedule) set(uid types.UID, interval time.Duration, now time.Time) {
	t, ok := s.pods[uid]
	if !ok {
		s.pods[uid] = &turn{interval: interval, due: now}
		return
	}
	if t.interval != interval {
		t.due = t.due.Add(interval - t.interval)
		t.interval = interval
	}
}

// keep forgets every pod that keep does not name.
func (s *schedule) keep(uids map[types.UID]bool) {
	for uid := range s.pods {
		if !uids[uid] {
			delete(s.pods, uid)
		}
	}
}

// request makes a pod due at once for a generation that is begun from now on.
func (s *schedule) request(uid types.UID, now time.Time) {
	t, ok := s.pods[uid]
	if !ok {
		return
	}
	t.asked = now
	if t.due.After(now) {
		t.due = now
	}
}

// next starts the turn of the pod that has been due longest, and returns its
// UID. It returns false when none is due.
func (s *schedule) next(now time.Time) (types.UID, bool) {
	var best types.UID
	found := false
	for uid, t := range s.pods {
		if t.running || t.due.After(now) {
			continue
		}
		if !found || t.due.Before(s.pods[best].due) {
			best, found = uid, true
		}
	}
	if found {
		s.pods[best].running = true
	}
	return best, found
}

// done ends a turn that started at the given time. After a success the next one
// is due an interval after the start; after a failure the interval doubles, up
// to maxBackoff. retry is set when nothing was wrong and it was merely too
// early, as while a pod's containers start.
func (s *schedule) done(uid types.UID, started, now time.Time, outcome outcome) {
	t, ok := s.pods[uid]
	if !ok {
		return
	}
	t.running = false
	switch outcome {
	case tooEarly:
		t.due = now.Add(min(time.Second, t.interval))
		return
	case succeeded:
		t.failures = 0
	case failed:
		t.failures++
	}
	wait := t.interval
	for range t.failures {
		wait = min(wait*2, max(maxBackoff, t.interval))
	}
	t.due = started.Add(wait)
	if outcome == succeeded && !started.Before(t.asked) {
		t.asked = time.Time{}
	}
	if t.due.Before(now) || outcome == succeeded && !t.asked.IsZero() {
		t.due = now
	}
}

// outcome is how a turn ended.
type outcome int

const (
	succeeded outcome = iota
	failed
	tooEarly
)
