package agent

import (
	"context"
	"fmt"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// claimed returns the open Migration that the container's pod has claimed for
// this node, or nil. The runtime's word alone is never enough: the Migration in
// the API decides. The cache may lag behind the claim, so where it shows none
// the API is asked.
func (a *Agent) claimed(ctx context.Context, c client.Container) (*v1alpha1.Migration, error) {
	var list v1alpha1.MigrationList
	if err := a.cache.List(ctx, &list, inNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	if m := findClaim(list.Items, c.PodUID, a.cfg.NodeName); m != nil {
		return m, nil
	}
	if err := a.api.List(ctx, &list, inNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	return findClaim(list.Items, c.PodUID, a.cfg.NodeName), nil
}

// findClaim returns the open Migration that a pod has claimed for a node, or nil.
func findClaim(migrations []v1alpha1.Migration, podUID, node string) *v1alpha1.Migration {
	for i := range migrations {
		m := &migrations[i]
		if claim := m.Status.Claim; m.Open() && claim != nil && string(claim.PodUID) == podUID && claim.NodeName == node {
			return m
		}
	}
	return nil
}

// consumed says whether a container of the claim's pod has had its restore: a
// container is restored once, and starts anew after that.
func consumed(m *v1alpha1.Migration, container string) bool {
	r := m.Status.Restore
	if r == nil || r.PodUID != m.Status.Claim.PodUID {
		return false
	}
	for _, c := range r.Containers {
		if c.Name == container {
			return true
		}
	}
	return false
}
