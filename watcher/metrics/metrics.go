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

// heldReasons are all reasons for which a recovery is held.
var heldReasons = []v1alpha1.HeldReason{
	v1alpha1.HeldStormGuard, v1alpha1.HeldAPIUnreachable, v1alpha1.HeldPaused, v1alpha1.HeldRateLimited,
	v1alpha1.HeldCoolDown, v1alpha1.HeldTooFewPeers, v1alpha1.HeldFencerSilent,
}

// movesHeldReasons are all reasons for which a planned move waits.
var movesHeldReasons = []v1alpha1.HeldReason{v1alpha1.HeldMoveLimit, v1alpha1.HeldSameOwner, v1alpha1.HeldBudget}

// strategies are those of planned moves.
var strategies = []v1alpha1.Strategy{
	v1alpha1.StrategyCold, v1alpha1.StrategyWarm, v1alpha1.StrategyLive, v1alpha1.StrategyApplication, v1alpha1.StrategyReplace,
}

// Metrics are the watcher's metrics. Only the watcher that leads counts.
type Metrics struct {
	recoveries   *prometheus.CounterVec
	phases       *prometheus.HistogramVec
	rto, rpo     *prometheus.HistogramVec
	nodes        *prometheus.GaugeVec
	declarations *prometheus.CounterVec
	refused      *prometheus.CounterVec
	held         *prometheus.GaugeVec
	open         prometheus.Gauge
	paused       prometheus.Gauge
	volumesHeld  prometheus.Gauge
	collected    *prometheus.CounterVec
	unprotected  *prometheus.GaugeVec

	moves                     *prometheus.CounterVec
	moveSeconds, moveDowntime *prometheus.HistogramVec
	movePhases                *prometheus.HistogramVec
	movesOpen                 prometheus.Gauge
	movesHeld                 *prometheus.GaugeVec

	clones                  *prometheus.CounterVec
	cloneSeconds, clonedAge prometheus.Histogram
	clonePhases             *prometheus.HistogramVec
}

// migrationReason is the label with the reason of the Migration itself: why its
// pod was moved. The label "reason" is the result's.
const migrationReason = "migration_reason"

// buckets reach from what a small pod needs to what a large image takes to pull.
var buckets = []float64{.05, .1, .25, .5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, 300, 600}

