package agent

import (
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// cloneOf is a clone that pod "successor" has claimed for the node "here".
func cloneOf(change func(*v1alpha1.Migration)) *v1alpha1.Migration {
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0-1", UID: "m"},
		Spec: v1alpha1.MigrationSpec{Pod: v1alpha1.PodIdentity{Name: "cart-0"}, SourceNode: "there", Strategy: v1alpha1.StrategyClone, Epoch: 1,
			Clone: &v1alpha1.CloneSource{Pod: v1alpha1.PodIdentity{Name: "web", UID: "original"}}},
		Status: v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseAccepted, Claim: &v1alpha1.Claim{PodName: "cart-0", PodUID: "successor", NodeName: "here"}},
	}
	if change != nil {
		change(m)
	}
	return m
}

// TestCloneClaimed: a clone is restored while the other pod runs, by its own Migration
// alone; and it starts anew only after it was restored once.
func TestCloneClaimed(t *testing.T) {
	result := func(r v1alpha1.Result) func(*v1alpha1.Migration) {
		return func(m *v1alpha1.Migration) { m.Status.Result = r }
	}
	of := func(uid string) *corev1.Pod {
		pod := podOn("here")
		pod.Labels = map[string]string{v1alpha1.LabelClone: uid}
		return pod
	}
	for name, tc := range map[string]struct {
		pod            *corev1.Pod
		migration      *v1alpha1.Migration
		silent         bool
		found, refused bool
	}{
		"claimed":                            {pod: of("m"), migration: cloneOf(nil), found: true},
		"another pod of its name":            {pod: of("other"), migration: cloneOf(nil), refused: true},
		"a pod that is no clone":             {pod: podOn("here"), migration: cloneOf(nil), refused: true},
		"a pod of which nobody knows":        {migration: cloneOf(nil), refused: true},
		"given up":                           {pod: of("m"), migration: cloneOf(func(m *v1alpha1.Migration) { m.Status.Reason = "Canceled" }), refused: true},
		"not claimed yet":                    {pod: of("m"), migration: cloneOf(func(m *v1alpha1.Migration) { m.Status.Claim = nil }), refused: true},
		"claimed for another node":           {pod: of("m"), migration: cloneOf(func(m *v1alpha1.Migration) { m.Status.Claim.NodeName = "there" }), refused: true},
		"restored before":                    {pod: of("m"), migration: cloneOf(result(v1alpha1.ResultRestored))},
		"failed before":                      {pod: of("m"), migration: cloneOf(result(v1alpha1.ResultFailed)), refused: true},
		"its migration is gone":              {pod: of("gone"), migration: cloneOf(func(m *v1alpha1.Migration) { m.Status.Claim = nil }), refused: true},
		"the API is down":                    {pod: of("m"), migration: cloneOf(nil), silent: true, refused: true},
		"another pod was restored, not this": {pod: of("m"), migration: cloneOf(func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultRestored; m.Status.Claim.PodUID = "x" }), refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil, tc.migration)
				w.silent.Store(tc.silent)
				m, why := w.claimed(t.Context(), cart, tc.pod)
				if (m != nil) != tc.found || (why != "") != tc.refused {
					t.Errorf("found: %t, refused: %q", m != nil, why)
				}
			})
		})
	}
}

// TestCloneWithoutRecord: a clone that was whole starts again also when somebody has removed
// the record of its start; what was given up does not, whatever it was before.
func TestCloneWithoutRecord(t *testing.T) {
	pod := podOn("here")
	pod.Labels = map[string]string{v1alpha1.LabelClone: "m"}
	if why := notYetCloned(nil, pod, "main", true); why != "" {
		t.Error(why)
	}
	failed := *cloneOf(func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultFailed })
	if notYetCloned([]v1alpha1.Migration{failed}, pod, "main", true) == "" {
		t.Error("it starts, and was given up")
	}
}

// TestCloneIsNotConfirmed: without the API, and the checkpointer, a clone does not start by
// its having been this node's, until it was restored.
func TestCloneIsNotConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := podOn("here")
		pod.Labels = map[string]string{v1alpha1.LabelClone: "m"}
		w := newWorld(t, nil, pod)
		if _, why := w.owned(t.Context(), cart, 3); why != "" {
			t.Fatal(why)
		}
		if w.confirmed.has("successor", 3) {
			t.Error("it may start without anybody being asked")
		}
	})
}

// TestCloneLeavesTheOtherAlone: nothing that is asked of a moved pod is so of one that was cloned.
func TestCloneLeavesTheOtherAlone(t *testing.T) {
	all := []v1alpha1.Migration{*cloneOf(nil)}
	if why := moving(all, "original"); why != "" {
		t.Error(why)
	}
	if moved(all, "original") || withdrawn(all, "original") != "" {
		t.Error("it counts as moved")
	}
	for _, node := range []string{"here", "there"} {
		if got := partOf(&all[0], node, nil); got != partNone {
			t.Errorf("node %s has the part %v in it", node, got)
		}
	}
	closed := *cloneOf(func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultFailed })
	if withdrawn([]v1alpha1.Migration{closed}, "successor") == "" {
		t.Error("a clone that was given up may start")
	}
}

func TestAskedGeneration(t *testing.T) {
	all := func() []candidate {
		return []candidate{{generation: store.Generation{Number: 7}}, {generation: store.Generation{Number: 6}}}
	}
	m := cloneOf(nil)
	if got := asked(m, all()); len(got) != 2 {
		t.Errorf("of any generation %d are tried", len(got))
	}
	m.Spec.Clone.Generation = 6
	if got := asked(m, all()); len(got) != 1 || got[0].generation.Number != 6 {
		t.Errorf("instead of generation 6 it is %+v", got)
	}
}

// TestClonedGenerationsStay: what a clone is being made from is kept, on every node.
func TestClonedGenerationsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named := cloneOf(func(m *v1alpha1.Migration) { m.Spec.Clone.Generation = 6 })
		closed := cloneOf(func(m *v1alpha1.Migration) {
			m.Name, m.Spec.Clone.Generation, m.Status.Result = "cart-0-2", 5, v1alpha1.ResultRestored
		})
		w := newWorld(t, []ctrlclient.Object{named, closed})
		kept, err := w.cloned(t.Context())
		if err != nil || len(kept) != 1 || !slices.Equal(kept["original"], []int64{6}) {
			t.Errorf("%v: kept are %v", err, kept)
		}
	})
}
