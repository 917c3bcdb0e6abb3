package plugin

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestImagesOf(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Image: "busybox"}, {Image: "localhost/tool:2"}},
		Containers: []corev1.Container{
			{Image: "busybox:latest"}, {Image: "shop/web:1"}, {Image: "registry:5000/web"}, {Image: "registry.example/web@sha256:1234"},
		},
	}}
	want := []image{
		{"busybox:latest", "docker.io/library/busybox:latest"}, {"localhost/tool:2", "localhost/tool:2"},
		{"shop/web:1", "docker.io/shop/web:1"}, {"registry:5000/web:latest", "registry:5000/web:latest"},
		{"registry.example/web@sha256:1234", "registry.example/web@sha256:1234"},
	}
	if diff := cmp.Diff(want, imagesOf(pod), cmp.AllowUnexported(image{})); diff != "" {
		t.Error(diff)
	}
}
