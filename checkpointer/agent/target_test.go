package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestRefuse(t *testing.T) {
	class := v1alpha1.RuntimeClassName
	other := "other"
	pod := func(class *string, annotations map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}, Spec: corev1.PodSpec{RuntimeClassName: class}}
	}
	protected := map[string]string{v1alpha1.AnnotationFailover: "true"}
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"admitted":            {pod(&class, protected), ""},
		"no runtime class":    {pod(nil, protected), v1alpha1.ReasonNotAdmitted},
		"other runtime class": {pod(&other, protected), v1alpha1.ReasonNotAdmitted},
		"wrong annotation":    {pod(&class, map[string]string{v1alpha1.AnnotationFailover: "yes"}), v1alpha1.ReasonInvalidAnnotation},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if r := refuse(tc.pod, v1alpha1.Protection{Volumes: v1alpha1.VolumesProtect}); r != nil {
				got = r.reason
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 512: "512", 1 << 10: "1.0Ki", 15 << 10: "15Ki", 3<<20 + 1<<19: "3.5Mi", 64 << 20: "64Mi", 2 << 30: "2.0Gi"} {
		if got := humanBytes(n); got != want {
			t.Errorf("humanBytes(%d) = %q, want %q", n, got, want)
		}
	}
}
