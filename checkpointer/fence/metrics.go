package fence

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the fencer's metrics. docs/metrics.md describes them.
type metrics struct {
	reads       *prometheus.CounterVec
	polls       *prometheus.CounterVec
	vouches     *prometheus.CounterVec
	promises    *prometheus.CounterVec
	peers       prometheus.Gauge
	stalls      prometheus.Counter
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

// The results of a poll.
const (
	resultVouched = "vouched"
	resultRefused = "refused"
)

// newMetrics makes the metrics and registers them with registry.
func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_fencer_reads_total",
			Help: "Reads of the node's fence record, by what they showed: running, lost, fenced, absent or error.",
		}, []string{"result"}),
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_fencer_polls_total",
			Help: "Rounds of questions to the node's peers while its record could not be read: vouched when enough of them cannot read theirs either, else refused.",
		}, []string{"result"}),
		vouches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_fencer_vouches_total",
			Help: "Questions of peers whether this node cannot read its record either, by the answer: yes or no.",
		}, []string{"answer"}),
		promises: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_fencer_promises_total",
			Help: "Questions of a watcher for the promise not to vouch for a node, by the answer: yes, or no while this node cannot read its record.",
		}, []string{"answer"}),
		peers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_fencer_peers",
			Help: "Peers in the node's fence record. With none its pods freeze whenever the API cannot be read.",
		}),
		stalls: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lifeboat_fencer_stalls_total",
			Help: "Times that the fencer did not come to look at its permission for longer than the terms allow for.",
		}),
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
	registry.MustRegister(m.reads, m.polls, m.vouches, m.promises, m.peers, m.stalls, m.remaining, m.freezes, m.refutations, m.kills)
	return m
}
