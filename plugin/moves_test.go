package plugin

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// by makes a Migration a planned move that has come to some phases.
func by(strategy v1alpha1.Strategy, phases ...v1alpha1.Phase) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) {
		m.Spec.Strategy = strategy
		for _, phase := range phases {
			m.Status.Phase = phase
			m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: phase})
		}
	}
}

func released(m *v1alpha1.Migration) {
	m.Annotations = map[string]string{v1alpha1.AnnotationPodLabels: "{}"}
}

func sourceStopped(m *v1alpha1.Migration) {
	now := metav1.NowMicro()
	m.Status.Source = &v1alpha1.SourceStatus{StoppedAt: &now}
}

func goesTo(node string) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { m.Spec.TargetNode = node }
}

// A planned move's successor may claim it as soon as there can be one, and not before:
// another new pod of the same owner would wait for a move that may come to nothing.
func TestClaimPlanned(t *testing.T) {
	const (
		accepted, stopping = v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping
		stopped, deleted   = v1alpha1.PhaseStopped, v1alpha1.PhaseDeleted
		live               = v1alpha1.StrategyLive
	)
	withdrawing := func(m *v1alpha1.Migration) { m.Status.Reason = v1alpha1.ReasonCanceled }
	held := func(m *v1alpha1.Migration) { m.Status.Held = &v1alpha1.Held{Reason: v1alpha1.HeldBudget} }
	type changes []func(*v1alpha1.Migration)
	for name, tc := range map[string]struct {
		changes             changes
		claimable, prepared bool
	}{
		"asked for":                    {changes{by(live)}, false, false},
		"held":                         {changes{by(live), held}, false, false},
		"accepted":                     {changes{by(live, accepted)}, false, false},
		"released":                     {changes{by(live, accepted), released}, true, true},
		"released, and withdrawn":      {changes{by(live, accepted), released, withdrawing}, false, false},
		"released, and closed":         {changes{by(live, accepted), released, closed}, false, false},
		"being stopped":                {changes{by(live, accepted, stopping)}, false, false},
		"stopped":                      {changes{by(live, accepted, stopping, stopped), sourceStopped}, true, false},
		"stopped and deleted":          {changes{by(live, accepted, stopping, stopped, deleted), sourceStopped}, true, true},
		"released, stopped":            {changes{by(live, accepted, stopping, stopped), released, sourceStopped}, true, true},
		"its state is to be imported":  {changes{by(v1alpha1.StrategyApplication, accepted), released}, true, true},
		"its state is staged":          {changes{by(v1alpha1.StrategyApplication, accepted, stopping, stopped, deleted), sourceStopped}, true, true},
		"its state is exported":        {changes{by(v1alpha1.StrategyApplication, accepted, stopping)}, false, false},
		"it is replaced":               {changes{by(v1alpha1.StrategyReplace, accepted), released}, false, false},
		"it is replaced, and gone":     {changes{by(v1alpha1.StrategyReplace, accepted, stopping, deleted)}, false, false},
		"cold, stopped and deleted":    {changes{by(v1alpha1.StrategyCold, accepted, stopping, stopped, deleted), sourceStopped}, true, true},
		"claimed by another pod":       {changes{by(live, accepted), released, claimed("another")}, false, true},
		"claimed by this pod, stopped": {changes{by(live, accepted, stopping), released, sourceStopped, claimed("new")}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := lost("m", "web-1", "ReplicaSet", "rs", tc.changes...)
			if got := claimable(successor("web-2", "ReplicaSet", "rs"), m); got != tc.claimable {
				t.Errorf("claimable is %t", got)
			}
			if got := m.Open() && prepared(m); got != tc.prepared {
				t.Errorf("prepared is %t", got)
			}
		})
	}
}

