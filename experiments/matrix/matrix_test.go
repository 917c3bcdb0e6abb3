package matrix

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

func TestPlanHasEveryCellOnceBeforeAnyTwice(t *testing.T) {
	o := Options{Runs: 2}
	cells, err := o.Cells()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := o.Plan()
	if err != nil {
		t.Fatal(err)
	}
	if len(plan) != 2*len(cells) {
		t.Fatalf("%d runs of %d cells", len(plan), len(cells))
	}
	seen := map[Run]bool{}
	for i, r := range plan {
		if seen[r] {
			t.Errorf("twice in the plan: %s, run %d", r.Cell, r.Number)
		}
		seen[r] = true
		if want := 1 + i/len(cells); r.Number != want {
			t.Fatalf("place %d has run %d of %s, want a run %d", i, r.Number, r.Cell, want)
		}
	}
	// What the aims are about has to be in it.
	for _, c := range []Cell{
		{Cart, Deployment, Live, 512, Writes, content.Random}, {Cart, StatefulSet, Live, 512, Writes, content.Random},
		{Cart, StatefulSet, Live, 2048, Writes, content.Random}, {Cart, StatefulSet, Stock, 2048, Writes, content.Random},
		{Cart, StatefulSet, Live, 64, Writes, content.Random}, {Redis, StatefulSet, Failover, 512, Idle, content.Random},
	} {
		if !seen[Run{c, 1}] {
			t.Errorf("not in the plan: %s", c)
		}
	}
}

func TestEveryCombinationIsMeasuredOrExcludedWithAReason(t *testing.T) {
	all, err := Options{All: true}.Cells()
	if err != nil {
		t.Fatal(err)
	}
	chosen := map[Cell]bool{}
	for _, c := range all {
		chosen[c] = true
	}
	for _, a := range Applications {
		for _, s := range Strategies {
			for _, o := range ownersOf(a) {
				c := Cell{a, o, s, 64, Idle, content.Zeros}
				if chosen[c] == (c.Excluded() != "") {
					t.Errorf("%s: chosen %t, excluded %q", c, chosen[c], c.Excluded())
				}
			}
		}
	}
}

func TestOnly(t *testing.T) {
	cells, err := Options{All: true, Only: "app=cart|redis,owner=statefulset strategy=live memory=64 load=idle content=text"}.Cells()
	if err != nil {
		t.Fatal(err)
	}
	want := []Cell{{Cart, StatefulSet, Live, 64, Idle, content.Text}, {Redis, StatefulSet, Live, 64, Idle, content.Text}}
	if diff := cmp.Diff(want, cells); diff != "" {
		t.Error(diff)
	}
	for only, says := range map[string]string{
		"colour=red": "use words like", "app": "use words like", "app=mysql": "one of stateless, cart, redis, postgresql",
		"app=stateless,strategy=application": "choose no cell",
	} {
		if _, err := (Options{All: true, Only: only}).Cells(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("--only %s: %v, want an error with %q", only, err, says)
		}
	}
}

func someRow(number int) Row {
	r := NewRow(Run{Cell{Cart, StatefulSet, Live, 512, Writes, content.Random}, number})
	r.At, r.TookSeconds = time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC), 20.5
	r.Result, r.Message, r.DowntimeMS, r.Lost = "Restored", `said "no", once`, 123.456, 7
	r.Phases = []Phase{{"Accepted", 1.5}, {"Ready", 300}}
	return r
}

func TestTableIsReadAsItWasWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data/runs.csv")
	table, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	first, second := someRow(1), someRow(2)
	for _, r := range []Row{first, second} {
		if err := table.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Row{first, second}, again.Rows, cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("(-written +read)\n%s", diff)
	}
	third := someRow(3).Run
	if got := again.Missing([]Run{first.Run, third, second.Run}); !cmp.Equal(got, []Run{third}) || again.Has(third) || !again.Has(first.Run) {
		t.Errorf("missing: %v", got)
	}
}

func TestTableOfAnotherVersionIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "runs.csv")
	if err := os.WriteFile(file, []byte("application,speed\ncart,9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("%v", err)
	}
}

func TestLeftGoesByTheMostSimilarRuns(t *testing.T) {
	row := func(s Strategy, memory int, seconds float64) Row {
		r := NewRow(Run{Cell: Cell{Strategy: s, MemoryMB: memory}})
		r.TookSeconds = seconds
		return r
	}
	run := func(s Strategy, memory int) Run { return Run{Cell: Cell{Strategy: s, MemoryMB: memory}} }
	measured := []Row{row(Live, 64, 10), row(Live, 64, 20), row(Stock, 512, 60), row(Cold, 512, math.NaN())}
	for _, test := range []struct {
		run  Run
		want time.Duration
	}{
		{run(Live, 64), 15 * time.Second}, {run(Cold, 512), time.Minute}, {run(Cold, 2048), 30 * time.Second},
	} {
		if got, known := Left(measured, []Run{test.run}); !known || got != test.want {
			t.Errorf("%s: %s, want %s", test.run.Cell, got, test.want)
		}
	}
	if _, known := Left(nil, []Run{run(Live, 64)}); known {
		t.Error("an estimate from nothing")
	}
	if got, want := Progress(4, measured, []Run{run(Stock, 512), run(Stock, 512)}), "[############............] 2 of 4 runs, about 2 minutes left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
