package scenarios

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// TestTriggersMovePods has pods moved without a Migration being asked for: while the
// kubelet of one node reports that memory is short, another node is taken back, is cordoned
// and is to be emptied by a request to the REST API. Each time a cart in use moves, and
// another one beside it. None of them has lost anything at the end.
func TestTriggersMovePods(t *testing.T) {
	shopping, namespace := scene(t, "triggers"), scene(t, "carts")
	names := map[string]string{"low": "", "mid": namespace + "-mid", "high": namespace + "-high"}
	for name, value := range map[string]int32{names["mid"]: 500, names["high"]: 1000} {
		class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, PreemptionPolicy: ptr.To(corev1.PreemptNever)}
		create(t, class)
		t.Cleanup(func() { _ = api.Delete(context.Background(), class) })
	}
	const short, taken = "n1", "n2"
	var shop *loss.Shop
	placed(t, taken, func() {
		shop = fillShop(t, shopping, workload.StatefulSet(shopping))
		create(t, besides(namespace, "beside", ""))
		holds(t, namespace, "beside")
	})
	births := map[string]string{}
	placed(t, short, func() {
		for name, class := range names {
			create(t, besides(namespace, name, class))
		}
		for name := range names {
			births[name] = holds(t, namespace, name)
		}
	})
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
	// The nodes share the machine's pressure stall information, so that it says nothing of one.
	watchersWith(t, "--move-on-cordon", "--move-on-pressure", "--pressure=memory=0,io=0,cpu=0")
	began := shortOfMemory(t, short)

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
	t.Run("a node is short of memory", func(t *testing.T) {
		relievedOneByOne(t, namespace, short, began)
	})
	for name, birth := range births {
		if life := lifeOf(t, namespace, name); life.Birth != birth {
			t.Errorf("%s was born as %s and is %s", name, birth, life.Birth)
		}
	}
	checkMoved(t, shop, nil, was.Birth)
}

// relievedOneByOne requires that the pods of a node that is short of memory leave it by
// their priority, one after the other, each some time after the one before has arrived.
func relievedOneByOne(t *testing.T, namespace, node string, began time.Time) {
	t.Helper()
	var last time.Time
	for i, name := range []string{"low", "mid"} {
		m := &v1alpha1.Migration{}
		err := observe.Until(deadline(t), "pod "+name+" is moved", func(ctx context.Context) (bool, string, error) {
			var known v1alpha1.MigrationList
			if err := api.List(ctx, &known, client.InNamespace(namespace)); err != nil {
				return false, "", err
			}
			seen := ""
			for _, k := range known.Items {
				if k.Spec.Reason == v1alpha1.MigrationNodePressure && k.Spec.SourceNode == node {
					seen += k.Name + " "
					if k.Spec.Pod.Name == name {
						*m = k
					}
				}
			}
			return m.Name != "" && !m.Open(), seen, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		after, least := m.Spec.LostAt.Sub(began), 30*time.Second
		if i > 0 {
			after, least = m.Spec.LostAt.Sub(last), 2*time.Minute
		}
		t.Logf("%s left after %s: %s %s, downtime %s", name, after.Round(time.Millisecond), m.Status.Result, m.Status.Reason, m.Status.Downtime)
		if after < least || m.Status.Result != v1alpha1.ResultRestored || m.Status.RPOSeconds != 0 {
			t.Errorf("pod %s left %s after it could: %s, RPO %s: %s: %s; want %s or more", name, after, m.Status.Result, m.Status.RPO, m.Status.Reason, m.Status.Message, least)
		}
		for _, p := range m.Status.Phases {
			last = p.At.Time
		}
	}
	var known v1alpha1.MigrationList
	if err := api.List(deadline(t), &known, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for _, m := range known.Items {
		if m.Spec.Pod.Name == "high" || m.Spec.Reason == v1alpha1.MigrationNodePressure && m.Spec.SourceNode != node {
			t.Errorf("pod %s was moved off %s (%s)", m.Spec.Pod.Name, m.Spec.SourceNode, m.Spec.Reason)
		}
	}
}

// besides is a cart beside the shop's.
func besides(namespace, name, class string) *corev1.Pod {
	pod := workload.Pod(namespace)
	pod.Name, pod.Spec.PriorityClassName = name, class
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
