package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Requests are the metrics of the REST API. Every watcher counts its own.
type Requests struct {
	answered *prometheus.CounterVec
	served   prometheus.Gauge
}

// NewRequests makes the metrics and registers them. It panics when one is registered
// already.
func NewRequests(registry prometheus.Registerer) *Requests {
	r := &Requests{
		answered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_api_requests_total",
			Help: "Requests to the REST API that were answered, by HTTP method and by the answer's status.",
		}, []string{"method", "code"}),
		served: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_api_requests_in_flight",
			Help: "Requests to the REST API that are being served, streams of events among them.",
		}),
	}
	registry.MustRegister(r.answered, r.served)
	return r
}

// Count counts what a handler serves. Without r it counts nothing.
func (r *Requests) Count(next http.Handler) http.Handler {
	if r == nil {
		return next
	}
	return promhttp.InstrumentHandlerInFlight(r.served, promhttp.InstrumentHandlerCounter(r.answered, next))
}
