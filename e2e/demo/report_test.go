package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

func TestReportFitsATerminalAndSaysWhatWasLost(t *testing.T) {
	cut := time.Unix(1000, 0)
	taken := metav1.NewMicroTime(cut.Add(-time.Second))
	r := &loss.Record{
		Source: "n1", Target: "n2", CutAt: cut, LeaderLost: true,
		Checkpoint: v1alpha1.Checkpoint{Status: v1alpha1.CheckpointStatus{PauseSeconds: 0.0274, Bytes: 12 << 20, NewBytes: 300 << 10}},
		Migration: v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
			Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonCheckpointDamaged, RTOSeconds: 121.5, RPOSeconds: 100.25,
			Restore: &v1alpha1.RestoreStatus{Generation: 1234, TakenAt: &taken, Containers: []v1alpha1.ContainerRestore{{Name: "shopping-cart", Result: v1alpha1.ResultColdStarted, Seconds: 12.5}}},
		}},
		Before: cart.Snapshot{Life: cart.Life{Birth: strings.Repeat("B", 26), Ticks: 123456}},
		After:  cart.Snapshot{Life: cart.Life{Birth: strings.Repeat("A", 26), Ticks: 12}},
		Report: cart.Report{
			Status: cart.Status{Cart: "alice", Outages: []cart.Outage{{LastSuccess: cut, FirstSuccess: cut.Add(time.Minute)}}},
			Writes: []cart.Write{{SKU: "a", AckedAt: cut.Add(-2 * time.Second)}, {SKU: "b", AckedAt: cut.Add(-time.Millisecond)}},
		},
	}
	for i, name := range loss.Moments {
		r.Moments = append(r.Moments, loss.Moment{Name: name, At: cut.Add(time.Duration(i+1) * 20 * time.Second)})
	}
	var out strings.Builder
	report(&out, r)
	for line := range strings.Lines(out.String()) {
		if width := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); width > 80 {
			t.Errorf("%d characters: %s", width, line)
		}
	}
	for _, want := range []string{"from n1 to n2", "2 lost", "DIFFERENT", "27 ms", "12.0 MiB", "300 KiB", "121.50 s", "did not outlive"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}
