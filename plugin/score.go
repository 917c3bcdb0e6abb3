package plugin

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Any holder scores above any other node: a holder restores from its own disk,
// even when it is under every kind of pressure at once.
const (
	scoreHolder     = framework.MaxNodeScore
	scoreOther      = 50
	pressurePenalty = 10
)

// pressures are the node conditions that each take pressurePenalty off the score.
var pressures = []corev1.NodeConditionType{
	corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// Score rates a node for the restore of a held checkpoint, from 0 to 100.
// Equal scores leave the choice to the scheduler's other plugins.
func Score(held *v1alpha1.HeldCheckpoint, node *corev1.Node) int64 {
	score := int64(scoreOther)
	if held != nil && slices.Contains(held.Holders, node.Name) {
		score = scoreHolder
	}
	for _, condition := range node.Status.Conditions {
		if condition.Status == corev1.ConditionTrue && slices.Contains(pressures, condition.Type) {
			score -= pressurePenalty
		}
	}
	return score
}