// New makes the metrics and registers them. It panics when one is registered
// already.
func New(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		recoveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_recoveries_total",
			Help: "Closed migrations by result, by the reason why it is not Restored, by strategy, and by why the pod was moved.",
		}, []string{"result", "reason", "strategy", migrationReason}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_recovery_phase_seconds", Buckets: buckets,
			Help: "Time from the step before, for Detected from the last sign of life, to the end of each step of a recovery.",
		}, []string{"phase"}),
		rto: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_recovery_rto_seconds", Buckets: buckets,
			Help: "Time from a lost node's last sign of life until the successor of one of its pods was Ready.",
		}, []string{migrationReason}),
		rpo: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_recovery_rpo_seconds", Buckets: buckets,
			Help: "Age of the restored state at the lost node's last sign of life.",
		}, []string{migrationReason}),
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
			Help: "Times that the watcher began to refuse to act on a node that looks lost, by reason.",
		}, []string{"reason"}),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lifeboat_recoveries_held",
			Help: "Pods whose node looks lost and whose recovery is held, by reason.",
		}, []string{"reason"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_recoveries_open",
			Help: "Recoveries that are under way: migrations without a result that are not held.",
		}),
		paused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_recoveries_paused",
			Help: "1 while an operator has paused recoveries, else 0.",
		}),
		volumesHeld: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_volumes_held",
			Help: "Fenced nodes that keep volumes of recovered pods attached because other pods there could be harmed.",
		}),
		unprotected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lifeboat_unprotected_pods",
			Help: "Running pods that opted in and would not be restored if their node were lost now, by reason.",
		}, []string{"reason"}),
		collected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_collected_total",
			Help: "Records that were removed because nobody needs them any more, by kind.",
		}, []string{"kind"}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_moves_total",
			Help: "Closed planned moves by strategy, result, the reason of that, and by why the pod was moved.",
		}, []string{"strategy", "result", "reason", migrationReason}),
		moveSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_move_seconds", Buckets: buckets,
			Help: "Time from when a planned move was asked for until the pod was Ready elsewhere, by strategy.",
		}, []string{"strategy"}),
		moveDowntime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_move_downtime_seconds", Buckets: buckets,
			Help: "Time from when a planned move paused the pod until it was Ready elsewhere, by strategy.",
		}, []string{"strategy"}),
		movePhases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_move_phase_seconds", Buckets: buckets,
			Help: "Time from the step before, for Accepted from when it was asked for, to the end of each step of a planned move.",
		}, []string{"phase"}),
		movesOpen: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_moves_open",
			Help: "Planned moves that are under way: without a result, and not held.",
		}),
		movesHeld: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lifeboat_moves_held",
			Help: "Planned moves that wait to begin, by reason.",
		}, []string{"reason"}),
		clones: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_clones_total",
			Help: "Closed clones, pods that were to start from another pod's checkpoint, by result and the reason of that.",
		}, []string{"result", "reason"}),
		cloneSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lifeboat_clone_seconds", Buckets: buckets,
			Help: "Time from when a clone was asked for until it was Ready with the memory of the checkpoint.",
		}),
		clonedAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lifeboat_clone_memory_age_seconds", Buckets: buckets,
			Help: "Age of a clone's checkpoint when the clone was asked for.",
		}),
		clonePhases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_clone_phase_seconds", Buckets: buckets,
			Help: "Time from the step before, for Accepted from when it was asked for, to the end of each step of a clone's start.",
		}, []string{"phase"}),
	}
	registry.MustRegister(m.recoveries, m.phases, m.rto, m.rpo, m.nodes, m.declarations, m.refused, m.held, m.open, m.paused,
		m.volumesHeld, m.collected, m.unprotected, m.moves, m.moveSeconds, m.moveDowntime, m.movePhases, m.movesOpen, m.movesHeld,
		m.clones, m.cloneSeconds, m.clonedAge, m.clonePhases)
	for _, outcome := range []Outcome{Declared, Fenced, Refuted, Abandoned} {
		m.declarations.WithLabelValues(string(outcome))
	}
	for _, reason := range heldReasons {
		m.refused.WithLabelValues(string(reason))
		m.held.WithLabelValues(string(reason))
	}
	for _, kind := range []string{"Migration", "Fence"} {
		m.collected.WithLabelValues(kind)
	}
	for _, reason := range movesHeldReasons {
		m.movesHeld.WithLabelValues(string(reason))
	}
	for _, strategy := range strategies {
		m.moveSeconds.WithLabelValues(string(strategy))
		m.moveDowntime.WithLabelValues(string(strategy))
	}
	m.rto.WithLabelValues(string(v1alpha1.MigrationNodeLost))
	m.rpo.WithLabelValues(string(v1alpha1.MigrationNodeLost))
	return m
}

// Recovery counts a Migration that was just closed. One that was Withdrawn moved
// nothing, so there is nothing to measure.
func (m *Metrics) Recovery(migration *v1alpha1.Migration) {
	s, why := migration.Status, string(migration.Spec.Reason)
	m.recoveries.WithLabelValues(string(s.Result), s.Reason, string(migration.Spec.Strategy), why).Inc()
	if s.Result == v1alpha1.ResultWithdrawn {
		return
	}
	before := migration.BeganAt()
	for _, p := range s.Phases {
		m.phases.WithLabelValues(string(p.Phase)).Observe(max(0, p.At.Sub(before).Seconds()))
		before = p.At.Time
		if p.Phase == v1alpha1.PhaseReady {
			m.rto.WithLabelValues(why).Observe(p.At.Sub(migration.Spec.LostAt.Time).Seconds())
		}
	}
	if s.Result == v1alpha1.ResultRestored {
		m.rpo.WithLabelValues(why).Observe(s.RPOSeconds)
	}
}

