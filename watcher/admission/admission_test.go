package admission

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func raw(t *testing.T, annotations map[string]string, spec corev1.PodSpec) []byte {
	t.Helper()
	pod := &corev1.Pod{Spec: spec}
	pod.Name, pod.Annotations = "p", annotations
	data, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCreate(t *testing.T) {
	protected := map[string]string{v1alpha1.AnnotationFailover: "true"}
	for name, tc := range map[string]struct {
		annotations map[string]string
		spec        corev1.PodSpec
		denied      string
		warning     string
		patched     map[string]any
	}{
		"no annotation":           {annotations: map[string]string{"other": "true"}},
		"switched off":            {annotations: map[string]string{v1alpha1.AnnotationFailover: "false"}},
		"protected":               {annotations: protected, patched: map[string]any{"/spec/schedulerName": "lifeboat-scheduler", "/spec/runtimeClassName": "lifeboat"}},
		"with the default's name": {annotations: protected, spec: corev1.PodSpec{SchedulerName: "default-scheduler"}, patched: map[string]any{"/spec/schedulerName": "lifeboat-scheduler", "/spec/runtimeClassName": "lifeboat"}},
		"complete already":        {annotations: protected, spec: corev1.PodSpec{SchedulerName: "lifeboat-scheduler", RuntimeClassName: ptr.To("lifeboat")}},
		"another scheduler": {annotations: protected, spec: corev1.PodSpec{SchedulerName: "mine"},
			warning: `spec.schedulerName is "mine"`, patched: map[string]any{"/spec/runtimeClassName": "lifeboat"}},
		"another runtime class": {annotations: protected, spec: corev1.PodSpec{RuntimeClassName: ptr.To("gvisor")},
			warning: `spec.runtimeClassName is "gvisor"`, patched: map[string]any{"/spec/schedulerName": "lifeboat-scheduler"}},
		"a wrong value": {annotations: map[string]string{v1alpha1.AnnotationFailover: "yes"},
			denied: `annotation lifeboat.dev/failover: "yes" is not allowed; use "true" or "false"`},
		"a wrong key": {annotations: map[string]string{"lifeboat.dev/failovr": "true"},
			denied: `annotation lifeboat.dev/failovr`},
		"two wrong values": {annotations: map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: "soon", v1alpha1.AnnotationReplicas: "0"},
			denied: `annotation lifeboat.dev/interval: "soon" is not allowed; use a duration from 1s to 24h0m0s, as "30s"; annotation lifeboat.dev/replicas: "0" is not allowed; use a whole number from 1 to 8`},
	} {
		t.Run(name, func(t *testing.T) {
			request := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: admissionv1.Create}}
			request.Object.Raw = raw(t, tc.annotations, tc.spec)
			got := Handler{}.Handle(context.Background(), request)
			if got.Allowed != (tc.denied == "") {
				t.Fatalf("allowed = %v: %v", got.Allowed, got.Result)
			}
			if tc.denied != "" && !strings.Contains(got.Result.Message, tc.denied) {
				t.Errorf("message %q, want %q", got.Result.Message, tc.denied)
			}
			if warnings := strings.Join(got.Warnings, "\n"); !strings.Contains(warnings, tc.warning) || (tc.warning == "") != (warnings == "") {
				t.Errorf("warnings %q, want %q", warnings, tc.warning)
			}
			var patched map[string]any
			for _, p := range got.Patches {
				if patched == nil {
					patched = map[string]any{}
				}
				patched[p.Path] = p.Value
			}
			if diff := cmp.Diff(tc.patched, patched); diff != "" {
				t.Errorf("patch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	for name, tc := range map[string]struct {
		old, new map[string]string
		denied   bool
		warned   bool
	}{
		"nothing of ours":                         {old: nil, new: map[string]string{"a": "b"}},
		"protected later":                         {old: nil, new: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		"changed to a wrong value":                {old: map[string]string{v1alpha1.AnnotationFailover: "true"}, new: map[string]string{v1alpha1.AnnotationFailover: "maybe"}, denied: true},
		"wrong before, and changed otherwise":     {old: map[string]string{v1alpha1.AnnotationFailover: "maybe"}, new: map[string]string{v1alpha1.AnnotationFailover: "maybe", "a": "b"}, warned: true},
		"wrong before, and wrong in another way":  {old: map[string]string{v1alpha1.AnnotationFailover: "maybe"}, new: map[string]string{v1alpha1.AnnotationFailover: "no"}, denied: true},
		"wrong before, and now put right":         {old: map[string]string{v1alpha1.AnnotationFailover: "maybe"}, new: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		"wrong before, and the annotation is off": {old: map[string]string{v1alpha1.AnnotationFailover: "maybe"}, new: nil},
	} {
		t.Run(name, func(t *testing.T) {
			request := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: admissionv1.Update}}
			request.OldObject.Raw, request.Object.Raw = raw(t, tc.old, corev1.PodSpec{}), raw(t, tc.new, corev1.PodSpec{})
			got := Handler{}.Handle(context.Background(), request)
			if got.Allowed == tc.denied || len(got.Patches) != 0 || (len(got.Warnings) > 0) != tc.warned {
				t.Errorf("allowed %v, warnings %q, patches %v", got.Allowed, got.Warnings, got.Patches)
			}
		})
	}
}

func TestUnreadablePod(t *testing.T) {
	request := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: admissionv1.Create}}
	request.Object.Raw = []byte("{")
	if got := (Handler{}).Handle(context.Background(), request); got.Allowed {
		t.Error("allowed")
	}
}
