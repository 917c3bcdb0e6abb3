package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// release lets a pod's owner make its successor while the pod still runs: the owner does
// not select it any more. What its labels were is noted before. The pod still refers to
// the owner, but not as the one that controls it: an owner that does takes its reference
// away itself, and then the pod would stay when the owner is deleted with its pods. With
// the labels, the owner takes control back.
func (d *Driver) release(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	if !m.Released() {
		noted, err := json.Marshal(pod.Labels)
		if err != nil {
			return fmt.Errorf("note the labels of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		return d.annotate(ctx, m, v1alpha1.AnnotationPodLabels, string(noted))
	}
	next := pod.DeepCopy()
	key, value := move.HashLabel(m)
	metav1.SetMetaDataLabel(&next.ObjectMeta, key, value)
	for i := range next.OwnerReferences {
		if owner := &next.OwnerReferences[i]; owner.Controller != nil {
			owner.Controller = ptr.To(false)
		}
	}
	// A reference that somebody has taken away meanwhile must not come back: its owner may
	// be gone, and the pod would go, too.
	patch := client.MergeFromWithOptions(pod, client.MergeFromWithOptimisticLock{})
	if err := d.Client.Patch(ctx, next, patch, fieldOwner); err != nil {
		return fmt.Errorf("release pod %s/%s from its owner: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// leaveServices takes the labels from a pod by which Services select it.
func (d *Driver) leaveServices(ctx context.Context, pod *corev1.Pod, keys []string) error {
	without := map[string]any{}
	for _, key := range keys {
		without[key] = nil
	}
	return d.setLabels(ctx, pod, without)
}

// putLabelsBack gives a pod the labels that it had before it was released.
func (d *Driver) putLabelsBack(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	var noted map[string]string
	if err := json.Unmarshal([]byte(m.Annotations[v1alpha1.AnnotationPodLabels]), &noted); err != nil {
		return fmt.Errorf("read annotation %s: %w", v1alpha1.AnnotationPodLabels, err)
	}
	back := map[string]any{}
	for key, value := range noted {
		if now, ok := pod.Labels[key]; !ok || now != value {
			back[key] = value
		}
	}
	if len(back) == 0 {
		return nil
	}
	return client.IgnoreNotFound(d.setLabels(ctx, pod, back))
}

// setLabels changes labels of this very pod; nil takes one away.
func (d *Driver) setLabels(ctx context.Context, pod *corev1.Pod, changed map[string]any) error {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": changed}})
	if err != nil {
		return err
	}
	if err := d.Client.Patch(ctx, pod.DeepCopy(), client.RawPatch(types.MergePatchType, data), fieldOwner); err != nil {
		return fmt.Errorf("change labels of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// selectedBy are the keys of a pod's labels by which Services select it, sorted.
func (d *Driver) selectedBy(ctx context.Context, pod *corev1.Pod) ([]string, error) {
	services, err := d.servicesOf(ctx, pod.Namespace, pod.Labels)
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for i := range services {
		for key := range services[i].Spec.Selector {
			keys[key] = true
		}
	}
	return slices.Sorted(maps.Keys(keys)), nil
}
