package clone

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	tokenVolumePrefix = "kube-api-access-"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// PodOf is the pod that a Migration makes: that which is cloned, under another name, with
// no controller, and with no labels but those that were asked for. Until it is restored it
// belongs to the Migration, so that it goes when somebody deletes that: nothing else would
// bring it further. Its images are those that the pod runs, by their digests where these
// are known: a tag may lead elsewhere by now.
func PodOf(m *v1alpha1.Migration, source *corev1.Pod) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: m.Spec.Pod.Name, Namespace: m.Namespace, Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Migration", Name: m.Name, UID: m.UID}}},
		Spec: *source.Spec.DeepCopy(),
	}
	maps.Copy(pod.Labels, m.Spec.Clone.Labels)
	pod.Labels[v1alpha1.LabelClone] = string(m.UID)
	// Of the others some are of programs that took the pod for theirs, or are of the network
	// that it has.
	for key, value := range source.Annotations {
		if strings.HasPrefix(key, "lifeboat.dev/") {
			pod.Annotations[key] = value
		}
	}
	spec := &pod.Spec
	spec.NodeName, spec.Hostname, spec.Subdomain = "", "", ""
	spec.EphemeralContainers, spec.SchedulingGates = nil, nil
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
			if status := statusOf(source, c.Name); status != nil {
				c.Image = pinned(c.Image, status.ImageID)
			}
		}
	}
	return pod
}

// pinned is an image by the digest that runs. The ID of one that was never pulled has no
// repository; it stays as it is.
func pinned(image, id string) string {
	repository, _, ok := strings.Cut(id, "@sha256:")
	if !ok || repository == "" || strings.Contains(repository, "://") || strings.Contains(image, "@") {
		return image
	}
	return id
}

// imageChanged says which container of a pod was given another image than it runs, or "":
// its checkpoints are of the old one, or soon are of the new one. An image can have several
// names, so that the names alone tell nothing of a pod whose spec was never changed.
func imageChanged(pod *corev1.Pod) string {
	if pod.Generation <= 1 {
		return ""
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			status := statusOf(pod, c.Name)
			if status == nil || status.Image == "" || strings.HasPrefix(status.Image, "sha256:") || sameImage(c.Image, status.Image) {
				continue
			}
			return fmt.Sprintf("container %s of pod %s runs the image %s, and its spec has %s by now: its checkpoints may be of either", c.Name, pod.Name, status.Image, c.Image)
		}
	}
	return ""
}

// sameImage says whether two names are of one image. The container runtime adds the
// registry, and the tag, that a short name leaves out.
func sameImage(spec, runs string) bool {
	if !strings.Contains(spec, "@") && !strings.Contains(spec[strings.LastIndex(spec, "/")+1:], ":") {
		spec += ":latest"
	}
	return spec == runs || strings.HasSuffix(runs, "/"+spec)
}

func statusOf(pod *corev1.Pod, container string) *corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == container {
				return &statuses[i]
			}
		}
	}
	return nil
}

// text are labels as kubectl writes them.
func text(labels map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}
