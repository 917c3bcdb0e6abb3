// Package metrics holds the watcher's metrics, all in one place.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// Outcome is what became of a declaration of a node as lost.
type Outcome string

// The outcomes of a declaration: Declared comes first, then one of the others.
const (
	Declared  Outcome = "declared"
	Fenced    Outcome = "fenced"
	Refuted   Outcome = "refuted"   // the node, or the watcher on a sign of life, took it back
	Abandoned Outcome = "abandoned" // the write met another one, or failed, and is decided anew
)

// RefusedTooManyLost is why recoveries are refused: too many nodes look lost.
const RefusedTooManyLost = "TooManyNodesLost"

// Metrics are the watcher's metrics. Only the watcher that leads counts.
type Metrics struct {
	recoveries   *prometheus.CounterVec
	phases       *prometheus.HistogramVec
	rto, rpo     prometheus.Histogram
	nodes        *prometheus.GaugeVec
	declarations *prometheus.CounterVec
	refused      *prometheus.CounterVec
}

// buckets reach from what a small pod needs to what a large image takes to pull.
var buckets = []float64{.05, .1, .25, .5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, 300, 600}

// New makes the metrics and registers them. It panics when one is registered
// already.
func New(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		recoveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_recoveries_total",
			Help: "Closed migrations by result, by the reason why it is not Restored, and by strategy.",
		}, []string{"result", "reason", "strategy"}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_recovery_phase_seconds", Buckets: buckets,
			Help: "Time from the step before, for Detected from the last sign of life, to the end of each step of a recovery.",
		}, []string{"phase"}),
		rto: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lifeboat_recovery_rto_seconds", Buckets: buckets,
			Help: "Time from a lost node's last sign of life until the successor of one of its pods was Ready.",
		}),
		rpo: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lifeboat_recovery_rpo_seconds", Buckets: buckets,
			Help: "Age of the restored state at the lost node's last sign of life.",
		}),
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lifeboat_nodes",
			Help: "Nodes with a fence record by what is believed of them: Alive, Suspected, Unreachable, Gone, Lost (declared) or Fenced.",
		}, []string{"state"}),
		declarations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_fence_declarations_total",
			Help: "Declarations of a node as lost by outcome: each is declared, then fenced, refuted or abandoned.",
		}, []string{"outcome"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_refused_recoveries_total",
			Help: "Times that the watcher refused to act on lost nodes, by reason.",
		}, []string{"reason"}),
	}
	registry.MustRegister(m.recoveries, m.phases, m.rto, m.rpo, m.nodes, m.declarations, m.refused)
	for _, outcome := range []Outcome{Declared, Fenced, Refuted, Abandoned} {
		m.declarations.WithLabelValues(string(outcome))
	}
	m.refused.WithLabelValues(RefusedTooManyLost)
	return m
}

// Recovery counts a Migration that was just closed.
func (m *Metrics) Recovery(migration *v1alpha1.Migration) {
	s := migration.Status
	m.recoveries.WithLabelValues(string(s.Result), s.Reason, string(migration.Spec.Strategy)).Inc()
	before := migration.Spec.LostAt.Time
	for _, p := range s.Phases {
		m.phases.WithLabelValues(string(p.Phase)).Observe(max(0, p.At.Sub(before).Seconds()))
		before = p.At.Time
		if p.Phase == v1alpha1.PhaseReady {
			m.rto.Observe(p.At.Sub(migration.Spec.LostAt.Time).Seconds())
		}
	}
	if s.Result == v1alpha1.ResultRestored {
		m.rpo.Observe(s.RPOSeconds)
	}
}

// Declaration counts an outcome of a declaration.
func (m *Metrics) Declaration(outcome Outcome) { m.declarations.WithLabelValues(string(outcome)).Inc() }

// Refused counts a refusal to act on lost nodes.
func (m *Metrics) Refused() { m.refused.WithLabelValues(RefusedTooManyLost).Inc() }

// Nodes sets how many nodes are in each state.
func (m *Metrics) Nodes(count map[string]int) {
	for _, state := range []string{
		string(detect.Alive), string(detect.Suspected), string(detect.Unreachable), string(detect.Gone),
		string(v1alpha1.FenceLost), string(v1alpha1.FenceFenced),
	} {
		m.nodes.WithLabelValues(state).Set(float64(count[state]))
	}
}
