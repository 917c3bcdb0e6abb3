package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// filled is a registry in which every metric has a value.
func filled() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	m := New(registry)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds float64) metav1.MicroTime {
		return metav1.NewMicroTime(start.Add(time.Duration(seconds * float64(time.Second))))
	}
	m.Recovery(&v1alpha1.Migration{
		Spec: v1alpha1.MigrationSpec{Strategy: v1alpha1.StrategyFailover, Reason: v1alpha1.MigrationNodeLost, LostAt: at(0)},
		Status: v1alpha1.MigrationStatus{
			Result: v1alpha1.ResultRestored, RPOSeconds: 2,
			Phases: []v1alpha1.PhaseTime{
				{Phase: v1alpha1.PhaseDetected, At: at(0.6)},
				{Phase: v1alpha1.PhaseFenced, At: at(3)},
				{Phase: v1alpha1.PhaseReady, At: at(4.5)},
			},
		},
	})
	m.Recovery(&v1alpha1.Migration{
		Spec:   v1alpha1.MigrationSpec{Strategy: v1alpha1.StrategyFailover, Reason: v1alpha1.MigrationNodeLost, LostAt: at(0)},
		Status: v1alpha1.MigrationStatus{Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonNotReady},
	})
	// A withdrawn one is no recovery: its times are not measured.
	m.Recovery(&v1alpha1.Migration{
		Spec: v1alpha1.MigrationSpec{Strategy: v1alpha1.StrategyFailover, Reason: v1alpha1.MigrationNodeShutdown, LostAt: at(0)},
		Status: v1alpha1.MigrationStatus{Result: v1alpha1.ResultWithdrawn,
			Phases: []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseDetected, At: at(100)}, {Phase: v1alpha1.PhaseReady, At: at(200)}}},
	})
	m.Move(&v1alpha1.Migration{
		Spec: v1alpha1.MigrationSpec{Strategy: v1alpha1.StrategyLive, Reason: v1alpha1.MigrationNodeDrained, LostAt: at(0)},
		Status: v1alpha1.MigrationStatus{Result: v1alpha1.ResultRestored, RTOSeconds: 3, DowntimeSeconds: 0.25,
			Phases: []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseAccepted, At: at(0.5)}, {Phase: v1alpha1.PhaseStopping, At: at(2)}}},
	})
	m.Moves(2, map[v1alpha1.HeldReason]int{v1alpha1.HeldSameOwner: 1})
	m.Declaration(Declared)
	m.Refused(v1alpha1.HeldStormGuard)
	m.Recoveries(2, map[v1alpha1.HeldReason]int{v1alpha1.HeldPaused: 3})
	m.Unprotected(map[string]int{"NoRoom": 1, "FirstCheckpoint": 2})
	m.Unprotected(map[string]int{"NoRoom": 3})
	m.Paused(true)
	m.VolumesHeld(1)
	m.Collected("Migration")
	m.Nodes(map[string]int{"Alive": 3, "Fenced": 1})
	return registry
}

func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(filled())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestValues(t *testing.T) {
	want := `
# HELP lifeboat_recoveries_total Closed migrations by result, by the reason why it is not Restored, by strategy, and by why the pod was moved.
# TYPE lifeboat_recoveries_total counter
lifeboat_recoveries_total{migration_reason="NodeLost",reason="",result="Restored",strategy="Failover"} 1
lifeboat_recoveries_total{migration_reason="NodeLost",reason="NotReady",result="Failed",strategy="Failover"} 1
lifeboat_recoveries_total{migration_reason="NodeShutdown",reason="",result="Withdrawn",strategy="Failover"} 1
# HELP lifeboat_recoveries_held Pods whose node looks lost and whose recovery is held, by reason.
# TYPE lifeboat_recoveries_held gauge
lifeboat_recoveries_held{reason="APIUnreachable"} 0
lifeboat_recoveries_held{reason="CoolDown"} 0
lifeboat_recoveries_held{reason="FencerSilent"} 0
lifeboat_recoveries_held{reason="Paused"} 3
lifeboat_recoveries_held{reason="RateLimited"} 0
lifeboat_recoveries_held{reason="StormGuard"} 0
lifeboat_recoveries_held{reason="TooFewPeers"} 0
# HELP lifeboat_moves_held Planned moves that wait to begin, by reason.
# TYPE lifeboat_moves_held gauge
lifeboat_moves_held{reason="DisruptionBudget"} 0
lifeboat_moves_held{reason="MoveLimit"} 0
lifeboat_moves_held{reason="SameOwner"} 1
# HELP lifeboat_moves_total Closed planned moves by strategy, result, the reason of that, and by why the pod was moved.
# TYPE lifeboat_moves_total counter
lifeboat_moves_total{migration_reason="NodeDrained",reason="",result="Restored",strategy="Live"} 1
# HELP lifeboat_unprotected_pods Running pods that opted in and would not be restored if their node were lost now, by reason.
# TYPE lifeboat_unprotected_pods gauge
lifeboat_unprotected_pods{reason="NoRoom"} 3
# HELP lifeboat_nodes Nodes with a fence record by what is believed of them: Alive, Suspected, Unreachable, Gone, Lost (declared) or Fenced.
# TYPE lifeboat_nodes gauge
lifeboat_nodes{state="Alive"} 3
lifeboat_nodes{state="Fenced"} 1
lifeboat_nodes{state="Gone"} 0
lifeboat_nodes{state="Lost"} 0
lifeboat_nodes{state="Stopped"} 0
lifeboat_nodes{state="Suspected"} 0
lifeboat_nodes{state="Unreachable"} 0
`
	if err := testutil.GatherAndCompare(filled(), strings.NewReader(want), "lifeboat_recoveries_total", "lifeboat_recoveries_held", "lifeboat_unprotected_pods",
		"lifeboat_nodes", "lifeboat_moves_held", "lifeboat_moves_total"); err != nil {
		t.Error(err)
	}
	families, err := filled().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, metric := range f.Metric {
			if h := metric.GetHistogram(); h != nil {
				sums[f.GetName()] += h.GetSampleSum()
			}
		}
	}
	for name, want := range map[string]float64{
		"lifeboat_recovery_phase_seconds": 4.5, "lifeboat_recovery_rto_seconds": 4.5, "lifeboat_recovery_rpo_seconds": 2,
		"lifeboat_move_seconds": 3, "lifeboat_move_downtime_seconds": 0.25, "lifeboat_move_phase_seconds": 2,
	} {
		if sums[name] != want {
			t.Errorf("sum of %s = %v, want %v", name, sums[name], want)
		}
	}
}
