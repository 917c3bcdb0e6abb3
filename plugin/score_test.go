package plugin

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func nodeWith(name string, status corev1.ConditionStatus, conditions ...corev1.NodeConditionType) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, c := range conditions {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: c, Status: status})
	}
	return node
}

func TestScore(t *testing.T) {
	held := &v1alpha1.HeldCheckpoint{Generation: 7, Holders: []string{"node-b", "node-c"}}
	for name, tc := range map[string]struct {
		held *v1alpha1.HeldCheckpoint
		node *corev1.Node
		want int64
	}{
		"holder":               {held, nodeWith("node-b", corev1.ConditionTrue, corev1.NodeReady), 100},
		"second holder":        {held, nodeWith("node-c", corev1.ConditionTrue), 100},
		"other":                {held, nodeWith("node-d", corev1.ConditionTrue, corev1.NodeReady), 50},
		"nothing held":         {nil, nodeWith("node-b", corev1.ConditionTrue), 50},
		"holder, pressure":     {held, nodeWith("node-b", corev1.ConditionTrue, corev1.NodeMemoryPressure), 90},
		"holder, all pressure": {held, nodeWith("node-b", corev1.ConditionTrue, pressures...), 70},
		"other, all pressure":  {held, nodeWith("node-d", corev1.ConditionTrue, pressures...), 20},
		"pressure is over":     {held, nodeWith("node-d", corev1.ConditionFalse, pressures...), 50},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Score(tc.held, tc.node); got != tc.want {
				t.Errorf("Score = %d, want %d", got, tc.want)
			}
		})
	}
}
