package scenarios

import (
	"fmt"
	"slices"
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

// TestTenMovesAtOnce asks for the moves of ten pods in one moment. All of them come whole
// to other nodes, and there are never more under way than the limits allow.
func TestTenMovesAtOnce(t *testing.T) {
	const perNode, atOnce = 2, 8 // as the watcher is installed
	namespace := scene(t, "ten")
	births := map[string]string{}
	var pods []*corev1.Pod
	for i := range 10 {
		pod := workload.Pod(namespace)
		pod.Name = fmt.Sprintf("cart-%d", i)
		pod.Labels["cart"] = pod.Name
		create(t, pod)
		pods = append(pods, pod)
	}
	item := cart.Item{SKU: "book", Quantity: 3}
	for i, pod := range pods {
		ready, err := observe.ReadyPod(deadline(t), api, namespace, client.MatchingLabels{"cart": pod.Name})
		if err != nil {
			t.Fatal(err)
		}
		pods[i] = ready
		if _, err := observe.Durable(deadline(t), api, ready, 1); err != nil {
			t.Fatal(err)
		}
		added, err := loss.ClientAt(lab, ready, workload.Port).Add(deadline(t), pod.Name, item)
		if err != nil {
			t.Fatal(err)
		}
		births[pod.Name] = added.Birth
	}
	var moves []*v1alpha1.Migration
	for _, pod := range pods {
		moves = append(moves, beginMove(t, pod, v1alpha1.StrategyLive))
	}
	began := time.Now()
	for i, m := range moves {
		closed(t, m)
		t.Logf("%s from %s: %s, downtime %s, %s in all", m.Name, m.Spec.SourceNode, m.Status.Result, m.Status.Downtime, m.Status.RTO)
		if m.Status.Result != v1alpha1.ResultRestored || m.Status.RPOSeconds != 0 {
			t.Errorf("the move ended as %q, RPO %s: %s: %s", m.Status.Result, m.Status.RPO, m.Status.Reason, m.Status.Message)
			continue
		}
		now, err := observe.ReadyPod(deadline(t), api, namespace, client.MatchingLabels{"cart": pods[i].Name})
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := loss.ClientAt(lab, now, workload.Port).Snapshot(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if snapshot.Birth != births[now.Name] || !snapshot.Has(now.Name, item.SKU) || now.Spec.NodeName == m.Spec.SourceNode {
			t.Errorf("%s on node %s was born as %s, was %s on node %s, and has its item: %t",
				now.Name, now.Spec.NodeName, snapshot.Birth, births[now.Name], m.Spec.SourceNode, snapshot.Has(now.Name, item.SKU))
		}
	}
	t.Logf("all are closed after %s", time.Since(began).Round(10*time.Millisecond))
	if most := mostAtOnce(moves); most > atOnce || most < 2 {
		t.Errorf("%d moves were under way at a time; want more than one, and %d at most", most, atOnce)
	}
	for _, node := range []string{"n1", "n2", "n3"} {
		var from []*v1alpha1.Migration
		for _, m := range moves {
			if m.Spec.SourceNode == node {
				from = append(from, m)
			}
		}
		if most := mostAtOnce(from); most > perNode {
			t.Errorf("%d moves from node %s were under way at a time; want %d at most", most, node, perNode)
		}
	}
}

// mostAtOnce is how many of these moves were under way at a time, from their acceptance
// to their last phase.
func mostAtOnce(moves []*v1alpha1.Migration) (most int) {
	type change struct {
		at   time.Time
		more int
	}
	var changes []change
	for _, m := range moves {
		for _, p := range m.Status.Phases {
			if p.Phase == v1alpha1.PhaseAccepted {
				last := m.Status.Phases[len(m.Status.Phases)-1]
				changes = append(changes, change{p.At.Time, 1}, change{last.At.Time, -1})
			}
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.more - b.more
	})
	now := 0
	for _, c := range changes {
		now += c.more
		most = max(most, now)
	}
	return most
}
