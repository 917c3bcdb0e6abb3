package migrate

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// secure asks the checkpointer of a node that may go soon to checkpoint its protected
// pods now. It asks in their Checkpoints, which that checkpointer watches anyway; a
// pod that has none yet is about to get its first one.
func (d *Driver) secure(ctx context.Context, action decide.Action) {
	pods, err := d.protectedPods(ctx, action.Node)
	if err != nil {
		d.Log.Warn("pods of a node that may go are not checkpointed early", "node", action.Node, "error", err)
		return
	}
	asked := 0
	for i := range pods {
		pod := &pods[i]
		checkpoint := &v1alpha1.Checkpoint{}
		err := d.Client.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint)
		if err == nil {
			asked := client.MergeFrom(checkpoint.DeepCopy())
			metav1.SetMetaDataAnnotation(&checkpoint.ObjectMeta, v1alpha1.AnnotationCheckpointRequested,
				checkpoint.NextRequest(time.Now()).Format(time.RFC3339Nano))
			err = d.Client.Patch(ctx, checkpoint, asked, fieldOwner)
		}
		if err != nil {
			if client.IgnoreNotFound(err) != nil {
				d.Log.Warn("a pod of a node that may go is not checkpointed early", "pod", pod.Namespace+"/"+pod.Name, "node", action.Node, "error", err)
			}
			continue
		}
		asked++
	}
	if asked > 0 {
		d.nodeEvent(ctx, action.Node, corev1.EventTypeNormal, "CheckpointsRequested",
			"The node may go soon (%s): %s. Checkpoints of %d protected pods are taken now.", action.Why, action.Reason, asked)
	}
}
