package agent

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestScheduleTakesTheLongestDueFirst(t *testing.T) {
	s := newSchedule()
	s.set("late", time.Minute, start.Add(time.Second))
	s.set("early", time.Minute, start)
	now := start.Add(2 * time.Second)
	for _, want := range []types.UID{"early", "late"} {
		got, ok := s.next(now)
		if !ok || got != want {
			t.Fatalf("next is %q, %t; want %q", got, ok, want)
		}
	}
	if got, ok := s.next(now); ok {
		t.Fatalf("%q is due twice", got)
	}
}

func TestScheduleWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		outcomes []outcome
		want     time.Duration // from the start of the last turn to the next
	}{
		"after a success":           {[]outcome{succeeded}, 10 * time.Second},
		"after a failure":           {[]outcome{failed}, 20 * time.Second},
		"after two failures":        {[]outcome{failed, failed}, 40 * time.Second},
		"after a failure, mended":   {[]outcome{failed, failed, succeeded}, 10 * time.Second},
		"after many failures":       {make8(failed), maxBackoff},
		"when it was too early":     {[]outcome{tooEarly}, time.Second + 100*time.Millisecond},
		"too early, and it repeats": {[]outcome{tooEarly, tooEarly}, time.Second + 100*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSchedule()
			now := start
			s.set("pod", 10*time.Second, now)
			var last time.Time
			for _, o := range tc.outcomes {
				now = s.pods["pod"].due
				if _, ok := s.next(now); !ok {
					t.Fatal("not due")
				}
				last = now
				now = now.Add(100 * time.Millisecond) // what the turn takes
				s.done("pod", last, now, o)
			}
			if got := s.pods["pod"].due.Sub(last); got != tc.want {
				t.Errorf("next turn after %s, want %s", got, tc.want)
			}
		})
	}
}

func make8(o outcome) []outcome { return []outcome{o, o, o, o, o, o, o, o} }

func TestScheduleFollowsAChangedInterval(t *testing.T) {
	s := newSchedule()
	s.set("pod", time.Minute, start)
	s.next(start)
	s.done("pod", start, start, succeeded)
	s.set("pod", 2*time.Second, start)
	if got := s.pods["pod"].due.Sub(start); got != 2*time.Second {
		t.Errorf("due after %s, want 2s", got)
	}
}

// However turns end, a pod has one turn at a time, and is never forgotten.
func TestScheduleProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := newSchedule(), start
		running := map[types.UID]time.Time{}
		uids := []types.UID{"a", "b", "c"}
		for _, uid := range uids {
			s.set(uid, time.Duration(rapid.IntRange(1, 60).Draw(t, "interval"))*time.Second, now)
		}
		for range 50 {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "passed")) * time.Millisecond)
			if uid, ok := s.next(now); ok {
				if _, twice := running[uid]; twice {
					t.Fatalf("%s has two turns", uid)
				}
				running[uid] = now
			}
			for _, uid := range uids {
				if began, ok := running[uid]; ok && rapid.Bool().Draw(t, "ends") {
					s.done(uid, began, now, outcome(rapid.IntRange(0, 2).Draw(t, "outcome")))
					delete(running, uid)
				}
			}
		}
		far := now.Add(2 * maxBackoff)
		due := len(running)
		for {
			if _, ok := s.next(far); !ok {
				break
			}
			due++
		}
		if due != len(uids) {
			t.Fatalf("%d of %d pods are running or due", due, len(uids))
		}
	})
}
