package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/e2e/stock"
)

// stockNamespace is where the cart without protection runs.
const stockNamespace = "stock"

// stockCart is the same StatefulSet without Lifeboat's annotations. It runs on the
// protected cart's node, so that one cut hits both, and leaves a lost node at once.
func stockCart() *appsv1.StatefulSet {
	set := workload.StatefulSet(stockNamespace)
	template := &set.Spec.Template
	template.Annotations = nil
	template.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: workload.Labels},
			Namespaces:    []string{namespace},
			TopologyKey:   corev1.LabelHostname,
		}},
	}}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		template.Spec.Tolerations = append(template.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64),
		})
	}
	return set
}

// stockRecord is what one loss did to the cart without protection. Moments that did
// not come are zero; all were seen by looking every observe.PollEvery.
type stockRecord struct {
	notReady   time.Time // the node no longer counted as ready
	marked     time.Time // the pod was marked for deletion
	gone       time.Time // the old pod was gone from the API
	created    time.Time // its successor was there
	ready      time.Time // and ready
	firstReply time.Time // the shopper had an answer again
	powerOn    time.Time // the node's power was on its way back

	before, after cart.Snapshot
	// acked are the shopper's items acknowledged before the cut, kept those of them
	// that the cart had when it was back, and ticks what it had counted until then.
	acked, kept int
	ticks       int64
}

// alone says whether the cart came back while its node was without power.
func (r *stockRecord) alone() bool {
	return !r.firstReply.IsZero() && (r.powerOn.IsZero() || r.firstReply.Before(r.powerOn))
}

// sameProcess says whether the process that came back is the one that was lost.
func (r *stockRecord) sameProcess() bool { return r.after.Birth == r.before.Birth }

// stockShop is the shop without protection.
type stockShop struct{ loss.Shop }

func newStock(protected *loss.Shop) *stockShop {
	return &stockShop{loss.Shop{Cluster: protected.Cluster, Client: protected.Client, Namespace: stockNamespace}}
}

// prepare sends a shopper to the cart, which must be on the node, and takes down what
// is in it.
func (s *stockShop) prepare(ctx context.Context, node string) (*stockWatch, error) {
	pod, err := s.SendShopper(ctx)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName != node {
		return nil, fmt.Errorf("the cart without protection is on node %s, and the protected one on %s", pod.Spec.NodeName, node)
	}
	shopper, err := observe.ReadyPod(ctx, s.Client, s.Namespace, workload.ShopperLabels)
	if err != nil {
		return nil, err
	}
	w := &stockWatch{stockShop: s, lost: pod, shopper: shopper, done: make(chan error, 1)}
	w.record.before, err = s.At(pod).Snapshot(ctx)
	return w, err
}

// stockWatch follows the cart without protection through one loss.
type stockWatch struct {
	*stockShop
	lost, shopper *corev1.Pod
	record        stockRecord
	done          chan error
}

// begin starts to look, until the shopper has an answer again or ctx ends.
func (w *stockWatch) begin(ctx context.Context, cut time.Time) {
	go func() {
		w.done <- observe.Until(ctx, "the cart without protection is back", func(ctx context.Context) (bool, string, error) {
			return w.look(ctx, cut)
		})
	}()
}

// errDisturbed says that the cart without protection was moved before the cut.
var errDisturbed = errors.New("the cart without protection was moved before the cut")

// look notes what has happened by now.
func (w *stockWatch) look(ctx context.Context, cut time.Time) (back bool, seen string, err error) {
	r := &w.record
	pod := &corev1.Pod{}
	err = w.Client.Get(ctx, client.ObjectKeyFromObject(w.lost), pod)
	if client.IgnoreNotFound(err) != nil {
		return false, "", err
	}
	// Read after the pod: a pod is only moved once its node is not ready.
	var node corev1.Node
	if err := w.Client.Get(ctx, types.NamespacedName{Name: w.lost.Spec.NodeName}, &node); err != nil {
		return false, "", err
	}
	ready := stock.Ready(&node)
	moved := err != nil || pod.UID != w.lost.UID
	if r.notReady.IsZero() && (moved || pod.DeletionTimestamp != nil) && ready {
		return false, "", &observe.Hopeless{Err: errDisturbed}
	}
	if !ready {
		note(&r.notReady)
	}
	if moved {
		note(&r.gone)
	}
	switch {
	case err != nil:
		return false, "the old pod is gone", nil
	case moved:
		note(&r.created)
	case pod.DeletionTimestamp != nil:
		note(&r.marked)
		return false, "the old pod is being deleted", nil
	}
	if !observe.Ready(pod) {
		return false, fmt.Sprintf("not ready, a successor: %t", moved), nil
	}
	if moved {
		note(&r.ready)
	}
	status, err := w.At(w.shopper).Status(ctx)
	if err != nil {
		return false, "", err
	}
	outage, answered := status.Around(cut)
	if answered {
		r.firstReply = outage.FirstSuccess
	}
	return answered, fmt.Sprintf("ready, a successor: %t", moved), nil
}

func note(moment *time.Time) {
	if moment.IsZero() {
		*moment = time.Now()
	}
}

// conclude takes down what the cart that is back holds, and sends the shopper home.
func (w *stockWatch) conclude(ctx context.Context) (*stockRecord, error) {
	pod, err := observe.ReadyPod(ctx, w.Client, w.Namespace, workload.Labels)
	if err != nil {
		return nil, err
	}
	r := &w.record
	if r.after, err = w.At(pod).Snapshot(ctx); err != nil {
		return nil, fmt.Errorf("ask the cart without protection: %w", err)
	}
	report, err := w.At(w.shopper).Report(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the report of the shopper without protection: %w", err)
	}
	for _, write := range report.Writes {
		if !write.AckedAt.Before(r.firstReply) {
			break
		}
		r.acked++
		r.ticks = write.Ticks
		if r.after.Has(report.Cart, write.SKU) {
			r.kept++
		}
	}
	return r, w.StopShopper(ctx)
}
