package main

import (
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
)

// TestShortChaos runs the scenarios that cover most of the rest: make chaos runs all.
func TestShortChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster: not with -short")
	}
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	config := cluster.Config{Name: "chaos-test", Nodes: 5, Progress: func(step string) { t.Log(step) }}
	theatre, closeAll, err := open(ctx, config, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeAll(); err != nil {
			t.Error(err)
		}
		if left, err := theatre.cluster.Leftovers(); err != nil || len(left) > 0 {
			t.Errorf("the cluster left behind: %s %v", strings.Join(left, ", "), err)
		}
	})
	for _, sc := range scenarios {
		if !sc.short {
			continue
		}
		t.Run(sc.name, func(t *testing.T) {
			theatre.progress = func(format string, args ...any) { t.Logf(format, args...) }
			r := theatre.perform(ctx, sc)
			theatre.report(r)
			for _, fault := range r.faults() {
				t.Error(fault)
			}
		})
	}
}
