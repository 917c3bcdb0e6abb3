package migrate

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// ownerLook is after how long without a successor it is looked whether its owner is still
// there, and how often: mostly the successor is there at once.
const ownerLook = 5 * time.Second

// judgeOwner ends a Migration that waits for a successor, by the verdict v, when nobody is
// there any more who makes one. Of a ReplicaSet alone the kind says what it is: there are
// other StatefulSets and Jobs than Kubernetes' own.
func (d *Driver) judgeOwner(ctx context.Context, m *v1alpha1.Migration, v Verdict, now time.Time) (Verdict, error) {
	owner := m.Spec.Pod
	if owner.OwnerKind != "ReplicaSet" {
		return v, nil
	}
	if first := deletedAt(m).Add(ownerLook); now.Before(first) {
		v.Look = sooner(v.Look, first)
		return v, nil
	}
	var sets appsv1.ReplicaSetList
	if err := d.Reader.List(ctx, &sets, client.InNamespace(m.Namespace), client.MatchingFields{"metadata.name": owner.OwnerName}); err != nil {
		return v, fmt.Errorf("look for the ReplicaSet %s/%s of a lost pod: %w", m.Namespace, owner.OwnerName, err)
	}
	for i := range sets.Items {
		if set := &sets.Items[i]; set.UID == owner.OwnerUID && set.DeletionTimestamp == nil {
			v.Look = sooner(v.Look, now.Add(ownerLook))
			return v, nil
		}
	}
	return Verdict{Result: v1alpha1.ResultFailed, Reason: v1alpha1.ReasonOwnerDeleted,
		Message: fmt.Sprintf("ReplicaSet %s, which was to make another pod, was deleted", owner.OwnerName)}, nil
}
