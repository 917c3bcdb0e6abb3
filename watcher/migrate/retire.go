package migrate

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// watcherLabels select the watcher's own pods.
var watcherLabels = client.MatchingLabels{"app.kubernetes.io/name": "lifeboat-watcher"}

// retireWatchers takes the watchers on a node that was declared lost out of the
// webhook's Service. Kubernetes itself would do so some 40 seconds later; until
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
