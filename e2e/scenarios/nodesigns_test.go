package scenarios

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

// taint taints a node, until the scenario is over or untaint is called.
func taint(t *testing.T, name string, with corev1.Taint) (untaint func()) {
	t.Helper()
	set := func(ctx context.Context, taints func([]corev1.Taint) []corev1.Taint) {
		node := &corev1.Node{}
		err := api.Get(ctx, types.NamespacedName{Name: name}, node)
		if err == nil {
			before := node.DeepCopy()
			node.Spec.Taints = taints(node.Spec.Taints)
			err = api.Patch(ctx, node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		}
		if err != nil {
			t.Errorf("change the taints of node %s: %v", name, err)
		}
	}
	set(deadline(t), func(taints []corev1.Taint) []corev1.Taint { return append(taints, with) })
	untaint = func() {
		ctx, cancel := context.WithTimeout(context.Background(), loss.Patience)
		defer cancel()
		set(ctx, func(taints []corev1.Taint) (kept []corev1.Taint) {
			for _, taint := range taints {
				if taint.Key != with.Key {
					kept = append(kept, taint)
				}
			}
			return kept
		})
	}
	t.Cleanup(untaint)
	return untaint
}