// Move counts a planned move that was just closed. Where the pod was not moved there is
// nothing to measure.
func (m *Metrics) Move(migration *v1alpha1.Migration) {
	s, strategy := migration.Status, string(migration.Spec.Strategy)
	m.moves.WithLabelValues(strategy, string(s.Result), s.Reason, string(migration.Spec.Reason)).Inc()
	if s.Result == v1alpha1.ResultWithdrawn || s.Result == v1alpha1.ResultFailed {
		return
	}
	before := migration.BeganAt()
	for _, p := range s.Phases {
		m.movePhases.WithLabelValues(string(p.Phase)).Observe(max(0, p.At.Sub(before).Seconds()))
		before = p.At.Time
	}
	m.moveSeconds.WithLabelValues(strategy).Observe(s.RTOSeconds)
	m.moveDowntime.WithLabelValues(strategy).Observe(s.DowntimeSeconds)
}

// Clone counts a clone that was just closed. One that was not restored is not measured.
func (m *Metrics) Clone(migration *v1alpha1.Migration) {
	s := migration.Status
	m.clones.WithLabelValues(string(s.Result), s.Reason).Inc()
	if s.Result != v1alpha1.ResultRestored {
		return
	}
	before := migration.BeganAt()
	for _, p := range s.Phases {
		m.clonePhases.WithLabelValues(string(p.Phase)).Observe(max(0, p.At.Sub(before).Seconds()))
		before = p.At.Time
	}
	m.cloneSeconds.Observe(s.RTOSeconds)
	m.clonedAge.Observe(s.RPOSeconds)
}

// Moves sets how many planned moves are under way, and how many are held by reason.
func (m *Metrics) Moves(open int, held map[v1alpha1.HeldReason]int) {
	m.movesOpen.Set(float64(open))
	for _, reason := range movesHeldReasons {
		m.movesHeld.WithLabelValues(string(reason)).Set(float64(held[reason]))
	}
}

// Declaration counts an outcome of a declaration.
func (m *Metrics) Declaration(outcome Outcome) { m.declarations.WithLabelValues(string(outcome)).Inc() }

// Refused counts a refusal to act on a node that looks lost.
func (m *Metrics) Refused(reason v1alpha1.HeldReason) {
	m.refused.WithLabelValues(string(reason)).Inc()
}

// Recoveries sets how many recoveries are under way, and how many are held by reason.
func (m *Metrics) Recoveries(open int, held map[v1alpha1.HeldReason]int) {
	m.open.Set(float64(open))
	for _, reason := range heldReasons {
		m.held.WithLabelValues(string(reason)).Set(float64(held[reason]))
	}
}

// Unprotected sets how many running pods that opted in are not protected, by reason.
func (m *Metrics) Unprotected(pods map[string]int) {
	m.unprotected.Reset()
	for reason, n := range pods {
		m.unprotected.WithLabelValues(reason).Set(float64(n))
	}
}

// Paused sets whether an operator has paused recoveries.
func (m *Metrics) Paused(paused bool) {
	m.paused.Set(0)
	if paused {
		m.paused.Set(1)
	}
}

// VolumesHeld sets how many fenced nodes keep volumes of recovered pods attached.
func (m *Metrics) VolumesHeld(nodes int) { m.volumesHeld.Set(float64(nodes)) }

// Collected counts a record that was removed.
func (m *Metrics) Collected(kind string) { m.collected.WithLabelValues(kind).Inc() }

// Nodes sets how many nodes are in each state.
func (m *Metrics) Nodes(count map[string]int) {
	for _, state := range []string{
		string(detect.Alive), string(detect.Suspected), string(detect.Unreachable), string(detect.Stopped), string(detect.Gone),
		string(v1alpha1.FenceLost), string(v1alpha1.FenceFenced),
	} {
		m.nodes.WithLabelValues(state).Set(float64(count[state]))
	}
}
