package scenarios

import (
	"context"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// TestCartMovesOnPurpose: a cart in use is moved, each owner's in another way. The same
// process goes on elsewhere, or another one that has taken over its state, and nothing that
// it has acknowledged is lost.
func TestCartMovesOnPurpose(t *testing.T) {
	for _, test := range []struct {
		owner    string
		strategy v1alpha1.Strategy
		cart     func(namespace string) client.Object
	}{
		{"Deployment", v1alpha1.StrategyLive, func(ns string) client.Object { return workload.Deployment(ns) }},
		{"Deployment", v1alpha1.StrategyWarm, func(ns string) client.Object { return workload.Deployment(ns) }},
		{"Deployment", v1alpha1.StrategyCold, func(ns string) client.Object { return workload.Deployment(ns) }},
		{"StatefulSet", v1alpha1.StrategyLive, func(ns string) client.Object { return workload.StatefulSet(ns) }},
		{"StatefulSet", v1alpha1.StrategyWarm, func(ns string) client.Object { return workload.StatefulSet(ns) }},
		{"StatefulSet", v1alpha1.StrategyCold, func(ns string) client.Object { return workload.StatefulSet(ns) }},
		{"Job", v1alpha1.StrategyLive, func(ns string) client.Object { return jobOf(ns) }},
		{"none", v1alpha1.StrategyLive, func(ns string) client.Object { return workload.Pod(ns) }},
		{"none", v1alpha1.StrategyCold, func(ns string) client.Object { return workload.Pod(ns) }},
		{"StatefulSet", v1alpha1.StrategyApplication, func(ns string) client.Object {
			set := workload.StatefulSet(ns)
			handsOver(&set.Spec.Template.ObjectMeta)
			return set
		}},
		{"Job", v1alpha1.StrategyApplication, func(ns string) client.Object {
			job := jobOf(ns)
			handsOver(&job.Spec.Template.ObjectMeta)
			return job
		}},
		{"none", v1alpha1.StrategyApplication, func(ns string) client.Object {
			pod := workload.Pod(ns)
			handsOver(&pod.ObjectMeta)
			return pod
		}},
	} {
		t.Run(test.owner+" "+string(test.strategy), func(t *testing.T) {
			namespace := scene(t, "move")
			shop := openShop(t, namespace, test.cart(namespace))
			pod, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
			if err != nil {
				t.Fatal(err)
			}
			before, err := shop.At(pod).Snapshot(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			m := move(t, pod, test.strategy)
			status := m.Status
			t.Logf("%s to %s: downtime %s, %s in all, pause to stop %s", m.Spec.SourceNode, status.Claim.NodeName, status.Downtime, status.RTO, stopTime(m))
			want := v1alpha1.ResultRestored
			if test.strategy == v1alpha1.StrategyApplication {
				want, before.Birth = v1alpha1.ResultImported, "" // another process has its state
			}
			if status.Result != want || status.RPOSeconds != 0 {
				t.Errorf("the move ended as %q, RPO %s: %s: %s", status.Result, status.RPO, status.Reason, status.Message)
			}
			checkMoved(t, shop, pod, before.Birth)
		})
	}
}

// handsOver has a cart's pods hand their state over by their own endpoints.
func handsOver(meta *metav1.ObjectMeta) {
	for annotation, path := range map[string]string{
		v1alpha1.AnnotationStateExport: cart.StatePath, v1alpha1.AnnotationStateImport: cart.StatePath,
		v1alpha1.AnnotationPreCheckpoint: cart.HoldPath, v1alpha1.AnnotationPostRestore: cart.GoOnPath,
	} {
		metav1.SetMetaDataAnnotation(meta, annotation, fmt.Sprintf("http %d%s", workload.Port, path))
	}
}

// jobOf is the cart as a Job's pod.
func jobOf(namespace string) *batchv1.Job {
	pod := workload.Pod(namespace)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: namespace},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels, Annotations: pod.Annotations},
			Spec:       pod.Spec,
		}},
	}
}

