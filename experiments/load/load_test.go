package load

import (
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var begin = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func ms(n int) time.Time { return begin.Add(time.Duration(n) * time.Millisecond) }

func TestSilencesAreBetweenAnswersOfAnyClient(t *testing.T) {
	requests := []Request{
		{Start: ms(0), End: ms(5)},
		{Start: ms(5), End: ms(10)},
		{Start: ms(12), End: ms(262), Error: "timeout"}, // no answer
		{Key: "a", Attempt: 1, Start: ms(11), End: ms(400)},
		{Start: ms(390), End: ms(395)}, // ended earlier, logged later
		{Start: ms(500), End: ms(505)},
		{Start: ms(900), End: ms(905)},
	}
	silences := Silences(requests, ms(8), ms(600))
	want := []Silence{{ms(5), ms(10)}, {ms(10), ms(395)}, {ms(395), ms(400)}, {ms(400), ms(505)}}
	if diff := cmp.Diff(want, silences); diff != "" {
		t.Error(diff)
	}
	longest, sum := Longest(silences, 100*time.Millisecond)
	if longest != want[1] || sum != 490*time.Millisecond {
		t.Errorf("the longest is %v, the sum %s", longest, sum)
	}
	if diff := cmp.Diff([]Request{requests[3]}, OnlyWrites(requests)); diff != "" {
		t.Error(diff)
	}
	if all, failed := Requested(requests, ms(10)); all != 5 || failed != 1 {
		t.Errorf("%d requests, %d failed", all, failed)
	}
}

func TestJudge(t *testing.T) {
	requests := []Request{
		{Key: "kept", Attempt: 1},
		{Key: "lost", Attempt: 1},
		{Key: "twice", Attempt: 1, Error: "timeout"},
		{Key: "twice", Attempt: 2},
		{Key: "unknown", Attempt: 1, Error: "timeout"}, // never acknowledged: not lost
		{},
	}
	got := Judge(requests, map[string]int{"kept": 1, "twice": 2, "other": 5})
	if diff := cmp.Diff(Writes{Acked: 3, Lost: []string{"lost"}, Repeated: []string{"twice"}}, got); diff != "" {
		t.Error(diff)
	}
}

// shop answers at once, except that it hangs for some time, and then forgets some of what it has
// counted, as after a restore of an earlier state.
type shop struct {
	mu        sync.Mutex
	counts    map[string]int
	hang      time.Time
	back      time.Time
	forgotten bool
}

func (s *shop) Read(ctx context.Context) error {
	if now := time.Now(); now.After(s.hang) && now.Before(s.back) {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (s *shop) Add(ctx context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case now.Before(s.hang):
		s.counts[key]++
		return nil
	case now.Before(s.back):
		s.counts[key]++ // it is done, and nobody is told
		return errors.New("connection reset")
	case !s.forgotten:
		s.forgotten = true
		delete(s.counts, "w0-1")
	}
	s.counts[key]++
	return nil
}

func TestClientsSeeTheSilenceAndWhatWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		service := &shop{counts: map[string]int{}, hang: start.Add(1001 * time.Millisecond), back: start.Add(3002 * time.Millisecond)}
		clients := Start(t.Context(), service, Writing())
		time.Sleep(5 * time.Second)
		requests := clients.Stop()
		longest, sum := Longest(Silences(requests, start, time.Now()), 100*time.Millisecond)
		// The last answer before comes within 5 ms of the beginning, the first within 5 ms of the end.
		if got := longest.Length(); got < 2001*time.Millisecond || got > 2011*time.Millisecond || sum != got {
			t.Errorf("the silence lasted %s, in sum %s", got, sum)
		}
		writes := Judge(requests, service.counts)
		if diff := cmp.Diff([]string{"w0-1"}, writes.Lost); diff != "" {
			t.Errorf("lost: %s", diff)
		}
		// Each of ten writers had one write under way.
		if len(writes.Repeated) != 10 {
			t.Errorf("%d were repeated: %v", len(writes.Repeated), writes.Repeated)
		}
		// 200 a second in three seconds, and one more of each writer after the silence.
		if writes.Acked < 580 || writes.Acked > 620 {
			t.Errorf("%d writes were acknowledged", writes.Acked)
		}
		seen := map[int]bool{}
		for _, r := range requests {
			if seen[r.Sequence] {
				t.Fatalf("two requests have the number %d", r.Sequence)
			}
			seen[r.Sequence] = true
		}
	})
}

func TestSavedLogHasEveryRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "logs/x.csv.gz")
	requests := []Request{{Sequence: 1, Start: ms(0), End: ms(1)}, {Sequence: 2, Key: "k", Attempt: 3, Start: ms(2), End: ms(252), Error: "time, out"}}
	if err := Save(file, requests); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(text).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"sequence", "start", "end", "kind", "key", "attempt", "error"},
		{"1", "2026-11-23T00:00:00.000000Z", "2026-11-23T00:00:00.001000Z", "read", "", "0", ""},
		{"2", "2026-11-23T00:00:00.002000Z", "2026-11-23T00:00:00.252000Z", "write", "k", "3", "time, out"},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}
