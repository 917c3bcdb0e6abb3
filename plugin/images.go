package plugin

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-scheduler/framework"
)

// mostImages is how many images a kubelet reports unless it is told otherwise. A
// node that reports so many may have others.
const mostImages = 50

// image is a container image as the pod names it, and as container runtimes do.
type image struct {
	written, full string
}

// imagesOf are the pod's container images.
func imagesOf(pod *corev1.Pod) []image {
	var images []image
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			written := containers[i].Image
			if strings.LastIndex(written, ":") <= strings.LastIndex(written, "/") {
				written += ":latest"
			}
			if named := (image{written, fullName(written)}); !slices.Contains(images, named) {
				images = append(images, named)
			}
		}
	}
	return images
}

// fullName adds the registry that container runtimes take where none is named.
func fullName(name string) string {
	registry, _, found := strings.Cut(name, "/")
	switch {
	case !found:
		return "docker.io/library/" + name
	case registry != "localhost" && !strings.ContainsAny(registry, ".:"):
		return "docker.io/" + name
	}
	return name
}

// on says whether a node reports the image.
func (i image) on(info framework.NodeInfo) bool {
	there := info.GetImageStates()
	_, written := there[i.written]
	_, full := there[i.full]
	return written || full
}

// missing is how many of the images the node is known not to have.
func missing(images []image, info framework.NodeInfo) int {
	if len(images) == 0 || len(info.Node().Status.Images) >= mostImages {
		return 0
	}
	count := 0
	for _, image := range images {
		if !image.on(info) {
			count++
		}
	}
	return count
}

// somewhere leaves out the images that no node has of those that may take the pod:
// they cost the same everywhere, and would hide how the nodes differ.
func (p *Lifeboat) somewhere(images []image, pl *placement, nodes []framework.NodeInfo) []image {
	return slices.DeleteFunc(images, func(image image) bool {
		return !slices.ContainsFunc(nodes, func(info framework.NodeInfo) bool {
			return image.on(info) && refusedByFence(pl, p.records.node(info.Node().Name)) == ""
		})
	})
}