// move moves a pod and waits until its Migration is closed.
func move(t *testing.T, pod *corev1.Pod, strategy v1alpha1.Strategy) *v1alpha1.Migration {
	t.Helper()
	m := beginMove(t, pod, strategy)
	closed(t, m)
	if m.Status.Claim == nil {
		t.Fatalf("nobody took the pod's place: %s: %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}
	return m
}

// beginMove asks for a pod's move.
func beginMove(t *testing.T, pod *corev1.Pod, strategy v1alpha1.Strategy) *v1alpha1.Migration {
	t.Helper()
	m := newMove(t, pod, strategy)
	create(t, m)
	return m
}

// newMove is a pod's move that can be asked for.
func newMove(t *testing.T, pod *corev1.Pod, strategy v1alpha1.Strategy) *v1alpha1.Migration {
	t.Helper()
	checkpoint := &v1alpha1.Checkpoint{}
	var known v1alpha1.MigrationList
	if err := api.Get(deadline(t), client.ObjectKeyFromObject(pod), checkpoint); err != nil {
		t.Fatal(err)
	}
	if err := api.List(deadline(t), &known, client.InNamespace(pod.Namespace)); err != nil {
		t.Fatal(err)
	}
	return v1alpha1.NewMove(pod, v1alpha1.Move{Strategy: strategy, Reason: v1alpha1.MigrationRequested},
		v1alpha1.NextEpoch(pod, checkpoint, known.Items), time.Now())
}

// closed waits until a Migration has a result.
func closed(t *testing.T, m *v1alpha1.Migration) {
	t.Helper()
	err := observe.Until(deadline(t), "migration "+m.Name+" is closed", func(ctx context.Context) (bool, string, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(m), m)
		return !m.Open(), fmt.Sprintf("it is in phase %s", m.Status.Phase), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func stopTime(m *v1alpha1.Migration) time.Duration {
	if s := m.Status.Source; s != nil && s.PausedAt != nil && s.StoppedAt != nil {
		return s.StoppedAt.Sub(s.PausedAt.Time)
	}
	return 0
}

// checkMoved says what speaks against the cart having come whole to another node. Birth is
// the one that it has to have yet, empty where that does not matter.
func checkMoved(t *testing.T, shop *loss.Shop, old *corev1.Pod, birth string) {
	t.Helper()
	ctx := deadline(t)
	moved := time.Now()
	shopper, err := observe.ReadyPod(ctx, api, shop.Namespace, workload.ShopperLabels)
	if err != nil {
		t.Fatal(err)
	}
	err = observe.Until(ctx, "the shopper is answered again", func(ctx context.Context) (bool, string, error) {
		status, err := shop.At(shopper).Status(ctx)
		return status.Last.AckedAt.After(moved), fmt.Sprintf("the last write was acknowledged at %s", status.Last.AckedAt), err
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := shop.At(shopper).Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := observe.ReadyPod(ctx, api, shop.Namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	after, err := shop.At(pod).Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if old != nil && (pod.UID == old.UID || pod.Spec.NodeName == old.Spec.NodeName) {
		t.Errorf("pod %s (%s) is on node %s, where pod %s (%s) was", pod.Name, pod.UID, pod.Spec.NodeName, old.Name, old.UID)
	}
	if birth != "" && after.Birth != birth {
		t.Errorf("the cart started anew: it was born as %s and now is %s", birth, after.Birth)
	}
	missing := 0
	for _, write := range report.Writes {
		if !after.Has(report.Cart, write.SKU) {
			missing++
		}
	}
	if missing > 0 || len(report.Writes) == 0 {
		t.Errorf("of %d acknowledged items %d are missing", len(report.Writes), missing)
	}
	err = observe.Until(ctx, "one cart is left", func(ctx context.Context) (bool, string, error) {
		var pods corev1.PodList
		err := api.List(ctx, &pods, client.InNamespace(shop.Namespace))
		carts := 0
		for i := range pods.Items {
			// A pod that was released for its replacement has lost some of its labels.
			if !hasLabels(&pods.Items[i], workload.ShopperLabels) {
				carts++
			}
		}
		return carts == 1, fmt.Sprintf("there are %d", carts), err
	})
	if err != nil {
		t.Error(err)
	}
}

func hasLabels(pod *corev1.Pod, labels map[string]string) bool {
	for key, value := range labels {
		if pod.Labels[key] != value {
			return false
		}
	}
	return true
}
