package migrate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestEndedUnrestored: a claim is taken from a pod that is deleted, or failed, only while
// nothing of the state can be that pod's, and another one will come.
func TestEndedUnrestored(t *testing.T) {
	type changes []func(*v1alpha1.Migration)
	by := func(strategy v1alpha1.Strategy, phases ...v1alpha1.Phase) func(*v1alpha1.Migration) {
		return func(m *v1alpha1.Migration) {
			m.Spec.Strategy, m.Status.Phases = strategy, nil
			for _, phase := range phases {
				stamp(m, phase, start)
			}
		}
	}
	restore := func(status v1alpha1.RestoreStatus) func(*v1alpha1.Migration) {
		return func(m *v1alpha1.Migration) { m.Status.Restore = &status }
	}
	parked := restore(v1alpha1.RestoreStatus{PodUID: "new", ParkedAt: ptr.To(micro(1)), StartedAt: micro(1)})
	begun := restore(v1alpha1.RestoreStatus{PodUID: "new", StartedAt: micro(4)})
	committed := restore(v1alpha1.RestoreStatus{PodUID: "new", StartedAt: micro(4), CommittedAt: ptr.To(micro(5))})
	committedBefore := restore(v1alpha1.RestoreStatus{PodUID: "first", StartedAt: micro(4), CommittedAt: ptr.To(micro(5))})
	besideIt := func(m *v1alpha1.Migration) { m.Annotations = map[string]string{v1alpha1.AnnotationPodLabels: "{}"} }
	live := v1alpha1.StrategyLive
	for name, tc := range map[string]struct {
		changes changes
		deletes bool // it is being deleted
		fails   bool
		there   bool // else it is gone
		want    bool
	}{
		"it is there":                       {changes: changes{claimed}, there: true},
		"it is gone":                        {changes: changes{claimed}, want: true},
		"it is being deleted":               {changes: changes{claimed}, deletes: true, want: true},
		"its kubelet does not admit it":     {changes: changes{claimed}, fails: true, want: true},
		"it failed after it ran":            {changes: changes{claimed, committed}, fails: true},
		"a bare pod failed":                 {changes: changes{claimed, func(m *v1alpha1.Migration) { m.Spec.Pod.OwnerUID = "" }}, fails: true},
		"nobody has claimed":                {},
		"its images are brought into place": {changes: changes{claimed, begun}, want: true},
		"it may run":                        {changes: changes{claimed, committed}},
		"it has run":                        {changes: changes{claimed, reported("app")}},
		"it started anew":                   {changes: changes{claimed, reported("app:NoCheckpoint")}},
		"the one before it was committed":   {changes: changes{claimed, committedBefore}, want: true},
		"a bare pod":                        {changes: changes{claimed, func(m *v1alpha1.Migration) { m.Spec.Pod.OwnerUID = "" }}},
		"a move that stops the pod":         {changes: changes{claimed, by(live, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping), parked}, want: true},
		"a move that may be given up":       {changes: changes{claimed, by(live, v1alpha1.PhaseAccepted, v1alpha1.PhaseParked), parked}},
		"a move that is given up": {changes: changes{claimed, by(live, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping), parked,
			func(m *v1alpha1.Migration) { m.Status.Reason = v1alpha1.ReasonSourceFailed }}},
		"a state is staged for it":       {changes: changes{claimed, by(v1alpha1.StrategyApplication, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping), begun}, want: true},
		"it has imported it":             {changes: changes{claimed, by(v1alpha1.StrategyApplication, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping), committed}},
		"its state comes from beside it": {changes: changes{claimed, by(v1alpha1.StrategyApplication, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping), besideIt}},
		"a move without state":           {changes: changes{claimed, by(v1alpha1.StrategyReplace, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping)}},
	} {
		t.Run(name, func(t *testing.T) {
			var pod *corev1.Pod
			if tc.there || tc.deletes || tc.fails {
				pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cart-0", Namespace: "shop", UID: "new"}}
			}
			if tc.deletes {
				pod.DeletionTimestamp = ptr.To(metav1.NewTime(start))
			}
			if tc.fails {
				pod.Status.Phase = corev1.PodFailed
			}
			if got := endedUnrestored(deleted(tc.changes...), pod); got != tc.want {
				t.Errorf("it says %t", got)
			}
		})
	}
}
