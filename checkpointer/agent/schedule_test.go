package agent

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
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

// A pod that is asked for is due at once, and the turn that answers is one that
// began after that.
func TestScheduleAnswersARequest(t *testing.T) {
	s := newSchedule()
	s.set("pod", time.Hour, start)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	s.next(start)
	s.request("pod", at(1)) // a turn is under way that began too early
	s.done("pod", start, at(2), succeeded)
	if _, ok := s.next(at(2)); !ok {
		t.Fatal("not due after a turn that began before the request")
	}
	s.done("pod", at(2), at(3), failed)
	if _, ok := s.next(at(4)); ok {
		t.Error("due again at once although the turn failed: the pauses after failures do not hold")
	}
	s.request("pod", at(5))
	if _, ok := s.next(at(5)); !ok {
		t.Fatal("not due when asked again")
	}
	s.done("pod", at(5), at(6), succeeded)
	if _, ok := s.next(at(7)); ok {
		t.Error("due again although the request was answered")
	}
}

func TestRequestOf(t *testing.T) {
	at := start.Add(1234567 * time.Nanosecond)
	asked := map[string]string{v1alpha1.AnnotationCheckpointRequested: at.Format(time.RFC3339Nano)}
	answered, earlier := metav1.NewMicroTime(at.Truncate(time.Microsecond)), metav1.NewMicroTime(start)
	for name, tc := range map[string]struct {
		annotations map[string]string
		uid         types.UID
		answered    *metav1.MicroTime
		want        time.Time
	}{
		"asked":                   {asked, "pod", nil, at.Truncate(time.Microsecond)},
		"asked again":             {asked, "pod", &earlier, at.Truncate(time.Microsecond)},
		"answered":                {asked, "pod", &answered, time.Time{}},
		"an earlier pod's":        {asked, "before", nil, time.Time{}},
		"not asked":               {nil, "pod", nil, time.Time{}},
		"what nobody understands": {map[string]string{v1alpha1.AnnotationCheckpointRequested: "now"}, "pod", nil, time.Time{}},
	} {
		got := requestOf(&v1alpha1.Checkpoint{
			ObjectMeta: metav1.ObjectMeta{Annotations: tc.annotations},
			Spec:       v1alpha1.CheckpointSpec{PodUID: tc.uid}, Status: v1alpha1.CheckpointStatus{Requested: tc.answered},
		}, "pod")
		if !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
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
