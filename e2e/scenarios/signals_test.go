package scenarios

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// A node that is being drained loses its power: its pods were checkpointed when the
// drain began, and the Migration says why they moved. Every node tells how busy it
// is, and a checkpointer that is ended by its node says that the node shuts down,
// until it runs again.
func TestSignsOfALossGiveItsReason(t *testing.T) {
	namespace := scene(t, "signals")
	shop := openShop(t, namespace, workload.StatefulSet(namespace))
	pod, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	source := pod.Spec.NodeName

	var other string
	err = observe.Until(deadline(t), "every node tells its load", func(ctx context.Context) (bool, string, error) {
		var fences v1alpha1.FenceList
		if err := api.List(ctx, &fences); err != nil {
			return false, "", err
		}
		for _, fence := range fences.Items {
			if fence.Status.Load == nil || fence.Status.Load.MemoryAvailableBytes == 0 || fence.Status.Facts.CRIUVersion == "" {
				return false, fmt.Sprintf("%s: %+v", fence.Name, fence.Status), nil
			}
			if fence.Name != source {
				other = fence.Name
			}
		}
		return other != "", "", nil
	})
	if err != nil {
		t.Fatal(err)
	}

	shuttingDown := func(want bool) {
		t.Helper()
		err := observe.Until(deadline(t), fmt.Sprintf("node %s says that it shuts down: %t", other, want), func(ctx context.Context) (bool, string, error) {
			var fence v1alpha1.Fence
			err := api.Get(ctx, types.NamespacedName{Name: other}, &fence)
			return (fence.Status.ShuttingDown != nil) == want, fmt.Sprint(fence.Status.ShuttingDown), err
		})
		if err != nil {
			t.Error(err)
		}
	}
	shuttingDown(false)
	signalProgram(t, other, "/lifeboat-checkpointer agent ", "TERM")
	shuttingDown(true)
	shuttingDown(false)

	cordon(t, source)
	err = observe.Until(deadline(t), "the cart is checkpointed early", func(ctx context.Context) (bool, string, error) {
		var events corev1.EventList
		if err := api.List(ctx, &events, client.InNamespace(namespaceOfNodes)); err != nil {
			return false, "", err
		}
		asked := slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.Reason == "CheckpointsRequested" && e.InvolvedObject.Name == source
		})
		return asked, fmt.Sprintf("%d events", len(events.Items)), nil
	})
	if err != nil {
		t.Error(err)
	}

	record := lose(t, shop)
	if err := record.Verdict(); err != nil {
		t.Error(err)
	}
	if got := record.Migration.Spec.Reason; got != v1alpha1.MigrationNodeDrained {
		t.Errorf("the cart moved because of %s, want %s", got, v1alpha1.MigrationNodeDrained)
	}
}
