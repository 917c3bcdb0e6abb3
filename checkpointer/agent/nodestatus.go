package agent

import (
	"context"
	"fmt"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// patchStatus changes the status of the node's Fence. Whatever the checkpointer
// tells of its node goes through here: only what change changes is written, so
// that the parts of the status do not overwrite each other. Nothing is written
// when nothing changes. It fails while the fencer has not made the Fence yet.
func (a *Agent) patchStatus(ctx context.Context, change func(*v1alpha1.FenceStatus)) error {
	fence := &v1alpha1.Fence{}
	if err := a.api.Get(ctx, ctrlclient.ObjectKey{Name: a.cfg.NodeName}, fence); err != nil {
		return fmt.Errorf("get the fence of node %s: %w", a.cfg.NodeName, err)
	}
	before := fence.DeepCopy()
	change(&fence.Status)
	if apiequality.Semantic.DeepEqual(before.Status, fence.Status) {
		return nil
	}
	if err := a.api.Status().Patch(ctx, fence, ctrlclient.MergeFrom(before)); err != nil {
		return fmt.Errorf("write the status of the fence of node %s: %w", a.cfg.NodeName, err)
	}
	return nil
}
