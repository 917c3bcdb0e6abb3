package migrate

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// removal is what became of a pod that was to be removed from the API.
type removal int

const (
	podRemoved removal = iota
	podKept            // something else, as a finalizer, keeps it
	podChanged         // somebody wrote to it meanwhile: try again
	podLives           // its node is not fenced any more, and starts it again there
)

func lossMessage(node string) string {
	return fmt.Sprintf("node %s is lost and fenced; the pod is deleted, and its successor is restored elsewhere", node)
}

// removePod removes a lost pod from the API at once: the kubelet that would have to
// confirm that it is gone is gone itself. The pod is marked first, then it is made sure
// that the node is still fenced, and then this very version of the pod is deleted. So
// a request that is late, of this watcher or of one that led before, can never delete a
// pod that its node has started again in the meantime: whoever finds the node back
// takes the mark off, and that makes another version.
func (d *Driver) removePod(ctx context.Context, pod *corev1.Pod, node string, reason v1alpha1.MigrationReason) (removal, error) {
	marked, err := d.mark(ctx, pod, node, reason)
	switch {
	case apierrors.IsNotFound(err):
		return podRemoved, nil
	case apierrors.IsConflict(err):
		return podChanged, nil
	case err != nil:
		return 0, fmt.Errorf("mark pod %s/%s as lost: %w", pod.Namespace, pod.Name, err)
	}
	fence := &v1alpha1.Fence{}
	if err := d.Reader.Get(ctx, client.ObjectKey{Name: node}, fence); client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("read fence %s: %w", node, err)
	}
	fenced, ok := decide.FencedBy(fence)
	if !ok {
		// The node's copy was killed and may be started again there. To delete the
		// pod by force now could leave two of them running.
		return podLives, d.unmark(ctx, marked)
	}
	d.Events.Eventf(marked, nil, corev1.EventTypeWarning, "NodeLost", "Delete",
		"Node %s is lost and fenced; the pod's copy there cannot run any more. The pod is deleted.", fenced.Node())
	return d.deleteExactly(ctx, marked)
}

// deleteExactly deletes a version of a pod, whose processes run no more, by force.
func (d *Driver) deleteExactly(ctx context.Context, pod *corev1.Pod) (removal, error) {
	err := d.Client.Delete(ctx, pod, client.GracePeriodSeconds(0), exactly(pod))
	if apierrors.IsConflict(err) {
		return podChanged, nil
	}
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	left := &corev1.Pod{}
	err = d.Reader.Get(ctx, client.ObjectKeyFromObject(pod), left)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("read pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err == nil && left.UID == pod.UID {
		return podKept, nil
	}
	return podRemoved, nil
}

// mark tells in the pod itself why it goes, for whoever watches it, and returns the
// pod as it is then.
func (d *Driver) mark(ctx context.Context, pod *corev1.Pod, node string, reason v1alpha1.MigrationReason) (*corev1.Pod, error) {
	return d.setMark(ctx, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: string(reason), Message: lossMessage(node),
	})
}

// unmark takes the mark off a pod that its node starts again.
func (d *Driver) unmark(ctx context.Context, pod *corev1.Pod) error {
	_, err := d.setMark(ctx, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(),
		Reason: "NodeReturned", Message: fmt.Sprintf("node %s came back before the pod was deleted", pod.Spec.NodeName),
	})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("take the mark off pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func (d *Driver) setMark(ctx context.Context, pod *corev1.Pod, condition corev1.PodCondition) (*corev1.Pod, error) {
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, // a successor of the same name is left alone
		"status":   map[string]any{"conditions": []corev1.PodCondition{condition}},
	})
	if err != nil {
		return nil, err
	}
	marked := pod.DeepCopy()
	if err := d.Client.Status().Patch(ctx, marked, client.RawPatch(types.StrategicMergePatchType, data), fieldOwner); err != nil {
		return nil, err
	}
	return marked, nil
}
