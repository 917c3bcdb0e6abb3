package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestTriggers(t *testing.T) {
	registry := prometheus.NewRegistry()
	triggers := NewTriggers(registry)
	triggers.Began(v1alpha1.MigrationSpotInterruption)
	triggers.Eviction("wait")
	triggers.Eviction("wait")
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("problems %v, %v", problems, err)
	}
	want := `
# HELP lifeboat_evictions_total Requests to evict a protected pod by the watcher's answer: begin, wait, gone, or let_through.
# TYPE lifeboat_evictions_total counter
lifeboat_evictions_total{answer="begin"} 0
lifeboat_evictions_total{answer="gone"} 0
lifeboat_evictions_total{answer="let_through"} 0
lifeboat_evictions_total{answer="wait"} 2
# HELP lifeboat_triggered_moves_total Planned moves that the watcher itself has begun, by why the pod was to be moved.
# TYPE lifeboat_triggered_moves_total counter
lifeboat_triggered_moves_total{migration_reason="NodeDrained"} 0
lifeboat_triggered_moves_total{migration_reason="NodePressure"} 0
lifeboat_triggered_moves_total{migration_reason="SpotInterruption"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
