package preflight

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestSpec(t *testing.T) {
	claim := []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	mounted := []corev1.Container{{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}}
	tests := map[string]struct {
		annotations map[string]string
		spec        corev1.PodSpec
		want        []string
	}{
		"nothing": {spec: corev1.PodSpec{RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName), ShareProcessNamespace: ptr.To(false), HostUsers: ptr.To(true), Containers: []corev1.Container{{Name: "main"}}}},
		"everything of the node": {
			spec: corev1.PodSpec{HostNetwork: true, HostPID: true, HostIPC: true, HostUsers: ptr.To(false), ShareProcessNamespace: ptr.To(true)},
			want: []string{"Refuses HostProcesses", "Refuses SharedProcesses", "Refuses HostNetwork", "Refuses UserNamespace", "Warns HostIPC"},
		},
		"other runtime class": {spec: corev1.PodSpec{RuntimeClassName: ptr.To("gvisor")}, want: []string{"Refuses OtherRuntimeClass"}},
		"wrong annotation":    {annotations: map[string]string{v1alpha1.AnnotationInterval: "soon"}, want: []string{"Refuses WrongAnnotation"}},
		"terminal of an init container, which ends": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "init", TTY: true}}, Containers: []corev1.Container{{Name: "main"}}},
		},
		"terminal of a sidecar": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "side", TTY: true, RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}},
			want: []string{"Refuses Terminal side"},
		},
		"devices and huge pages": {
			spec: corev1.PodSpec{Containers: []corev1.Container{
				{Name: "gpu", Resources: corev1.ResourceRequirements{
					Limits:   corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1"), "cpu": resource.MustParse("1"), "ephemeral-storage": resource.MustParse("1Gi")},
					Requests: corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1")},
				}},
				{Name: "none", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("0")}}},
				{Name: "huge", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")}}},
				{Name: "claim", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}},
				{Name: "block", VolumeDevices: []corev1.VolumeDevice{{Name: "disk", DevicePath: "/dev/xvda"}}},
			}},
			want: []string{"Refuses Device gpu", "Refuses Device claim", "Refuses Device block", "Warns HugePages huge"},
		},
		"volume":         {spec: corev1.PodSpec{Volumes: claim, Containers: mounted}, want: []string{"Warns WritableVolume"}},
		"volume ignored": {annotations: map[string]string{v1alpha1.AnnotationVolumes: "ignore"}, spec: corev1.PodSpec{Volumes: claim, Containers: mounted}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			report := Spec(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: test.annotations}, Spec: test.spec})
			var got []string
			for _, f := range report.Findings {
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Severity, f.Reason, f.Container)))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	refuses := Finding{Container: "main", Severity: Refuses, Reason: IOUring, Pid: 7, Command: "node", Detail: "uses io_uring", Hint: "switch it off"}
	warns := Finding{Container: "main", Severity: Warns, Reason: OpenConnections, Detail: "has connections", Hint: "none"}
	many := Report{}
	for i := range 20 {
		f := refuses
		f.Container = fmt.Sprint("c", i)
		many.Findings = append(many.Findings, f)
	}
	tests := map[string]struct {
		report   Report
		status   metav1.ConditionStatus
		reason   string
		message  string
		findings int
	}{
		"nothing":        {Report{}, metav1.ConditionTrue, "NothingFound", "nothing was found that prevents a checkpoint", 0},
		"a warning":      {Report{Findings: []Finding{warns}}, metav1.ConditionTrue, "FindingsWarn", "1 thing was found that a checkpoint or a restore changes", 1},
		"one refuses":    {Report{Findings: []Finding{refuses, warns}}, metav1.ConditionFalse, "IOUring", "container main: process 7 (node) uses io_uring: switch it off", 2},
		"partly unseen":  {Report{Unseen: []string{"sockets"}}, metav1.ConditionUnknown, "PartlyInspected", "could not look at sockets", 0},
		"unseen, but no": {Report{Findings: []Finding{refuses}, Unseen: []string{"sockets"}}, metav1.ConditionFalse, "IOUring", "container main: process 7 (node) uses io_uring: switch it off; could not look at sockets", 1},
		"many": {many, metav1.ConditionFalse, "FindingsRefuse", "container c0: process 7 (node) uses io_uring: switch it off; container c1: process 7 (node) uses io_uring: switch it off; " +
			"container c2: process 7 (node) uses io_uring: switch it off; and 17 more; 16 of 20 findings are listed", v1alpha1.MaxFindings},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			condition, findings := test.report.Status()
			want := metav1.Condition{Type: v1alpha1.ConditionCheckpointable, Status: test.status, Reason: test.reason, Message: test.message}
			if diff := cmp.Diff(want, condition); diff != "" {
				t.Error(diff)
			}
			if len(findings) != test.findings {
				t.Errorf("%d findings", len(findings))
			}
		})
	}
}

func TestStatusFitsTheAPI(t *testing.T) {
	f := Finding{Severity: Warns, Reason: NetworkFiles, Detail: "\xff" + strings.Repeat("ä", 600), Hint: "h"}
	_, findings := Report{Findings: []Finding{f}}.Status()
	if m := findings[0].Message; len(m) > maxText || !strings.HasSuffix(m, "ä…") || strings.ToValidUTF8(m, "") != m {
		t.Errorf("message of %d bytes: %q", len(m), m)
	}
}

// TestReasonsAreDocumented: docs/reference/preflight.md has a row for each
// reason, with its severity, and for no other.
func TestReasonsAreDocumented(t *testing.T) {
	content, err := os.ReadFile("../../docs/reference/preflight.md")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|.*\\| (Refuses|Warns) \\|").FindAllStringSubmatch(string(content), -1) {
		described[row[1]] = row[2]
	}
	want := map[string]string{}
	for reason, rule := range rules {
		want[string(reason)] = string(rule.severity)
	}
	if diff := cmp.Diff(want, described); diff != "" {
		t.Errorf("docs/reference/preflight.md differs from the rules (-rules +document):\n%s", diff)
	}
}

func TestLastingVolume(t *testing.T) {
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}
	readOnlyClaim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: true}}
	for name, tc := range map[string]struct {
		source   corev1.VolumeSource
		readOnly bool
		want     string
	}{
		"a claim":                     {claim, false, "v"},
		"a claim, mounted read-only":  {claim, true, ""},
		"a read-only claim":           {readOnlyClaim, false, ""},
		"a folder of the node":        {corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}, false, "v"},
		"an NFS share":                {corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}, false, "v"},
		"an emptyDir":                 {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, false, ""},
		"a service account's token":   {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}, false, ""},
		"a ConfigMap that is mounted": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{
				Volumes: []corev1.Volume{{Name: "v", VolumeSource: tc.source}},
				Containers: []corev1.Container{{
					Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", ReadOnly: tc.readOnly}},
				}},
			}}
			if got := LastingVolume(pod); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
