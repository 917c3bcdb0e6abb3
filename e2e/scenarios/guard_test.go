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

// Where the checkpointer hangs as a whole, its fencer included, nothing stops the
// node's pods: they must not be started elsewhere beside themselves.
func TestNodeWithoutAFencerIsNotFenced(t *testing.T) {
	namespace := scene(t, "unguarded")
	shop := openShop(t, namespace, workload.StatefulSet(namespace))
	pod, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	before, err := shop.At(pod).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	var fence v1alpha1.Fence
	name := types.NamespacedName{Name: pod.Spec.NodeName}
	if err := api.Get(deadline(t), name, &fence); err != nil {
		t.Fatal(err)
	}
	epoch := fence.Spec.Epoch

	const checkpointers = `for p in /proc/[0-9]*; do case "$(readlink $p/exe)" in */lifeboat-checkpointer) kill -%s ${p#/proc/};; esac; done`
	if _, err := lab.NodeExec(deadline(t), pod.Spec.NodeName, "sh", "-c", fmt.Sprintf(checkpointers, "STOP")); err != nil {
		t.Fatalf("stop the checkpointer on node %s: %v", pod.Spec.NodeName, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := lab.NodeExec(ctx, pod.Spec.NodeName, "sh", "-c", fmt.Sprintf(checkpointers, "CONT")); err != nil {
			t.Errorf("let the checkpointer on node %s go on: %v", pod.Spec.NodeName, err)
		}
	})

	err = observe.Until(deadline(t), "the watcher says why it does not fence the node", func(ctx context.Context) (bool, string, error) {
		var events corev1.EventList
		if err := api.List(ctx, &events, client.InNamespace(namespaceOfNodes)); err != nil {
			return false, "", err
		}
		said := slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.Reason == "NotFenced" && e.InvolvedObject.Name == pod.Spec.NodeName
		})
		return said, fmt.Sprintf("%d events", len(events.Items)), nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := api.Get(deadline(t), name, &fence); err != nil {
		t.Fatal(err)
	}
	if fence.Spec.Epoch != epoch || fence.Spec.State == v1alpha1.FenceFenced {
		t.Errorf("the node's Fence is %s in epoch %d, it was in epoch %d", fence.Spec.State, fence.Spec.Epoch, epoch)
	}
	if migration, err := observe.MigrationOf(deadline(t), api, namespace, pod.UID); err != nil || migration != nil {
		t.Errorf("the pod has a Migration: %v, %v", migration, err)
	}
	after, err := shop.At(pod).Snapshot(deadline(t))
	if err != nil {
		t.Fatalf("the cart should go on running on its node: %v", err)
	}
	if after.Birth != before.Birth || after.Ticks <= before.Ticks {
		t.Errorf("the cart was %s with %d ticks and is %s with %d", before.Birth, before.Ticks, after.Birth, after.Ticks)
	}
}

// namespaceOfNodes is where the events of objects without a namespace are.
const namespaceOfNodes = corev1.NamespaceDefault
