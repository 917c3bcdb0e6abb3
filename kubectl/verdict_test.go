package kubectl

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// running is a protected pod that runs.
func running(change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0", UID: "1", Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		Spec:       corev1.PodSpec{NodeName: "n1", RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName), Containers: []corev1.Container{{Name: "web"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

// reported is a Checkpoint with a Checkpointable condition and findings.
func reported(status metav1.ConditionStatus, findings ...v1alpha1.Finding) *v1alpha1.Checkpoint {
	return &v1alpha1.Checkpoint{Status: v1alpha1.CheckpointStatus{Findings: findings, Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionCheckpointable, Status: status, Reason: "R", Message: "could not look at sockets"},
		{Type: v1alpha1.ConditionProtected, Status: metav1.ConditionFalse, Reason: "FirstCheckpoint", Message: "none is durable yet"},
	}}}
}

var ring = v1alpha1.Finding{Container: "web", Severity: v1alpha1.SeverityRefuses, Reason: "IOUring", Message: "process 1 (node) uses io_uring", Hint: "switch it off"}

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		seen    seen
		want    metav1.ConditionStatus
		judged  string
		status  int
		reasons []string
		says    string // in what is printed
	}{
		"good": {
			seen: seen{pod: running(nil), checkpoint: reported(metav1.ConditionTrue), installed: true},
			want: metav1.ConditionTrue, judged: "Containers", status: 0, says: "Pod shop/web-0 can be checkpointed.\n",
		},
		"bad": {
			seen: seen{pod: running(nil), checkpoint: reported(metav1.ConditionFalse, ring), installed: true},
			want: metav1.ConditionFalse, judged: "Containers", status: 1, reasons: []string{"IOUring"}, says: "Pod shop/web-0 cannot be checkpointed.\n",
		},
		"partly seen": {
			seen: seen{pod: running(nil), checkpoint: reported(metav1.ConditionUnknown), installed: true},
			want: metav1.ConditionUnknown, judged: "Containers", status: 2, says: "may or may not be checkpointed: could not look at sockets.",
		},
		"good containers, but what the node does not see": {
			seen: seen{pod: running(func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("gvisor") }), checkpoint: reported(metav1.ConditionTrue), installed: true},
			want: metav1.ConditionFalse, judged: "Containers", status: 1, reasons: []string{"OtherRuntimeClass"}, says: "leave spec.runtimeClassName empty",
		},
		"a node's finding is not repeated from the specification": {
			seen: seen{pod: running(func(p *corev1.Pod) { p.Spec.HostNetwork = true }), checkpoint: reported(metav1.ConditionFalse, v1alpha1.Finding{Severity: "Refuses", Reason: "HostNetwork"}), installed: true},
			want: metav1.ConditionFalse, judged: "Containers", status: 1, reasons: []string{"HostNetwork"},
		},
		"protected, not looked at": {
			seen: seen{pod: running(nil), installed: true},
			want: metav1.ConditionUnknown, judged: "Specification", status: 2, says: "node n1 has not looked at its containers yet",
		},
		"protected by an agent that does not look": {
			seen: seen{pod: running(nil), checkpoint: &v1alpha1.Checkpoint{}, installed: true},
			want: metav1.ConditionUnknown, judged: "Specification", status: 2,
		},
		"protected, not running": {
			seen: seen{pod: running(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), installed: true},
			want: metav1.ConditionUnknown, judged: "Specification", status: 2, says: "does not run yet",
		},
		"protected, ended": {
			seen: seen{pod: running(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), installed: true},
			want: metav1.ConditionUnknown, judged: "Specification", status: 2, says: "it has ended",
		},
		"protected, not looked at, but hopeless": {
			seen: seen{pod: running(func(p *corev1.Pod) { p.Spec.HostPID = true }), installed: true},
			want: metav1.ConditionFalse, judged: "Specification", status: 1, reasons: []string{"HostProcesses"},
		},
		"protected, no Lifeboat": {
			seen: seen{pod: running(nil)},
			want: metav1.ConditionUnknown, judged: "Specification", status: 2, says: "Lifeboat is not installed in this cluster",
		},
		"not protected": {
			seen: seen{pod: running(func(p *corev1.Pod) { p.Annotations = nil }), checkpoint: reported(metav1.ConditionFalse, ring), installed: true},
			want: metav1.ConditionTrue, judged: "Specification", status: 0, says: "can be checkpointed, as far as its specification tells.",
		},
		"wrong annotation": {
			seen: seen{pod: running(func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationReplicas] = "many" }), installed: true},
			want: metav1.ConditionFalse, judged: "Specification", status: 1, reasons: []string{"WrongAnnotation"}, says: "lifeboat.dev/replicas",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := judge(test.seen)
			var got []string
			for _, f := range v.Findings {
				got = append(got, f.Reason)
			}
			if v.Checkpointable != test.want || v.Judged != test.judged || v.exitStatus() != test.status || !cmp.Equal(got, test.reasons) {
				t.Errorf("verdict %s by %s, exit %d, %v; want %s by %s, exit %d, %v", v.Checkpointable, v.Judged, v.exitStatus(), got, test.want, test.judged, test.status, test.reasons)
			}
			if text := v.text(false); !strings.Contains(text, test.says) {
				t.Errorf("%q is not in:\n%s", test.says, text)
			}
		})
	}
}

