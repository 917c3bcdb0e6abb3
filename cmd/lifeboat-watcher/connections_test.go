package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// holdingAt is where the played target has connections to port 80 wait.
var holdingAt = v1alpha1.Holding{PodIPs: []string{"10.9.9.9"}, Ports: []v1alpha1.HoldPort{{Port: 80, HoldPort: 61234}}}

// endpoints plays Kubernetes' controller of EndpointSlices for the Service of an
// application, until the test ends or it is told to. A pod's address is made of its UID.
func (c *cluster) endpoints(t *testing.T, app string) (end context.CancelFunc) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: app + "-native", Labels: map[string]string{
			discoveryv1.LabelServiceName: app, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(""), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](80)}},
	}
	if err := c.Create(t.Context(), slice); err != nil {
		t.Fatal(err)
	}
	follow := func() error {
		var pods corev1.PodList
		if err := c.Get(ctx, client.ObjectKeyFromObject(slice), slice); err != nil {
			return err
		}
		if err := c.List(ctx, &pods, client.InNamespace("shop"), client.MatchingLabels{"app": app}); err != nil {
			return err
		}
		var found []discoveryv1.Endpoint
		for i := range pods.Items {
			pod := &pods.Items[i]
			if pod.Status.Phase != corev1.PodRunning {
				continue
			}
			isReady := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
			found = append(found, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.1.%d.%d", pod.UID[0], pod.UID[1])},
				Conditions: discoveryv1.EndpointConditions{Ready: &isReady}, NodeName: &pod.Spec.NodeName,
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod.Name, UID: pod.UID}})
		}
		slice.Endpoints = found
		return c.Update(ctx, slice)
	}
	if err := follow(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for ctx.Err() == nil {
			if err := follow(); err != nil && ctx.Err() == nil {
				t.Logf("follow the pods of %s: %v", app, err) // and again
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return end
}

// ownSlices are Lifeboat's own EndpointSlices of a Service.
func (c *cluster) ownSlices(ctx context.Context, app string) ([]discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	err := c.List(ctx, &list, client.InNamespace("shop"), client.MatchingLabels{discoveryv1.LabelServiceName: app, discoveryv1.LabelManagedBy: "lifeboat.dev"})
	return list.Items, err
}

// leads waits until Lifeboat's own EndpointSlice of a Service leads to "pod:port", or is
// gone where that is empty.
func (c *cluster) leads(t *testing.T, app, to string) {
	t.Helper()
	controlplane.Eventually(t, fmt.Sprintf("the endpoints of %s lead to %q", app, to), func(ctx context.Context) error {
		own, err := c.ownSlices(ctx, app)
		if err != nil {
			return err
		}
		var found []string
		for _, slice := range own {
			found = append(found, fmt.Sprintf("%s:%d", slice.Endpoints[0].TargetRef.Name, *slice.Ports[0].Port))
		}
		if got := strings.Join(found, ","); got != to {
			var moves v1alpha1.MigrationList
			_ = c.List(ctx, &moves, client.InNamespace("shop")) // to say more
			for i := range moves.Items {
				if m := &moves.Items[i]; strings.HasPrefix(m.Name, app+"-") {
					got += fmt.Sprintf(" (phase %s, %+v)", m.Status.Phase, m.Status.Conditions)
				}
			}
			return fmt.Errorf("they lead to %s", got)
		}
		return nil
	})
}

// parkHolding plays a target that has connections wait.
func (c *cluster) parkHolding(t *testing.T, m *v1alpha1.Migration, pod *corev1.Pod) {
	t.Helper()
	c.until(t, m, "asked to hold connections", func(m *v1alpha1.Migration) bool { return slices.Equal(m.PortsToHold(), []int32{80}) })
	now := metav1.NowMicro()
	c.patchStatus(t, m, map[string]any{"restore": v1alpha1.RestoreStatus{PodUID: pod.UID, ParkedAt: &now, StartedAt: now, Holding: &holdingAt}})
}

// heldReason waits until a Migration says this of its connections.
func (c *cluster) heldReason(t *testing.T, m *v1alpha1.Migration, status metav1.ConditionStatus, reason string) {
	t.Helper()
	c.until(t, m, "told that connections are "+reason, func(m *v1alpha1.Migration) bool {
		condition := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionHoldingConnections)
		return condition != nil && condition.Status == status && condition.Reason == reason
	})
}

// TestHeldConnections: connections are led to where they wait for a pod that is moved,
// and back; and where they cannot wait the move goes on without.
func TestHeldConnections(t *testing.T) {
	c := startCluster(t)
	c.detachWebhook(t)
	begin := func(t *testing.T, app string) (m *v1alpha1.Migration, old, next *corev1.Pod) {
		c.serve(t, app)
		old = c.makePod(t, app+"-1", ofDeployment(app), onNode("n1"), admitted)
		c.run(t, old)
		c.endpoints(t, app)
		m = c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
		return m, old, c.succeed(t, m, old, app+"-2", "n3")
	}
	stays := func(t *testing.T, m *v1alpha1.Migration, old, next *corev1.Pod, owners []metav1.OwnerReference) {
		t.Helper()
		now := c.labels(t, old, "in its Services", func(labels map[string]string) bool { return labels["app"] != "" })
		c.kill(t, next)
		c.own(t, now, owners)
		c.closed(t, m)
		if m.Status.Result != v1alpha1.ResultWithdrawn {
			t.Errorf("result %s", m.Status.Result)
		}
	}
	t.Run("moved", func(t *testing.T) {
		m, old, next := begin(t, "kept")
		c.parkHolding(t, m, next)
		c.prepare(t, m)
		c.leads(t, "kept", "kept-1:80")
		c.heldReason(t, m, metav1.ConditionTrue, v1alpha1.ReasonHolding)
		c.labels(t, old, "out of its Services", func(labels map[string]string) bool { return labels["app"] == "" })
		c.leads(t, "kept", "kept-2:61234")
		c.reached(t, m, v1alpha1.PhaseStopping)
		paused := c.stop(t, m)
		c.gone(t, old)
		c.restored(t, m, next, paused)
		c.run(t, next)
		c.leads(t, "kept", "")
		c.heldReason(t, m, metav1.ConditionFalse, v1alpha1.ReasonReleased)
		if m.Status.Result != v1alpha1.ResultRestored {
			t.Errorf("result %s: %s", m.Status.Result, m.Status.Message)
		}
		for _, reason := range []string{"ConnectionsHeld", "ConnectionsReleased"} {
			c.event(t, m.Name, reason)
		}
	})
	t.Run("the source fails", func(t *testing.T) {
		m, old, next := begin(t, "failed")
		owners := old.OwnerReferences
		c.prepare(t, m)
		c.parkHolding(t, m, next)
		c.leads(t, "failed", "failed-2:61234")
		c.reached(t, m, v1alpha1.PhaseStopping)
		c.source(t, m, map[string]any{"error": "no room on the disk"})
		c.leads(t, "failed", "failed-1:80")
		stays(t, m, old, next, owners)
		c.leads(t, "failed", "")
		c.heldReason(t, m, metav1.ConditionFalse, v1alpha1.ReasonReleased)
	})
	t.Run("it starts anew", func(t *testing.T) {
		m, old, next := begin(t, "anew")
		c.prepare(t, m)
		c.parkHolding(t, m, next)
		c.leads(t, "anew", "anew-2:61234")
		c.reached(t, m, v1alpha1.PhaseStopping)
		c.stop(t, m)
		c.gone(t, old)
		c.patchStatus(t, m, map[string]any{"restore": map[string]any{"holding": nil}}) // nobody waits there any more
		c.leads(t, "anew", "")
		c.heldReason(t, m, metav1.ConditionFalse, v1alpha1.ReasonNotHeld)
		c.run(t, next)
		c.closed(t, m)
	})
	t.Run("a policy is in the way", func(t *testing.T) {
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "strict"},
			Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "closed"}}}}
		if err := c.Create(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
		m, old, next := begin(t, "closed")
		c.prepare(t, m)
		c.park(t, m, next)
		c.reached(t, m, v1alpha1.PhaseStopping)
		if own, err := c.ownSlices(t.Context(), "closed"); err != nil || len(own) > 0 || m.PortsToHold() != nil {
			t.Errorf("%d slices, ports %v: %v", len(own), m.PortsToHold(), err)
		}
		paused := c.stop(t, m)
		c.gone(t, old)
		c.restored(t, m, next, paused)
		c.run(t, next)
		c.closed(t, m)
	})
	t.Run("the target holds none", func(t *testing.T) { // as an older checkpointer does
		m, old, next := begin(t, "older")
		c.prepare(t, m)
		c.until(t, m, "asked to hold connections", func(m *v1alpha1.Migration) bool { return len(m.PortsToHold()) == 1 })
		c.park(t, m, next)
		c.heldReason(t, m, metav1.ConditionFalse, v1alpha1.ReasonNotHeld)
		c.reached(t, m, v1alpha1.PhaseStopping)
		paused := c.stop(t, m)
		c.gone(t, old)
		c.restored(t, m, next, paused)
		c.run(t, next)
		c.closed(t, m)
	})
}
