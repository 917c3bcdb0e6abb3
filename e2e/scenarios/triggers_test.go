package scenarios

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// TestTriggersMovePods has pods moved without a Migration being asked for: a node is taken
// back, is cordoned, and is to be emptied by a request to the REST API. Each time a cart in
// use moves, and
// another one beside it. None of them has lost anything at the end.
func TestTriggersMovePods(t *testing.T) {
	shopping, namespace := scene(t, "triggers"), scene(t, "carts")
	const taken = "n2"
	var shop *loss.Shop
	placed(t, taken, func() {
		shop = fillShop(t, shopping, workload.StatefulSet(shopping))
		create(t, besides(namespace, "beside"))
		holds(t, namespace, "beside")
	})
	births := map[string]string{}
	startShopper(t, shop)
	first, err := observe.ReadyPod(deadline(t), api, shopping, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	was, err := shop.At(first).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	births["beside"] = lifeOf(t, namespace, "beside").Birth
	watchersWith(t, "--move-on-cordon")

	// Both pods of the node move, wherever they came to by the trigger before.
	emptied := func(t *testing.T, how func(node string) (undo func()), reason v1alpha1.MigrationReason, within time.Duration) {
		t.Helper()
		pods := []*corev1.Pod{podOf(t, shopping, workload.Labels), podOf(t, namespace, client.MatchingLabels{"cart": "beside"})}
		since := time.Now()
		undo := how(pods[0].Spec.NodeName)
		for _, pod := range pods {
			if pod.Spec.NodeName != pods[0].Spec.NodeName {
				continue // it is checked where it is not alone
			}
			m := movedBecause(t, pod, reason)
			for _, p := range m.Status.Phases {
				if p.Phase == v1alpha1.PhaseStopped && p.At.Sub(since) > within {
					t.Errorf("pod %s was stopped %s after the sign; it has %s", pod.Name, p.At.Sub(since), within)
				}
			}
			if s := m.Spec; within < v1alpha1.DefaultDeadline && (s.DeadlineSeconds > int32(within.Seconds()) || s.DeadlineSeconds < int32(within.Seconds())-10) {
				t.Errorf("the move of pod %s has %d s; want %s or little less", pod.Name, s.DeadlineSeconds, within)
			}
		}
		undo()
	}
	t.Run("a spot instance is taken back", func(t *testing.T) {
		emptied(t, func(node string) func() {
			return taint(t, node, corev1.Taint{Key: "aws-node-termination-handler/spot-itn", Value: "MTIz", Effect: corev1.TaintEffectNoSchedule})
		}, v1alpha1.MigrationSpotInterruption, 90*time.Second)
	})
	t.Run("a node is cordoned", func(t *testing.T) {
		emptied(t, func(node string) func() { return cordon(t, node) }, v1alpha1.MigrationNodeDrained, v1alpha1.DefaultDeadline)
	})
	t.Run("a request for a rebalance", func(t *testing.T) {
		token := mover(t, namespace)
		emptied(t, func(node string) func() {
			status, body := askAPI(t, token, "/api/v1/rebalance", map[string]any{"nodes": []string{node}})
			if status != http.StatusCreated || !bytes.Contains(body, []byte(`"reason":"Rebalance"`)) {
				t.Fatalf("the request is answered with %d: %s", status, body)
			}
			return func() {}
		}, v1alpha1.MigrationRebalance, v1alpha1.DefaultDeadline)
	})
	for name, birth := range births {
		if life := lifeOf(t, namespace, name); life.Birth != birth {
			t.Errorf("%s was born as %s and is %s", name, birth, life.Birth)
		}
	}
	checkMoved(t, shop, nil, was.Birth)
}

// besides is a cart beside the shop's.
func besides(namespace, name string) *corev1.Pod {
	pod := workload.Pod(namespace)
	pod.Name = name
	pod.Labels = map[string]string{"cart": name}
	return pod
}

// holds waits for such a cart, puts something into it, waits until that is durable and
// returns its birth.
func holds(t *testing.T, namespace, name string) string {
	t.Helper()
	pod := podOf(t, namespace, client.MatchingLabels{"cart": name})
	added, err := loss.ClientAt(lab, pod, workload.Port).Add(deadline(t), name, cart.Item{SKU: "book", Quantity: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := observe.Durable(deadline(t), api, pod, 1); err != nil {
		t.Fatal(err)
	}
	return added.Birth
}

func podOf(t *testing.T, namespace string, labels client.MatchingLabels) *corev1.Pod {
	t.Helper()
	pod, err := observe.ReadyPod(deadline(t), api, namespace, labels)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// lifeOf requires that a cart has what was put into it.
func lifeOf(t *testing.T, namespace, name string) cart.Life {
	t.Helper()
	snapshot, err := loss.ClientAt(lab, podOf(t, namespace, client.MatchingLabels{"cart": name}), workload.Port).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if !snapshot.Has(name, "book") {
		t.Errorf("%s has lost its item", name)
	}
	return snapshot.Life
}

// movedBecause waits until a pod was moved for a reason.
func movedBecause(t *testing.T, pod *corev1.Pod, reason v1alpha1.MigrationReason) *v1alpha1.Migration {
	t.Helper()
	m, err := observe.Closed(deadline(t), api, pod)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s from %s: %s %s %s, downtime %s, %s in all", pod.Name, m.Spec.SourceNode, m.Spec.Reason, m.Spec.Strategy, m.Status.Result, m.Status.Downtime, m.Status.RTO)
	if m.Spec.Reason != reason || m.Status.Result != v1alpha1.ResultRestored || m.Status.RPOSeconds != 0 {
		t.Errorf("pod %s was moved because of %s: %s, RPO %s: %s: %s; want %s, Restored", pod.Name, m.Spec.Reason, m.Status.Result, m.Status.RPO, m.Status.Reason, m.Status.Message, reason)
	}
	return m
}
