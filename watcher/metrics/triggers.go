package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Triggers are the metrics of what moves pods without being asked.
type Triggers struct {
	began     *prometheus.CounterVec
	evictions *prometheus.CounterVec
}

// NewTriggers makes the metrics and registers them. It panics when one is registered
// already.
func NewTriggers(registry prometheus.Registerer) *Triggers {
	t := &Triggers{
		began: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_triggered_moves_total",
			Help: "Planned moves that the watcher itself has begun, by why the pod was to be moved.",
		}, []string{migrationReason}),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_evictions_total",
			Help: "Requests to evict a protected pod by the watcher's answer: begin, wait, gone, or let_through.",
		}, []string{"answer"}),
	}
	registry.MustRegister(t.began, t.evictions)
	for _, reason := range []v1alpha1.MigrationReason{v1alpha1.MigrationNodeDrained, v1alpha1.MigrationSpotInterruption, v1alpha1.MigrationNodePressure} {
		t.began.WithLabelValues(string(reason))
	}
	for _, answer := range []string{"begin", "wait", "gone", "let_through"} {
		t.evictions.WithLabelValues(answer)
	}
	return t
}

// Began counts a move that the watcher has begun.
func (t *Triggers) Began(reason v1alpha1.MigrationReason) {
	t.began.WithLabelValues(string(reason)).Inc()
}

// Eviction counts a request to evict a protected pod by its answer.
func (t *Triggers) Eviction(answer string) { t.evictions.WithLabelValues(answer).Inc() }
