package main

import (
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/image"
)

// inModule has the programs built from the sources here.
func inModule(t *testing.T) {
	t.Helper()
	var err error
	if module, err = image.Module(""); err != nil {
		t.Fatal(err)
	}
}

func telling(t *testing.T) func(string) { return func(step string) { t.Log(step) } }

// TestSchedulerBench measures a small cluster. Its figures say nothing; what they count
// must be what the names say.
func TestSchedulerBench(t *testing.T) {
	inModule(t)
	const nodes, pods, successors, stream = 50, 60, 20, 5
	runs, err := benchScheduler(t.Context(), telling(t), schedulerOptions{
		sizes: []size{{nodes, pods}}, rounds: 1, successors: successors, stream: stream, rate: 25,
		only: []string{"without the plugin", "protected", "successors"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 3 {
		t.Fatalf("%d runs, want 3", len(runs))
	}
	for _, run := range runs {
		placed, claims := pods, 0
		if run.variant.successors {
			placed, claims = successors, successors
		}
		if run.placed != placed || run.perSecond <= 0 || run.processor <= 0 || run.cycle <= 0 || len(run.latencies) != stream {
			t.Errorf("%s: measured %+v", run.variant.name, run)
		}
		if n := run.requests["create pods/binding"]; n != placed {
			t.Errorf("%s: %d bindings for %d pods; requests: %v", run.variant.name, n, placed, run.requests)
		}
		if n := run.requests["patch migrations/status"]; n != claims {
			t.Errorf("%s: %d claims, want %d; requests: %v", run.variant.name, n, claims, run.requests)
		}
		// By chance it would be one in 25. It is not all of them: so small a
		// checkpoint is soon there from another node.
		if run.variant.successors && run.toHolders*2 < placed {
			t.Errorf("%s: %d of %d pods came to a holder", run.variant.name, run.toHolders, placed)
		}
	}
	table := schedulerTable(runs)
	t.Log("\n" + table)
	for _, run := range runs {
		if !strings.Contains(table, "\n"+run.variant.name+" ") {
			t.Errorf("the table has no row %q", run.variant.name)
		}
	}
}

// TestWatcherBench measures a watcher of a small cluster, and the loss of a node.
func TestWatcherBench(t *testing.T) {
	inModule(t)
	const nodes, pods = 20, 5
	run, err := benchWatcher(t.Context(), telling(t), watcherOptions{
		nodes: nodes, podsPerNode: pods, settle: time.Second, idle: 5 * time.Second, checkpointInterval: 5 * time.Second, loadInterval: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if run.memory.resident <= 0 || run.memory.peak < run.memory.resident || run.processor < 0 {
		t.Errorf("measured %+v", run)
	}
	r := run.recovery
	for name, order := range map[string][2]time.Time{
		"silent, lost":     {r.silent, r.lost},
		"lost, fenced":     {r.lost, r.fenced},
		"fenced, recorded": {r.fenced, r.recorded},
		"fenced, gone":     {r.fenced, r.deleted},
	} {
		if order[0].IsZero() || order[1].Before(order[0]) {
			t.Errorf("%s: %v, the wrong way round", name, order)
		}
	}
	if r.requests["delete pods"] != pods || r.requests["update fences"] != 2 || r.asked == 0 {
		t.Errorf("requests of the recovery: %v, and %d questions; want %d pods deleted and two updates of a fence", r.requests, r.asked, pods)
	}
	t.Log("\n" + watcherTable(run))
}
