package httpapi

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestCandidates(t *testing.T) {
	pod := func(name, node string, change ...func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
			Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
		}
		for _, c := range change {
			c(&p)
		}
		return p
	}
	priority := func(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = ptr.To(n) } }
	pods := []corev1.Pod{
		pod("vital", "n1", priority(2_000_000_000)),
		pod("minor", "n2", priority(-2_000_000_000)),
		pod("b", "n1"), pod("a", "n1"),
		pod("elsewhere", "n3"),
		pod("plain", "n1", func(p *corev1.Pod) { p.Annotations = nil }),
		pod("wrong", "n1", func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationInterval] = "soon" }),
		pod("waits", "n1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		pod("leaves", "n1", func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }),
		pod("daemon", "n1", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "d", Controller: ptr.To(true)}}
		}),
		pod("moves", "n1"), pod("moved", "n1"), pod("arrives", "n1"),
	}
	migration := func(namespace, uid string, result v1alpha1.Result) v1alpha1.Migration {
		m := v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: uid + "-1"}}
		m.Spec.Pod.UID, m.Status.Result = types.UID(uid), result
		return m
	}
	arriving := migration("shop", "earlier", "")
	arriving.Status.Claim = &v1alpha1.Claim{PodUID: "arrives"}
	known := []v1alpha1.Migration{migration("shop", "moves", ""), migration("shop", "moved", v1alpha1.ResultRestored), migration("bank", "a", ""), arriving}

	movable, skipped := candidates(pods, known, []string{"n1", "n2"})
	var names []string
	for _, p := range movable {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{"minor", "a", "b", "moved", "vital"}, names); diff != "" {
		t.Errorf("moved, in this order (-want +got):\n%s", diff)
	}
	why := map[string]string{}
	for _, s := range skipped {
		why[s.Name] = s.Reason
	}
	want := map[string]string{"wrong": "NotProtected", "waits": "NotRunning", "leaves": "NotRunning", "daemon": "Invalid", "moves": "AlreadyMoving", "arrives": "AlreadyMoving"}
	if diff := cmp.Diff(want, why); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
}

// TestRequest: a request is the same for the same user, key and body alone.
func TestRequest(t *testing.T) {
	of := func(user, key string, body any) request {
		r, err := requestOf(user, key, body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := of("anna", "k", MoveRequest{Pod: "a"})
	m := v1alpha1.Migration{}
	first.mark(&m)
	for name, tc := range map[string]struct {
		request request
		found   int
		refused bool
	}{
		"the same":        {of("anna", "k", MoveRequest{Pod: "a"}), 1, false},
		"another body":    {of("anna", "k", MoveRequest{Pod: "b"}), 0, true},
		"another user":    {of("bob", "k", MoveRequest{Pod: "a"}), 0, false},
		"another key":     {of("anna", "l", MoveRequest{Pod: "a"}), 0, false},
		"parts elsewhere": {of("ann", "ak", MoveRequest{Pod: "a"}), 0, false},
		"without a key":   {of("anna", "", MoveRequest{Pod: "a"}), 0, false},
	} {
		made, err := tc.request.made([]v1alpha1.Migration{{}, m})
		if len(made) != tc.found || (err != nil) != tc.refused {
			t.Errorf("%s: found %d, error %v; want %d, refused %t", name, len(made), err, tc.found, tc.refused)
		}
	}
	unmarked := v1alpha1.Migration{}
	if of("anna", "", nil).mark(&unmarked); unmarked.Labels != nil || unmarked.Annotations != nil {
		t.Error("a request without a key leaves marks")
	}
}
