package migrate

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// replaceFor is how long after a lost pod's deletion a successor that was not
// admitted is replaced by another one. Admission fails for a moment when a watcher
// is lost; where it fails for longer, a pod that starts anew is better than none.
const replaceFor = 30 * time.Second

// admitted says whether a pod came through Lifeboat's admission. One that did not,
// whatever its annotations, is no protected pod: its containers are not registered
// on their node, so that the fencer there does not stop them.
func admitted(pod *corev1.Pod) bool {
	return ptr.Deref(pod.Spec.RuntimeClassName, "") == v1alpha1.RuntimeClassName
}

// clearUnadmitted sees to the pods of a fenced node that ask for protection and were
// not admitted. One that was created after the node's loss cannot have begun there;
// it stands in the way of the next pod, and is deleted. Another one may be running,
// and nothing there stops it: it is left to Kubernetes.
func (d *Driver) clearUnadmitted(ctx context.Context, pod *corev1.Pod, fenced decide.Fenced) error {
	if pod.CreationTimestamp.Before(ptr.To(metav1.NewTime(fenced.LostAt().Time))) {
		d.Events.Eventf(pod, nil, corev1.EventTypeWarning, "NotRecovered", "Recover",
			"Node %s is lost, but the pod was not admitted by Lifeboat: nothing there stops its copy, so the pod is left to Kubernetes. "+
				"Delete it by force once the node is surely powered off.", fenced.Node())
		return nil
	}
	_, err := d.removePod(ctx, pod, fenced.Node(), reasonOf(fenced))
	return err
}

// replaceUnadmitted deletes a successor that was not admitted before it starts anew:
// its owner creates another one, which is admitted. It returns false where the pod
// has to do.
func (d *Driver) replaceUnadmitted(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (replaced bool, err error) {
	if m.Status.Claim != nil || admitted(pod) || m.Spec.Pod.OwnerUID == "" || time.Since(deletedAt(m)) > replaceFor || begun(pod) {
		return false, nil
	}
	if pod.DeletionTimestamp == nil {
		d.Events.Eventf(pod, m, corev1.EventTypeWarning, "NotAdmitted", "Recover",
			"The pod was created while Lifeboat's admission did not answer, and would start anew. It is deleted, for its owner to create it again.")
		err := d.Client.Delete(ctx, pod, client.GracePeriodSeconds(1),
			client.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return false, fmt.Errorf("delete pod %s/%s, which was not admitted: %w", pod.Namespace, pod.Name, err)
		}
	}
	return true, nil
}

// begun says whether one of the pod's containers has started.
func begun(pod *corev1.Pod) bool {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, status := range statuses {
			if status.State.Running != nil || status.State.Terminated != nil || status.RestartCount > 0 {
				return true
			}
		}
	}
	return false
}
