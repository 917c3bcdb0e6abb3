package migrate

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// Annotations of a Migration, for the watcher itself.
const (
	// annotationManifest keeps a bare pod until its successor exists: between
	// the deletion of the one and the creation of the other nothing else has it.
	annotationManifest = move.AnnotationManifest
	// annotationBoot is the boot of the node that was to be recovered, on a Migration
	// that was recorded while its node was held.
	annotationBoot = "lifeboat.dev/boot-id"
)

const (
	tokenVolumePrefix = "kube-api-access-"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// protected says whether the pod opted in with annotations that are allowed.
func protected(pod *corev1.Pod) bool {
	p, err := v1alpha1.ParseAnnotations(pod.Annotations)
	return err == nil && p.Protected
}

// movable says whether a lost protected pod can be had elsewhere. Pods that
// belong to their node are not, and what has ended needs no successor.
func movable(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return false
	}
	owner := metav1.GetControllerOf(pod)
	return owner == nil || owner.Kind != "DaemonSet" && owner.Kind != "Node"
}

// wanted says whether a lost pod should have a successor with its state. One
// whose deletion was asked for while its node still lived should not. One that
// is deleted because its node is lost is wanted by its controller; a bare one
// was deleted by somebody.
func wanted(pod *corev1.Pod, lostAt metav1.MicroTime) bool {
	if pod.DeletionTimestamp == nil {
		return true
	}
	if metav1.GetControllerOf(pod) == nil {
		return false
	}
	asked := pod.DeletionTimestamp.Time
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		asked = asked.Add(-time.Duration(*grace) * time.Second)
	}
	return asked.After(lostAt.Time)
}

// candidate is the pod that is to take the lost pod's place in a Migration that
// nobody has claimed, or nil. Of a controller's several lost pods each gets
// another candidate: the oldest Migration the oldest pod, and so on.
func candidate(m *v1alpha1.Migration, migrations []v1alpha1.Migration, pods []corev1.Pod) *corev1.Pod {
	taken := map[types.UID]bool{}
	var rivals []*v1alpha1.Migration
	for i := range migrations {
		other := &migrations[i]
		if other.Status.Claim != nil {
			taken[other.Status.Claim.PodUID] = true
		} else if other.Open() && other.Spec.Pod.OwnerUID == m.Spec.Pod.OwnerUID && awaitsSuccessor(other) {
			rivals = append(rivals, other)
		}
		taken[other.LostPod()] = true
	}
	var siblings []types.UID
	_ = json.Unmarshal([]byte(m.Annotations[move.AnnotationSiblings]), &siblings) // none where it is not there
	for _, uid := range siblings {
		taken[uid] = true
	}
	slices.SortFunc(rivals, func(a, b *v1alpha1.Migration) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	var free []*corev1.Pod
	for i := range pods {
		pod := &pods[i]
		// Of interchangeable pods, those that are older than the loss are the lost
		// pod's siblings. Creation times have whole seconds.
		sibling := pod.Name != m.Spec.Pod.Name && pod.CreationTimestamp.Unix() < m.BeganAt().Unix()
		// A pod that failed is replaced by its owner; a bare one is all that there is.
		failed := pod.Status.Phase == corev1.PodFailed && m.Spec.Pod.OwnerUID != ""
		if !taken[pod.UID] && !sibling && !failed && pod.DeletionTimestamp == nil {
			free = append(free, pod)
		}
	}
	slices.SortFunc(free, func(a, b *corev1.Pod) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, rival := range rivals {
		for i, pod := range free {
			if rival.SucceededBy(pod) {
				if rival.UID == m.UID {
					return pod
				}
				free = slices.Delete(free, i, i+1)
				break
			}
		}
	}
	return nil
}

// manifestOf is what a bare pod's successor is created from: the pod as its
// author wrote it, without what the API server, admission and the scheduler added
// for the lost one alone.
func manifestOf(pod *corev1.Pod) (string, error) {
	next := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace,
			Labels: maps.Clone(pod.Labels), Annotations: maps.Clone(pod.Annotations),
			OwnerReferences: slices.Clone(pod.OwnerReferences),
			Finalizers:      slices.Clone(pod.Finalizers),
		},
		Spec: *pod.Spec.DeepCopy(),
	}
	delete(next.Labels, v1alpha1.LabelClone) // from now on it is a pod as any other
	spec := &next.Spec
	spec.NodeName = ""
	spec.EphemeralContainers = nil
	tokens := map[string]bool{}
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool {
		tokens[v.Name] = strings.HasPrefix(v.Name, tokenVolumePrefix) && v.Projected != nil
		return tokens[v.Name]
	})
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			c := &containers[i]
			c.VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(mount corev1.VolumeMount) bool {
				return tokens[mount.Name] && mount.MountPath == tokenMountPath
			})
		}
	}
	data, err := json.Marshal(next)
	if err != nil {
		return "", fmt.Errorf("keep pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return string(data), nil
}