func TestHowToProtect(t *testing.T) {
	const patch = `--type merge -p '{"spec":{"template":{"metadata":{"annotations":{"lifeboat.dev/failover":"true"}}}}}'`
	tests := map[string]struct {
		kind, name string
		labels     map[string]string
		want       string
	}{
		"bare":               {want: "into its manifest, and create it anew"},
		"stateful set":       {kind: "StatefulSet", name: "db", want: "kubectl patch statefulset db -n shop " + patch},
		"deployment":         {kind: "ReplicaSet", name: "web-7c9", labels: map[string]string{"pod-template-hash": "7c9"}, want: "kubectl patch deployment web -n shop " + patch},
		"replica set":        {kind: "ReplicaSet", name: "web-7c9", want: "kubectl patch replicaset web-7c9 -n shop " + patch},
		"job, which is fast": {kind: "Job", name: "import", want: "on the pod template of job import, and create it anew"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := running(func(p *corev1.Pod) { p.Labels = test.labels })
			if test.kind != "" {
				pod.OwnerReferences = []metav1.OwnerReference{{Kind: test.kind, Name: test.name, Controller: ptr.To(true)}}
			}
			if got := howToProtect(pod); !strings.Contains(got, test.want) {
				t.Errorf("%q is not in %q", test.want, got)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	nasty := ring
	nasty.Container, nasty.Reason, nasty.Message = "", "NetworkFiles", "process 1 (x) has /a\x1b[31m\nb open"
	v := judge(seen{pod: running(nil), checkpoint: reported(metav1.ConditionFalse, ring, nasty), installed: true})
	const want = `Pod shop/web-0 cannot be checkpointed.

SEVERITY   CONTAINER   REASON         FOUND
Refuses    web         IOUring        process 1 (node) uses io_uring
Refuses    <pod>       NetworkFiles   process 1 (x) has /a?[31m?b open

What to do:
  IOUring: switch it off.
  NetworkFiles: switch it off.

Protected: False, FirstCheckpoint: none is durable yet.
`
	var out bytes.Buffer
	if err := v.print(&out, ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	if wide := v.text(true); !strings.Contains(wide, "WHAT TO DO") || strings.Contains(wide, "What to do:") {
		t.Errorf("wide:\n%s", wide)
	}
	out.Reset()
	if err := v.print(&out, "json"); err != nil {
		t.Fatal(err)
	}
	var back verdict
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || !cmp.Equal(v, back) {
		t.Errorf("JSON does not hold the verdict: %v\n%s", err, cmp.Diff(v, back))
	}
}
