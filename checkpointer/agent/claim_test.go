package agent

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func claimedMigration(podUID types.UID, node string, result v1alpha1.Result, restored ...string) v1alpha1.Migration {
	m := v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
		Claim:  &v1alpha1.Claim{PodUID: podUID, NodeName: node},
		Result: result,
	}}
	if restored != nil {
		m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: podUID}
		for _, name := range restored {
			m.Status.Restore.Containers = append(m.Status.Restore.Containers, v1alpha1.ContainerRestore{Name: name})
		}
	}
	return m
}

func TestFindClaim(t *testing.T) {
	for name, tc := range map[string]struct {
		migration v1alpha1.Migration
		found     bool
	}{
		"claimed by the pod for this node": {claimedMigration("pod", "here", ""), true},
		"claimed for another node":         {claimedMigration("pod", "there", ""), false},
		"claimed by another pod":           {claimedMigration("other", "here", ""), false},
		"closed":                           {claimedMigration("pod", "here", v1alpha1.ResultRestored), false},
		"not claimed":                      {v1alpha1.Migration{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			found := findClaim([]v1alpha1.Migration{tc.migration}, "pod", "here") != nil
			if found != tc.found {
				t.Errorf("found is %t", found)
			}
		})
	}
}

func TestAContainerIsRestoredOnce(t *testing.T) {
	stale := claimedMigration("pod", "here", "", "main")
	stale.Status.Restore.PodUID = "an earlier pod"
	for name, tc := range map[string]struct {
		migration v1alpha1.Migration
		want      bool
	}{
		"nothing restored yet":           {claimedMigration("pod", "here", ""), false},
		"the other container restored":   {claimedMigration("pod", "here", "", "sidecar"), false},
		"restored before":                {claimedMigration("pod", "here", "", "sidecar", "main"), true},
		"restored in an earlier attempt": {stale, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := consumed(&tc.migration, "main"); got != tc.want {
				t.Errorf("consumed is %t", got)
			}
		})
	}
}

// step is a Migration of a pod that has completed the steps up to a phase.
func step(name, podUID string, epoch int64, upTo v1alpha1.Phase) v1alpha1.Migration {
	m := v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.MigrationSpec{
		Pod: v1alpha1.PodIdentity{Name: "cart-0", UID: types.UID(podUID)}, SourceNode: "lost", Epoch: epoch, FenceEpoch: 4,
	}}
	for _, phase := range []v1alpha1.Phase{v1alpha1.PhaseDetected, v1alpha1.PhaseFenced, v1alpha1.PhaseDeleted, v1alpha1.PhaseScheduled} {
		m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: phase})
		if m.Status.Phase = phase; phase == upTo {
			break
		}
	}
	return m
}

func withResult(m v1alpha1.Migration, result v1alpha1.Result) v1alpha1.Migration {
	m.Status.Result = result
	return m
}

// TestMayNotRestore: whoever brings processes to life looks once more whether the
// old ones are gone, and whether these are the newest.
func TestMayNotRestore(t *testing.T) {
	fenceIn := func(state v1alpha1.FenceState, epoch int64) *v1alpha1.Fence {
		return &v1alpha1.Fence{Spec: v1alpha1.FenceSpec{State: state, Epoch: epoch}}
	}
	fenced := fenceIn(v1alpha1.FenceFenced, 4)
	this := step("this", "old", 2, v1alpha1.PhaseScheduled)
	otherPod := step("newer", "another", 3, v1alpha1.PhaseDeleted)
	otherPod.Spec.Pod.Name = "cart-1"
	sameLineage := step("newer", "old", 3, v1alpha1.PhaseDeleted)
	sameLineage.Spec.Pod.Name = "cart-x7k2p"
	for name, tc := range map[string]struct {
		migration v1alpha1.Migration
		other     v1alpha1.Migration
		source    *v1alpha1.Fence
		refused   bool
	}{
		"its node is fenced":                        {migration: this, source: fenced},
		"its node has come back since":              {migration: this, source: fenceIn(v1alpha1.FenceRunning, 4)},
		"its node was lost again since":             {migration: this, source: fenceIn(v1alpha1.FenceLost, 5)},
		"its node is gone for good":                 {migration: this},
		"its node is only declared lost":            {migration: this, source: fenceIn(v1alpha1.FenceLost, 3), refused: true},
		"its node has refuted the declaration":      {migration: this, source: fenceIn(v1alpha1.FenceRunning, 3), refused: true},
		"an earlier loss of its node":               {migration: this, source: fenceIn(v1alpha1.FenceFenced, 3), refused: true},
		"its node only looks lost":                  {migration: step("this", "old", 2, v1alpha1.PhaseDetected), source: fenced, refused: true},
		"the old pod is still there":                {migration: step("this", "old", 2, v1alpha1.PhaseFenced), source: fenced, refused: true},
		"a newer one of a successor that never ran": {migration: this, source: fenced, other: step("newer", "successor", 3, v1alpha1.PhaseDeleted)},
		"a newer one of the same checkpoints":       {migration: this, source: fenced, other: sameLineage, refused: true},
		"a newer one of another pod":                {migration: this, source: fenced, other: otherPod},
		"a newer one that may yet come to nothing":  {migration: this, source: fenced, other: step("newer", "old", 3, v1alpha1.PhaseDetected)},
		"an older one":                              {migration: this, source: fenced, other: withResult(step("older", "older", 1, v1alpha1.PhaseScheduled), v1alpha1.ResultRestored)},
	} {
		t.Run(name, func(t *testing.T) {
			why := mayNotRestore(&tc.migration, []v1alpha1.Migration{tc.migration, tc.other}, tc.source)
			if (why != "") != tc.refused {
				t.Errorf("the reason is %q", why)
			}
		})
	}
}

// TestOfALostPod: what may still be done with a pod that a Migration is about.
func TestOfALostPod(t *testing.T) {
	lineage := step("m", "predecessor", 2, v1alpha1.PhaseDeleted)
	lineage.Annotations = map[string]string{v1alpha1.AnnotationLostPod: "lost"}
	for name, tc := range map[string]struct {
		migration     v1alpha1.Migration
		moving, moved bool
	}{
		"its node only looks lost":            {migration: step("m", "lost", 1, v1alpha1.PhaseDetected)},
		"its node is fenced":                  {migration: step("m", "lost", 1, v1alpha1.PhaseFenced), moving: true},
		"it is deleted":                       {migration: step("m", "lost", 1, v1alpha1.PhaseDeleted), moving: true, moved: true},
		"its successor runs":                  {migration: withResult(step("m", "lost", 1, v1alpha1.PhaseScheduled), v1alpha1.ResultRestored), moved: true},
		"it stays: its node came back":        {migration: withResult(step("m", "lost", 1, v1alpha1.PhaseFenced), v1alpha1.ResultColdStarted)},
		"it stays: its node was never away":   {migration: withResult(step("m", "lost", 1, v1alpha1.PhaseDetected), v1alpha1.ResultWithdrawn)},
		"its predecessor's state is restored": {migration: lineage, moving: true, moved: true},
		"it is another pod":                   {migration: step("m", "another", 1, v1alpha1.PhaseDeleted)},
	} {
		t.Run(name, func(t *testing.T) {
			list := []v1alpha1.Migration{tc.migration}
			if why := moving(list, "lost"); (why != "") != tc.moving {
				t.Errorf("moving says %q", why)
			}
			if got := moved(list, "lost"); got != tc.moved {
				t.Errorf("moved is %t", got)
			}
		})
	}
}
