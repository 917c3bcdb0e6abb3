package watcher

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

func TestValidate(t *testing.T) {
	good := Config{Namespace: "lifeboat-system", PodName: "w", PodIP: "10.0.0.1", MetricsAddress: ":8080", WebhookPort: 9443, APIPort: 8443, MemberPort: 7946, Moves: move.DefaultLimits}
	if err := good.Validate(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	for want, spoil := range map[string]func(*Config){
		"namespace":       func(c *Config) { c.Namespace = "" },
		"POD_NAME":        func(c *Config) { c.PodName = "" },
		"POD_IP":          func(c *Config) { c.PodIP = "" },
		`POD_IP is "x"`:   func(c *Config) { c.PodIP = "x" },
		"metrics address": func(c *Config) { c.MetricsAddress = "" },
		"webhook port":    func(c *Config) { c.WebhookPort = 0 },
		"API port":        func(c *Config) { c.APIPort = -1 },
		"member port":     func(c *Config) { c.MemberPort = 70000 },
		"moves at a time": func(c *Config) { c.Moves.Cluster = 1 },
	} {
		t.Run(want, func(t *testing.T) {
			c := good
			spoil(&c)
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one about %s", err, want)
			}
		})
	}
}

func TestProtectedOnly(t *testing.T) {
	pod := func(annotations map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u", Annotations: annotations,
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}},
			Spec: corev1.PodSpec{NodeName: "n1"},
		}
	}
	whole := func(annotations map[string]string) *corev1.Pod {
		p := pod(annotations)
		p.ManagedFields = nil
		return p
	}
	failover := func(value string) map[string]string { return map[string]string{v1alpha1.AnnotationFailover: value} }
	for name, tc := range map[string]struct{ in, want *corev1.Pod }{
		"protected":     {pod(failover("true")), whole(failover("true"))},
		"wrong value":   {pod(failover("yes")), whole(failover("yes"))},
		"not protected": {pod(nil), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}},
		"switched off":  {pod(failover("false")), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := protectedOnly(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
		})
	}
}
