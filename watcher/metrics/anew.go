package metrics

import "github.com/prometheus/client_golang/prometheus"

// StartedAnew registers how often the process of a watcher has started anew by itself.
// It panics when that is registered already.
func StartedAnew(registry prometheus.Registerer, times int) {
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "lifeboat_watcher_started_anew_total",
		Help: "Times that a watcher has started anew in its container: it had lost the lead, mostly because the API server did not answer in time.",
	}, func() float64 { return float64(times) }))
}
