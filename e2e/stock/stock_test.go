package stock

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOnlyANodeWithPowerIsLostFalsely(t *testing.T) {
	node := func(ready corev1.ConditionStatus) []corev1.Node {
		return []corev1.Node{{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
		}}
	}
	on, off := map[string]bool{"n1": true}, map[string]bool{"n1": false}
	seen := map[string]bool{}
	for i, look := range []struct {
		ready   corev1.ConditionStatus
		powered map[string]bool
		lost    bool
	}{
		{corev1.ConditionFalse, on, false}, // it has not been ready yet
		{corev1.ConditionTrue, on, false},
		{corev1.ConditionUnknown, on, true},
		{corev1.ConditionUnknown, on, false}, // counted already
		{corev1.ConditionTrue, on, false},
		{corev1.ConditionUnknown, off, false}, // rightly
		{corev1.ConditionUnknown, on, false},  // it boots
		{corev1.ConditionTrue, on, false},
		{corev1.ConditionFalse, on, true},
	} {
		if lost := slices.Contains(compare(seen, node(look.ready), look.powered), "n1"); lost != look.lost {
			t.Errorf("look %d: lost falsely: %t, want %t", i+1, lost, look.lost)
		}
	}
	// A look that could not read anything changes nothing.
	if lost := compare(seen, nil, nil); len(lost) > 0 || seen["n1"] {
		t.Errorf("a look at nothing: %v, %v", lost, seen)
	}
}
