package scenarios

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// TestClone starts a second cart from a generation of one that is in use, on another node.
// It is the same process with the memory of that moment, and no request of the first one's
// users comes to it; the first one runs on as if nothing had been.
func TestClone(t *testing.T) {
	namespace := scene(t, "clone")
	shop := openShop(t, namespace, workload.Deployment(namespace))
	pod, early, generation := generationWith(t, shop)
	elsewhere := otherNode(t, pod)
	m := beginClone(t, pod, v1alpha1.Clone{Name: "cart-warm", Generation: generation.Status.Generation, TargetNode: elsewhere})
	closed(t, m)
	status := m.Status
	t.Logf("%s to %s: %s in all; %s", m.Spec.SourceNode, elsewhere, status.RTO, steps(m))
	if status.Result != v1alpha1.ResultRestored || status.Claim == nil || status.Claim.NodeName != elsewhere ||
		status.Restore == nil || status.Restore.Generation != generation.Status.Generation {
		t.Fatalf("the clone ended as %q: %s: %s, claim %+v, restore %+v", status.Result, status.Reason, status.Message, status.Claim, status.Restore)
	}
	clone := &corev1.Pod{}
	if err := api.Get(deadline(t), client.ObjectKey{Namespace: namespace, Name: "cart-warm"}, clone); err != nil {
		t.Fatal(err)
	}
	warm, err := shop.At(clone).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if warm.Birth != early.Birth || warm.Ticks < early.Ticks || clone.Spec.NodeName == pod.Spec.NodeName {
		t.Errorf("the clone on node %s was born as %s and lives for %d ticks; the cart on %s as %s, for %d", clone.Spec.NodeName, warm.Birth, warm.Ticks, pod.Spec.NodeName, early.Birth, early.Ticks)
	}
	for name, lines := range early.Carts {
		for _, line := range lines {
			if !warm.Has(name, line.SKU) {
				t.Errorf("the clone lacks %s of cart %s, which was there before its generation", line.SKU, name)
			}
		}
	}
	checkUnharmed(t, shop, pod, warm, generation.Status.TakenAt.Time)

	// Nobody but who knows its address has come to the clone.
	later, err := shop.At(clone).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if later.Checksum != warm.Checksum || later.Ticks <= warm.Ticks {
		t.Errorf("the clone had %d items and has %d, %d ticks later", warm.Items, later.Items, later.Ticks-warm.Ticks)
	}
	if _, err := observe.Durable(deadline(t), api, clone, 1); err != nil {
		t.Errorf("the clone is not protected itself: %v", err)
	}
	if err := api.Delete(deadline(t), clone); err != nil {
		t.Fatal(err)
	}
	for name, wrong := range map[string]v1alpha1.Clone{"generation": {Generation: 99999}, "labels": {Labels: workload.Labels, Name: pod.Name}} {
		refused := beginClone(t, pod, wrong)
		closed(t, refused)
		if s := refused.Status; s.Result != v1alpha1.ResultWithdrawn || s.Reason == "" || s.Message == "" {
			t.Errorf("a wrong %s: %s, %s: %s", name, s.Result, s.Reason, s.Message)
		}
	}
}

// TestCloneIsRestoredOrNothing: a clone whose checkpoint is damaged is given up, and does not
// start anew. Memory is read on demand, so that it may run until what is damaged is needed.
func TestCloneIsRestoredOrNothing(t *testing.T) {
	namespace := scene(t, "nothing")
	shop := fillShop(t, namespace, workload.Pod(namespace))
	pod, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	before, err := shop.At(pod).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	generation, err := observe.Durable(deadline(t), api, pod, 1)
	if err != nil {
		t.Fatal(err)
	}
	const spoil = `cd /var/lib/lifeboat/%s/%s 2>/dev/null || exit 0
find segments -type f | while read -r segment; do
	printf 'these bytes are not those that were written' | dd of="$segment" bs=1 seek=$(($(stat -c %%s "$segment") / 2)) conv=notrunc status=none
done`
	if _, err := onEveryNode(deadline(t), fmt.Sprintf(spoil, namespace, pod.UID)); err != nil {
		t.Fatal(err)
	}
	m := beginClone(t, pod, v1alpha1.Clone{Name: "cart-warm", Generation: generation.Status.Generation})
	err = observe.Until(deadline(t), "the clone is given up", func(ctx context.Context) (bool, string, error) {
		clone := &corev1.Pod{}
		if err := api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "cart-warm"}, clone); err == nil {
			for _, s := range clone.Status.ContainerStatuses {
				if s.State.Running != nil && s.RestartCount > 0 {
					t.Fatalf("container %s was started anew: %+v", s.Name, s)
				}
			}
		}
		err := api.Get(ctx, client.ObjectKeyFromObject(m), m)
		return !m.Open(), fmt.Sprintf("it is in phase %s", m.Status.Phase), err
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Status; s.Result != v1alpha1.ResultFailed || s.Reason != v1alpha1.ReasonCheckpointDamaged || s.Restore == nil ||
		len(s.Restore.Containers) != 1 || s.Restore.Containers[0].Result != v1alpha1.ResultFailed {
		t.Errorf("result %s, %s: %s, restore %+v", s.Result, s.Reason, s.Message, s.Restore)
	}
	t.Logf("%s: %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	err = observe.Until(deadline(t), "the clone is gone", func(ctx context.Context) (bool, string, error) {
		err := api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "cart-warm"}, &corev1.Pod{})
		return apierrors.IsNotFound(err), "it is there", client.IgnoreNotFound(err)
	})
	if err != nil {
		t.Error(err)
	}
	after, err := shop.At(pod).Snapshot(deadline(t))
	if err != nil || after.Birth != before.Birth || after.Checksum != before.Checksum {
		t.Errorf("the cart was born as %s and now is %s, %d items and now %d: %v", before.Birth, after.Birth, before.Items, after.Items, err)
	}
}

