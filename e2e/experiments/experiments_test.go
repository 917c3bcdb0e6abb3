// Package experiments runs a small matrix of the experiments, to see that what
// they measure is so.
package experiments

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
	"github.com/lifeboat-dev/lifeboat/experiments/report"
	"github.com/lifeboat-dev/lifeboat/experiments/stage"
)

// judges say what must have come of a run of each strategy.
var judges = map[matrix.Strategy]func(t *testing.T, r matrix.Row){
	matrix.Restart: func(t *testing.T, r matrix.Row) {
		// The cart is in memory alone: who finds nothing lost here finds nothing anywhere.
		if r.Result != matrix.ResultMoved || r.Lost == 0 {
			t.Errorf("a restart ended as %s with %d writes lost", r.Result, r.Lost)
		}
	},
	matrix.Live: func(t *testing.T, r matrix.Row) {
		if r.Result != "Restored" || r.Lost > 0 || r.WrongPages != 0 {
			t.Errorf("a live move ended as %s (%s), %d writes lost, %v pages wrong", r.Result, r.Message, r.Lost, r.WrongPages)
		}
	},
	matrix.Handover: func(t *testing.T, r matrix.Row) {
		if r.Result != "Imported" || r.Lost > 0 || r.WrongPages != 0 {
			t.Errorf("a move by the application ended as %s (%s), %d writes lost, %v pages wrong", r.Result, r.Message, r.Lost, r.WrongPages)
		}
	},
	matrix.Failover: func(t *testing.T, r matrix.Row) {
		if r.Result != "Restored" || r.WrongPages != 0 || !matrix.Known(r.RPOMS) || r.DowntimeMS < 1000 {
			t.Errorf("a failover ended as %s (%s), %v pages wrong, RPO %v ms, downtime %v ms", r.Result, r.Message, r.WrongPages, r.RPOMS, r.DowntimeMS)
		}
	},
}

func TestSmallMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster, which -short does without")
	}
	// An interrupt ends the test, but not before the cluster is gone.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	begin := time.Now()
	var names []string
	for strategy := range judges {
		names = append(names, string(strategy))
	}
	options := matrix.Options{Runs: 1, Small: true, Only: "strategy=" + strings.Join(names, "|")}
	plan, err := options.Plan()
	if err != nil {
		t.Fatal(err)
	}
	s, err := stage.Start(ctx, cluster.Config{Name: "experiments-test", Progress: func(step string) {
		fmt.Printf("  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}, []matrix.Application{matrix.Cart})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	folder := t.TempDir()
	table, err := matrix.Open(filepath.Join(folder, "runs.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range plan {
		row, err := s.Run(ctx, run)
		if err != nil {
			t.Fatalf("%s: %v", run.Cell, err)
		}
		t.Logf("%s: %s, downtime %.0f ms, %d of %d writes lost, phases %v", run.Cell, row.Result, row.DowntimeMS, row.Lost, row.Acked, row.Phases)
		if row.Acked == 0 || row.Requests == 0 || !matrix.Known(row.DowntimeMS) {
			t.Errorf("%s: nothing was measured", run.Cell)
		}
		judges[run.Strategy](t, row)
		if err := table.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	o := report.Options{Document: filepath.Join(folder, "experiments.md"), Plots: filepath.Join(folder, "plots"), Source: "runs.csv"}
	if err := report.Write(table.Rows, o); err != nil {
		t.Error(err)
	}
}
