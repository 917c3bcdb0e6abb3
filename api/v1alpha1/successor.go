package v1alpha1

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// randomSuffixLength is how many random characters the API server appends to a generateName.
const randomSuffixLength = 5

// SucceededBy says whether a pod is one that takes the place of the moved pod, whatever
// the state of the Migration: the next pod of the same controller and, where a controller's
// pods are not interchangeable, the one of the same identity. A clone starts by the
// Migration that it was made for, and nothing else by that. The plugin lets exactly these
// claim the Migration.
func (m *Migration) SucceededBy(pod *corev1.Pod) bool {
	lost := m.Spec.Pod
	if pod.Namespace != m.Namespace {
		return false
	}
	if m.Clones() || pod.Labels[LabelClone] != "" {
		return m.ClonedBy(pod) && pod.Name == lost.Name
	}
	if pod.UID == lost.UID || pod.UID == m.LostPod() {
		return false
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	switch {
	case owner == nil:
		return lost.OwnerUID == "" && pod.Name == lost.Name
	case owner.UID != lost.OwnerUID:
		return false
	case owner.Kind == "StatefulSet":
		return pod.Name == lost.Name
	case pod.Annotations[batchv1.JobCompletionIndexAnnotation] != "":
		// An Indexed Job names its pods <job>-<index>-<random>.
		return nameStem(pod.Name) == nameStem(lost.Name)
	}
	return true
}

// nameStem is a generated name without its random end.
func nameStem(name string) string { return name[:max(0, len(name)-randomSuffixLength)] }
