package agent

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func nodeFence(name string, state v1alpha1.FenceState) v1alpha1.Fence {
	return v1alpha1.Fence{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.FenceSpec{State: state},
		Status:     v1alpha1.FenceStatus{Facts: v1alpha1.NodeFacts{PeerAddress: name + ":7947"}},
	}
}

func nodes(holders []holder) []string {
	var names []string
	for _, h := range holders {
		names = append(names, h.node)
	}
	return names
}

func TestChooseHolders(t *testing.T) {
	running := []v1alpha1.Fence{
		nodeFence("n1", v1alpha1.FenceRunning), nodeFence("n2", v1alpha1.FenceRunning),
		nodeFence("n3", v1alpha1.FenceRunning), nodeFence("n4", v1alpha1.FenceRunning),
	}
	t.Run("never itself, never a node that is not running, never one without an address", func(t *testing.T) {
		silent := nodeFence("n5", v1alpha1.FenceRunning)
		silent.Status.Facts.PeerAddress = ""
		got := nodes(chooseHolders("n1", "uid", nil, []v1alpha1.Fence{
			running[0], nodeFence("n2", v1alpha1.FenceLost), nodeFence("n3", v1alpha1.FenceFenced), running[3], silent,
		}))
		if diff := cmp.Diff([]string{"n4"}, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("the previous holders first, in their order", func(t *testing.T) {
		for _, previous := range [][]string{{"n4", "n2"}, {"n2", "n4"}, {"n3"}} {
			got := nodes(chooseHolders("n1", "uid", previous, running))
			if diff := cmp.Diff(previous, got[:len(previous)]); diff != "" {
				t.Error(diff)
			}
		}
	})
	t.Run("copies of many pods spread", func(t *testing.T) {
		count := map[string]int{}
		for i := range 300 {
			count[chooseHolders("n1", fmt.Sprintf("uid-%d", i), nil, running)[0].node]++
		}
		for _, node := range []string{"n2", "n3", "n4"} {
			if count[node] < 60 {
				t.Errorf("%s is the first choice of %d of 300 pods", node, count[node])
			}
		}
	})
}