// Until the pod is stopped it goes where it was asked to go, off its node, or not at all.
// After that it has to run again: where only its own node can take it, there.
func TestWhereAPlannedMoveGoes(t *testing.T) {
	const (
		elsewhere = "the pod is being moved to another node"
		off       = "the pod is being moved off the node"
	)
	parks := []func(*v1alpha1.Migration){by(v1alpha1.StrategyLive, v1alpha1.PhaseAccepted), released}
	after := []func(*v1alpha1.Migration){by(v1alpha1.StrategyLive, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopped, v1alpha1.PhaseDeleted), sourceStopped}
	for name, tc := range map[string]struct {
		changes []func(*v1alpha1.Migration)
		first   map[string]string // what each node says
		wide    bool              // whether it is tried again with all nodes
	}{
		"it parks":                  {parks, map[string]string{"node-a": off, "node-b": "", "node-c": ""}, false},
		"it parks on a certain one": {append(parks[:2:2], goesTo("node-c")), map[string]string{"node-a": elsewhere, "node-b": elsewhere, "node-c": ""}, false},
		"it is stopped":             {after, map[string]string{"node-a": off, "node-b": "", "node-c": ""}, true},
		"it is stopped, to a certain one": {append(after[:2:2], goesTo("node-c")),
			map[string]string{"node-a": elsewhere, "node-b": elsewhere, "node-c": ""}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := against(t, unreachable(t))
			pod := successor("web-2", "ReplicaSet", "rs")
			s.addPod(t, pod)
			p.migrationChanged(nil, lost("m", "web-1", "ReplicaSet", "rs", tc.changes...))
			var nodes []framework.NodeInfo
			for _, node := range []string{"node-a", "node-b", "node-c"} {
				p.records.putFence(node, fence(node, "1", v1alpha1.FenceRunning))
				nodes = append(nodes, nodeNamed(node))
			}
			try := func(want map[string]string) *cycle {
				t.Helper()
				state := newCycle()
				if _, status := p.PreFilter(t.Context(), state, pod, nodes); !status.IsSuccess() {
					t.Fatal(status.Message())
				}
				for _, node := range nodes {
					if got := p.Filter(t.Context(), state, pod, node).Message(); got != want[node.Node().Name] {
						t.Errorf("%s says %q, want %q", node.Node().Name, got, want[node.Node().Name])
					}
				}
				return state
			}
			state := try(tc.first)
			s.takeActivated()
			_, status := p.PostFilter(t.Context(), state, pod, nil)
			if tried := len(s.takeActivated()) > 0; tried != tc.wide {
				t.Errorf("it is tried again: %t (%s)", tried, status.Message())
			}
			if tc.wide {
				try(map[string]string{})
			} else {
				try(tc.first)
			}
		})
	}
}

// A pod that is placed before there is a last checkpoint still goes where it can be
// restored.
func TestPlannedRestoreWithoutACheckpoint(t *testing.T) {
	source := parseFacts(v1alpha1.NodeFacts{Architecture: "amd64", KernelVersion: "6.12.1", CRIUVersion: "4.2.1"})
	old := func(f *v1alpha1.Fence) { f.Status.Facts.CRIUVersion = "4.1.1" }
	for strategy, want := range map[v1alpha1.Strategy]string{
		v1alpha1.StrategyLive:        CannotRestore,
		v1alpha1.StrategyApplication: "",
	} {
		pl := &placement{source: source, migration: lost("m", "web-1", "ReplicaSet", "rs", by(strategy, v1alpha1.PhaseAccepted), released)}
		got := refused(pl, &corev1.Node{}, nodeOf(fence("node-b", "1", v1alpha1.FenceRunning, old)))
		if (want == "") != (got == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%s: refused for %q, want %q", strategy, got, want)
		}
	}
	p, _ := against(t, unreachable(t))
	pl := &placement{migration: lost("m", "web-1", "ReplicaSet", "rs", by(v1alpha1.StrategyLive, v1alpha1.PhaseAccepted), released)}
	if got := p.predict(pl, nodeNamed("node-b")); got <= 0 {
		t.Errorf("it is predicted to take %s", got)
	}
	if got := claimMessage(pl.migration, "node-b", nil); got != "Takes the place of pod web-1, moved off node node-a (migration m): to be restored on node node-b when that is stopped" {
		t.Errorf("it is told %q", got)
	}
}
