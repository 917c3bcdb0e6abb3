package fence

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the fencer's metrics. docs/metrics.md describes them.
type metrics struct {
	reads       *prometheus.CounterVec
	remaining   prometheus.Gauge
	freezes     prometheus.Counter
	refutations prometheus.Counter
	kills       prometheus.Counter
}

// The results of a read that are no state of the record.
const (
	resultAbsent = "absent"
	resultError  = "error"
)

// newMetrics makes the metrics and registers them with registry.
func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_fencer_reads_total",
			Help: "Reads of the node's fence record, by what they showed: running, lost, fenced, absent or error.",
		}, []string{"result"}),
		remaining: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_fencer_permission_remaining_seconds",
			Help: "How much longer protected pods may run on the node unless the record is read again; 0 while they are frozen.",
		}),
		freezes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lifeboat_fencer_freezes_total",
			Help: "Pods that were frozen because the node's permission had run out.",
		}),
		refutations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lifeboat_fencer_refutations_total",
			Help: "Declarations of the node as lost that the node refuted in time.",
		}),
		kills: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lifeboat_fencer_kills_total",
			Help: "Pods whose processes were killed because they had started under an older epoch.",
		}),
	}
	registry.MustRegister(m.reads, m.remaining, m.freezes, m.refutations, m.kills)
	return m
}
