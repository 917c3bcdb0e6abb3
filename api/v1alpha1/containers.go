package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
)

// LastingContainers are the names of the containers that run as long as their
// pod does: the sidecars among its init containers, and its containers proper.
// These are what a checkpoint holds and what a restore must bring back.
func LastingContainers(pod *corev1.Pod) []string {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			names = append(names, c.Name)
		}
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	return names
}
