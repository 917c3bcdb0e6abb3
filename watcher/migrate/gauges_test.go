package migrate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestCountUnprotected(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	var pods []corev1.Pod
	var checkpoints []v1alpha1.Checkpoint
	pod := func(name string, phase corev1.PodPhase, annotations map[string]string) {
		pods = append(pods, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Annotations: annotations},
			Status: corev1.PodStatus{Phase: phase}})
	}
	checkpoint := func(name, of string, age time.Duration, status metav1.ConditionStatus, reason string) {
		taken := metav1.NewMicroTime(now.Add(-age))
		checkpoints = append(checkpoints, v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1alpha1.CheckpointSpec{PodUID: types.UID(of)},
			Status: v1alpha1.CheckpointStatus{TakenAt: &taken,
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProtected, Status: status, Reason: reason}}}})
	}
	on := map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: "1m"}
	pod("good", corev1.PodRunning, on)
	checkpoint("good", "good", 3*time.Minute+reportDelay, metav1.ConditionTrue, v1alpha1.ReasonProtected)
	pod("old", corev1.PodRunning, on)
	checkpoint("old", "old", 3*time.Minute+reportDelay+time.Second, metav1.ConditionTrue, v1alpha1.ReasonProtected)
	pod("full", corev1.PodRunning, on)
	checkpoint("full", "full", time.Second, metav1.ConditionFalse, v1alpha1.ReasonNoRoom)
	pod("new", corev1.PodRunning, on)
	pod("next", corev1.PodRunning, on)
	checkpoint("next", "before", time.Second, metav1.ConditionTrue, v1alpha1.ReasonProtected)
	pod("waits", corev1.PodPending, on)
	pod("plain", corev1.PodRunning, nil)
	pod("wrong", corev1.PodRunning, map[string]string{v1alpha1.AnnotationFailover: "yes"})
	checkpoint("wrong", "wrong", time.Second, metav1.ConditionFalse, v1alpha1.ReasonInvalidAnnotation)

	want := map[string]int{v1alpha1.ReasonCheckpointOutdated: 1, v1alpha1.ReasonNoRoom: 1, v1alpha1.ReasonFirstCheckpoint: 2, v1alpha1.ReasonInvalidAnnotation: 1}
	if diff := cmp.Diff(want, countUnprotected(pods, checkpoints, now)); diff != "" {
		t.Errorf("unprotected pods (-want +got):\n%s", diff)
	}
}

func TestCountHeld(t *testing.T) {
	held := func(reason v1alpha1.HeldReason, result v1alpha1.Result) v1alpha1.Migration {
		m := v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{Strategy: v1alpha1.StrategyFailover}, Status: v1alpha1.MigrationStatus{Result: result}}
		if reason != "" {
			m.Status.Held = &v1alpha1.Held{Reason: reason}
		}
		return m
	}
	all := []v1alpha1.Migration{
		held("", ""), held("", v1alpha1.ResultRestored), held(v1alpha1.HeldPaused, ""), held(v1alpha1.HeldPaused, ""), held(v1alpha1.HeldStormGuard, ""),
		held("", ""), held(v1alpha1.HeldBudget, ""),
	}
	for i := range all[5:] {
		all[5+i].Spec.Strategy = v1alpha1.StrategyLive
	}
	open, byReason := countHeld(all, false)
	if want := map[v1alpha1.HeldReason]int{v1alpha1.HeldPaused: 2, v1alpha1.HeldStormGuard: 1}; open != 1 || !cmp.Equal(byReason, want) {
		t.Errorf("%d open, held %v; want 1 and %v", open, byReason, want)
	}
	open, byReason = countHeld(all, true)
	if want := map[v1alpha1.HeldReason]int{v1alpha1.HeldBudget: 1}; open != 1 || !cmp.Equal(byReason, want) {
		t.Errorf("%d planned ones open, held %v; want 1 and %v", open, byReason, want)
	}
}
