package main

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/stock"
)

var cut = time.Unix(100, 0)

func at(seconds float64) time.Time { return cut.Add(time.Duration(seconds * float64(time.Second))) }

func TestSpread(t *testing.T) {
	const s = time.Second
	upTo := func(n int) (all []time.Duration) {
		for i := n; i > 0; i-- {
			all = append(all, time.Duration(i)*s)
		}
		return all
	}
	for name, test := range map[string]struct {
		measured []time.Duration
		want     spread
	}{
		"one":    {[]time.Duration{3 * s}, spread{3 * s, 3 * s, 3 * s, 3 * s}},
		"odd":    {[]time.Duration{9 * s, s, 4 * s}, spread{4 * s, 9 * s, s, 9 * s}},
		"even":   {[]time.Duration{9 * s, s, 4 * s, 5 * s}, spread{4500 * time.Millisecond, 9 * s, s, 9 * s}},
		"twenty": {upTo(20), spread{10500 * time.Millisecond, 19 * s, s, 20 * s}},
		"21":     {upTo(21), spread{11 * s, 20 * s, s, 21 * s}},
	} {
		if got := spreadOf(test.measured); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// trials are one loss at its leader's node with a cart beside it that waited for its
// node, and one of which less is known.
func trials() []*trial {
	return []*trial{
		{
			Record: &loss.Record{
				CutAt: cut, Source: "n1", Target: "n2", LeaderLost: true,
				Moments: []loss.Moment{{Name: loss.Declared, At: at(1)}, {Name: loss.Fenced, At: at(3.5)}, {Name: loss.FirstReply, At: at(4.5)}},
				Report:  cart.Report{Status: cart.Status{Outages: []cart.Outage{{LastSuccess: cut, FirstSuccess: at(4.5)}}}},
			},
			stock: &stockRecord{
				notReady: at(2), marked: at(2.5), powerOn: at(10), gone: at(14), created: at(14.5), ready: at(16), firstReply: at(17),
				before: cart.Snapshot{Life: cart.Life{Birth: "A"}}, after: cart.Snapshot{Life: cart.Life{Birth: "B", Ticks: 3}},
				acked: 100, kept: 0, ticks: 200,
			},
		},
		{Record: &loss.Record{CutAt: cut, Source: "n2", Target: "n3",
			Moments: []loss.Moment{{Name: loss.FirstReply, At: at(9)}},
			Report:  cart.Report{Status: cart.Status{Outages: []cart.Outage{{LastSuccess: cut, FirstSuccess: at(9)}}}},
		}},
	}
}

func TestTables(t *testing.T) {
	var out strings.Builder
	if err := (results{trials: trials(), monitor: stock.Fastest, falseLosses: 7}).tables(&out); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"2 losses, the leading watcher's node among them 1 times",
		"2.50 2.50 3.50 3.50 3.50 3.50 " + loss.Fenced + " (1 of 2)",
		"5.00 9.00 6.75 9.00 4.50 9.00 " + loss.FirstReply, // steps of 1 s and 9 s
		"median at most 5.00 s: MISSED (6.75 s); p95 at most 8.00 s: MISSED (9.00 s)",
		"4.50 4.50 4.50 4.50 power back to: successor created (1 of 2)",
		"without power, 0 of 1 times; the power was off for 10.00 to 10.00 s",
		"Its memory came back 0 of 1 times; of 100 acknowledged items 100 are lost, and 20 s of",
		"had power for lost 7 times",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables lack %q:\n%s", want, out.String())
		}
	}
}

func TestAloneIsBeforeThePower(t *testing.T) {
	for name, test := range map[string]struct {
		record stockRecord
		want   bool
	}{
		"never back":        {stockRecord{powerOn: at(10)}, false},
		"back before power": {stockRecord{powerOn: at(10), firstReply: at(9)}, true},
		"back with it":      {stockRecord{powerOn: at(10), firstReply: at(17)}, false},
	} {
		if got := test.record.alone(); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
}

func TestCSV(t *testing.T) {
	file := filepath.Join(t.TempDir(), "losses.csv")
	if err := (results{trials: trials()}).writeCSV(file); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil || len(lines) != 3 {
		t.Fatalf("%d lines, error %v", len(lines), err)
	}
	field := func(line int, name string) string {
		for i, column := range lines[0] {
			if column == name {
				return lines[line][i]
			}
		}
		t.Fatalf("no column %s in %v", name, lines[0])
		return ""
	}
	for name, want := range map[string][2]string{
		"fenced": {"3.500", ""}, "rto_shopper": {"4.500", "9.000"}, "stock_gone": {"14.000", ""},
		"stock_items_acked": {"100", ""}, "leader_lost": {"true", "false"},
	} {
		if got := [2]string{field(1, name), field(2, name)}; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
