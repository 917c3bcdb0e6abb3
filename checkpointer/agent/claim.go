package agent

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

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

// disownTimeout bounds the question whether a pod is still this node's.
const disownTimeout = 2 * time.Second

// owned returns the pod of a container as the API has it, and why it is not this
// node's any more, or "". A node that comes back from a partition can learn late
// that its pods were moved: its kubelet would start the containers again that the
// fencer has just killed, and they would run twice. When the API does not answer
// the pod is nil and the container may start: the node's permission covers it, and
// where that has run out the fencer freezes it.
func (a *Agent) owned(ctx context.Context, c client.Container) (pod *corev1.Pod, disowned string) {
	ctx, cancel := context.WithTimeout(ctx, disownTimeout)
	defer cancel()
	pod = &corev1.Pod{}
	err := a.api.Get(ctx, ctrlclient.ObjectKey{Namespace: c.Namespace, Name: c.PodName}, pod)
	if err != nil && !apierrors.IsNotFound(err) {
		a.log.Warn("look up the pod of a container", "pod", c.Namespace+"/"+c.PodName, "err", err)
		return nil, ""
	}
	return pod, disowns(pod, err == nil, c.PodUID, a.cfg.NodeName)
}

// disowns says why the pod that the API has, if it exists, shows that a pod of
// the same name with the given UID may not run on a node any more, or "". The
// API's copy of a static pod has a UID of its own.
func disowns(pod *corev1.Pod, exists bool, uid, node string) string {
	switch {
	case !exists:
		return "its pod was deleted"
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return ""
	case string(pod.UID) != uid:
		return fmt.Sprintf("its pod was replaced by another of the same name, on node %s", pod.Spec.NodeName)
	case pod.Spec.NodeName != node:
		return "its pod belongs to node " + pod.Spec.NodeName
	}
	return ""
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
