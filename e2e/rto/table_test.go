package main

import (
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

func TestSpread(t *testing.T) {
	second := func(s ...float64) (all []time.Duration) {
		for _, s := range s {
			all = append(all, time.Duration(s*float64(time.Second)))
		}
		return all
	}
	for name, test := range map[string]struct {
		measured []time.Duration
		want     spread
	}{
		"one":  {second(3), spread{3 * time.Second, 3 * time.Second, 3 * time.Second}},
		"odd":  {second(9, 1, 4), spread{4 * time.Second, time.Second, 9 * time.Second}},
		"even": {second(9, 1, 4, 5), spread{4500 * time.Millisecond, time.Second, 9 * time.Second}},
	} {
		if got := spreadOf(test.measured); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestTableSaysHowOftenAStepWasSeen(t *testing.T) {
	cut := time.Unix(100, 0)
	records := []*loss.Record{
		{CutAt: cut, Moments: []loss.Moment{{Name: loss.Fenced, At: cut.Add(3 * time.Second)}}},
		{CutAt: cut, LeaderLost: true},
	}
	var out strings.Builder
	if err := table(&out, records); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2 losses, the leading watcher's node among them 1 times", "3.00    3.00    3.00  cut to: " + loss.Fenced + " (1 of 2)"} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}
