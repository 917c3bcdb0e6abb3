package migrate

import (
	"context"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// watcherLabels select the watcher's own pods.
var watcherLabels = client.MatchingLabels{"app.kubernetes.io/name": "lifeboat-watcher"}

// LeaseName is the name of the leading watcher's Lease.
const LeaseName = "lifeboat-watcher"

// endLead ends the lead of a watcher that was lost with its node, so that another
// one takes over at once and not when the Lease has run out. Nothing depends on
// there being one leader alone: should the lost one still act, its writes and the
// new leader's are the same.
func (d *Driver) endLead(ctx context.Context, lost []corev1.Pod) {
	lease := &coordinationv1.Lease{}
	if err := d.Reader.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: LeaseName}, lease); err != nil {
		d.Log.Warn("a lost leader's Lease has to run out", "error", err)
		return
	}
	led := slices.ContainsFunc(lost, func(pod corev1.Pod) bool {
		return strings.HasPrefix(ptr.Deref(lease.Spec.HolderIdentity, ""), pod.Name+"_")
	})
	if !led {
		return
	}
	lease.Spec.HolderIdentity = ptr.To("")
	lease.Spec.LeaseDurationSeconds = ptr.To[int32](1)
	if err := d.Client.Update(ctx, lease); err != nil {
		d.Log.Warn("a lost leader's Lease has to run out", "error", err)
		return
	}
	d.Log.Info("the leading watcher was lost with its node; another one takes over")
}

// retireWatchers ends the lead of the watchers on a node that was declared lost,
// and takes them out of the webhook's Service. Kubernetes itself would do so some 40 seconds later; until
// then every other review would be sent to a dead address, and the pods that
// replace the lost ones would be created unprotected. It marks the pods as not
// Ready, which the node's kubelet puts right should the node be alive after all.
func (d *Driver) retireWatchers(ctx context.Context, node string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var pods corev1.PodList
	err := d.Reader.List(ctx, &pods, client.InNamespace(d.Namespace), watcherLabels, client.MatchingFields{"spec.nodeName": node})
	if err != nil {
		d.Log.Warn("watchers of a lost node stay in the webhook's Service", "node", node, "error", err)
		return
	}
	d.endLead(ctx, pods.Items)
	for i := range pods.Items {
		pod := &pods.Items[i]
		before := pod.DeepCopy()
		for j := range pod.Status.Conditions {
			if c := &pod.Status.Conditions[j]; c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				c.Status, c.Reason, c.Message = corev1.ConditionFalse, "NodeLost", "Lifeboat declared the pod's node lost"
				c.LastTransitionTime = metav1.Now()
			}
		}
		if err := d.Client.Status().Patch(ctx, pod, client.StrategicMergeFrom(before)); err != nil {
			d.Log.Warn("a watcher of a lost node stays in the webhook's Service", "node", node, "pod", pod.Name, "error", err)
		}
	}
}
