package scenarios

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// heldMoves is how often the pod is moved with and without connections that wait.
const heldMoves = 3

// TestClientsWaitForALiveMove: clients that make a new connection for each request, by
// the Service's address, wait for a pod that is moved live, and none is refused. With a
// NetworkPolicy, which has the connections not held, the same shows what that is worth.
func TestClientsWaitForALiveMove(t *testing.T) {
	namespace := scene(t, "hold")
	shop := &loss.Shop{Cluster: lab, Client: api, Namespace: namespace, ShopperArgs: []string{"--new-connections", "--every=5ms", "--timeout=2s"}}
	if err := shop.Open(deadline(t), workload.Deployment(namespace)); err != nil {
		t.Fatal(err)
	}
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "everybody"},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: workload.Labels}, Ingress: []networkingv1.NetworkPolicyIngressRule{{}}},
	}
	for i := range 2 * heldMoves {
		held := i%2 == 1
		if held {
			if err := api.Delete(deadline(t), policy); err != nil {
				t.Fatal(err)
			}
		} else {
			policy.ResourceVersion = ""
			create(t, policy)
		}
		startShopper(t, shop)
		m, before := moveWatched(t, shop)
		condition := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionHoldingConnections)
		slicesGone(t, namespace, m)
		shopper, err := observe.ReadyPod(deadline(t), api, namespace, workload.ShopperLabels)
		if err != nil {
			t.Fatal(err)
		}
		checkMoved(t, shop, nil, before)
		report, err := shop.At(shopper).Report(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		from, to := standstill(report.Writes, m.CreationTimestamp.Time)
		t.Logf("held: %t: nobody was answered for %s, %d requests failed; %s; to Ready %s, %s in all",
			held, to.Sub(from).Round(time.Millisecond), failures(report), stepsAround(m, from), m.Status.Downtime, m.Status.RTO)
		switch {
		case !held && condition != nil && condition.Reason != v1alpha1.ReasonNotHeld:
			t.Errorf("connections are held although a NetworkPolicy says where they may come from: %+v", condition)
		case held && (condition == nil || condition.Reason == v1alpha1.ReasonNotHeld):
			t.Errorf("no connections were held: %+v", condition)
		case held && len(report.Outages) > 0:
			t.Errorf("requests failed: %+v", report.Outages)
		}
		if err := shop.StopShopper(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// moveWatched moves the cart live, and returns its birth, too.
func moveWatched(t *testing.T, shop *loss.Shop) (*v1alpha1.Migration, string) {
	t.Helper()
	pod, err := observe.ReadyPod(deadline(t), api, shop.Namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	before, err := shop.At(pod).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	m := move(t, pod, v1alpha1.StrategyLive)
	if m.Status.Result != v1alpha1.ResultRestored {
		t.Fatalf("the move ended as %s: %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	return m, before.Birth
}

// slicesGone waits until Kubernetes' own EndpointSlices are the only ones again, and lead
// to the new pod.
func slicesGone(t *testing.T, namespace string, m *v1alpha1.Migration) {
	t.Helper()
	err := observe.Until(deadline(t), "the Service has its own endpoints again", func(ctx context.Context) (bool, string, error) {
		var list discoveryv1.EndpointSliceList
		err := api.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: "cart"})
		var leads []string
		for _, slice := range list.Items {
			for _, endpoint := range slice.Endpoints {
				leads = append(leads, fmt.Sprintf("%s:%d to %s", slice.Labels[discoveryv1.LabelManagedBy], *slice.Ports[0].Port, endpoint.TargetRef.UID))
			}
		}
		state := strings.Join(leads, ", ")
		return len(list.Items) == 1 && state == fmt.Sprintf("endpointslice-controller.k8s.io:%d to %s", workload.Port, m.Status.Claim.PodUID), state, err
	})
	if err != nil {
		t.Error(err)
	}
}

// standstill is the longest time between two answers in a row after a moment.
func standstill(writes []cart.Write, after time.Time) (from, to time.Time) {
	for i := 1; i < len(writes); i++ {
		last, next := writes[i-1].AckedAt, writes[i].AckedAt
		if next.After(after) && next.Sub(last) > to.Sub(from) {
			from, to = last, next
		}
	}
	return from, to
}

// stepsAround are those of a move around its stop, by how long after a moment they were.
func stepsAround(m *v1alpha1.Migration, after time.Time) string {
	at := func(what string, at time.Time) string {
		return fmt.Sprintf("%s %d", what, at.Sub(after).Milliseconds())
	}
	s := m.Status
	stopping, _ := m.PhaseAt(v1alpha1.PhaseStopping)
	return strings.Join([]string{at("Stopping", stopping), at("paused", s.Source.PausedAt.Time), at("stopped", s.Source.StoppedAt.Time),
		at("restore begun", s.Restore.StartedAt.Time)}, ", ") + " ms"
}

func failures(report cart.Report) (failed int) {
	for _, outage := range report.Outages {
		failed += outage.Failures
	}
	return failed
}
