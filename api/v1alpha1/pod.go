package v1alpha1

import corev1 "k8s.io/api/core/v1"

// PodReady says whether a pod is Ready, as far as the API server knows.
func PodReady(pod *corev1.Pod) bool {
	ready := PodConditionOf(pod, corev1.PodReady)
	return ready != nil && ready.Status == corev1.ConditionTrue
}

// PodConditionOf is a pod's condition of a type, nil where it has none.
func PodConditionOf(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}
