package scenarios

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
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

// shortOfMemory has a node's kubelet report that memory is short, by a threshold that is
// always met and lets it evict nobody for a day. It returns when it did not yet.
func shortOfMemory(t *testing.T, node string) time.Time {
	t.Helper()
	configure := func(ctx context.Context, script string) {
		out, err := lab.NodeExec(ctx, node, "sh", "-ec", "cd /etc/kubernetes && "+script)
		if err == nil {
			err = sendSignal(ctx, node, "kubelet ", "KILL") // it is started again
		}
		if err != nil {
			t.Errorf("configure the kubelet of node %s: %s: %v", node, out, err)
		}
	}
	before := time.Now()
	configure(deadline(t), `cp kubelet.yaml kubelet.before && printf 'evictionSoft:\n  memory.available: "99.99%%"\nevictionSoftGracePeriod:\n  memory.available: 24h\n' >>kubelet.yaml`)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		configure(ctx, "mv kubelet.before kubelet.yaml")
	})
	err := observe.Until(deadline(t), "node "+node+" is short of memory", func(ctx context.Context) (bool, string, error) {
		object := &corev1.Node{}
		if err := api.Get(ctx, types.NamespacedName{Name: node}, object); err != nil {
			return false, "", err
		}
		for _, c := range object.Status.Conditions {
			if c.Type == corev1.NodeMemoryPressure {
				return c.Status == corev1.ConditionTrue, c.Message, nil
			}
		}
		return false, "no condition", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return before
}