// generationWith is what a cart holds just now, and a generation that was taken later.
func generationWith(t *testing.T, shop *loss.Shop) (*corev1.Pod, cart.Snapshot, *v1alpha1.Checkpoint) {
	t.Helper()
	pod, err := observe.ReadyPod(deadline(t), api, shop.Namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	known, err := observe.Durable(deadline(t), api, pod, 1)
	if err != nil {
		t.Fatal(err)
	}
	early, err := shop.At(pod).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	// The one after the next was begun after the snapshot, however far behind the report is.
	var generation *v1alpha1.Checkpoint
	asked := time.Now()
	for least := known.Status.Generation + 1; ; least++ {
		if generation, err = observe.Durable(deadline(t), api, pod, least); err != nil {
			t.Fatal(err)
		}
		if generation.Status.TakenAt.After(asked) {
			return pod, early, generation
		}
	}
}

// otherNode is a node on which a pod does not run.
func otherNode(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	nodes, err := lab.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n.PoweredOn && n.Name != pod.Spec.NodeName {
			return n.Name
		}
	}
	t.Fatal("there is no other node")
	return ""
}

// beginClone asks for a clone of a pod.
func beginClone(t *testing.T, pod *corev1.Pod, clone v1alpha1.Clone) *v1alpha1.Migration {
	t.Helper()
	var known v1alpha1.MigrationList
	if err := api.List(deadline(t), &known, client.InNamespace(pod.Namespace)); err != nil {
		t.Fatal(err)
	}
	m := v1alpha1.NewClone(pod, clone, known.Items, time.Now())
	create(t, m)
	return m
}

// checkUnharmed says what speaks against a cart having run on while it was cloned. Warm is
// what its clone has, of a generation that was taken at a moment.
func checkUnharmed(t *testing.T, shop *loss.Shop, was *corev1.Pod, warm cart.Snapshot, taken time.Time) {
	t.Helper()
	ctx := deadline(t)
	shopper, err := observe.ReadyPod(ctx, api, shop.Namespace, workload.ShopperLabels)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = observe.Until(ctx, "the shopper is answered", func(ctx context.Context) (bool, string, error) {
		status, err := shop.At(shopper).Status(ctx)
		return status.Last.AckedAt.After(began.Add(time.Second)), fmt.Sprintf("the last write was acknowledged at %s", status.Last.AckedAt), err
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := shop.At(shopper).Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	now := &corev1.Pod{}
	if err := api.Get(ctx, client.ObjectKeyFromObject(was), now); err != nil {
		t.Fatal(err)
	}
	holds, err := shop.At(now).Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if now.UID != was.UID || now.Status.ContainerStatuses[0].RestartCount != 0 || holds.Birth != warm.Birth || now.DeletionTimestamp != nil {
		t.Errorf("the cart is pod %s, started again %d times, born as %s", now.UID, now.Status.ContainerStatuses[0].RestartCount, holds.Birth)
	}
	missing, early, late := 0, 0, 0
	for _, write := range report.Writes {
		if !holds.Has(report.Cart, write.SKU) {
			missing++
		}
		has := warm.Has(report.Cart, write.SKU)
		if write.AckedAt.Before(taken) && !has {
			early++
		}
		if write.SentAt.After(taken.Add(time.Second)) && has {
			late++
		}
	}
	if missing > 0 || early > 0 || late > 0 || len(report.Writes) == 0 {
		t.Errorf("of %d acknowledged items the cart lacks %d; the clone lacks %d from before its generation, and has %d from after it", len(report.Writes), missing, early, late)
	}
}

// steps are the times that a Migration's steps took.
func steps(m *v1alpha1.Migration) string {
	var text []string
	before := m.Spec.LostAt.Time
	for _, p := range m.Status.Phases {
		text = append(text, fmt.Sprintf("%s %.2f s", p.Phase, p.At.Sub(before).Seconds()))
		before = p.At.Time
	}
	return strings.Join(text, ", ")
}
