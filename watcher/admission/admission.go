// Package admission checks Lifeboat's annotations when a pod is created or
// changed, and gives protected pods the scheduler and the runtime class that
// they need.
package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Path is where the API server finds the webhook.
const Path = "/mutate"

// Handler answers the API server's admission reviews of pods.
type Handler struct{}

// OneReviewPerConnection makes the API server open a connection for each review.
// A connection that it kept would still lead to a watcher that was lost with its
// node, and the pods that are created to replace the lost ones would go
// unadmitted: their reviews would time out. A new connection leads to a watcher
// that the Service knows to be ready.
func OneReviewPerConnection(reviews http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		reviews.ServeHTTP(w, r)
	})
}

// Handle denies annotations that are not allowed, and completes protected pods
// as they are created.
func (Handler) Handle(_ context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := json.Unmarshal(request.Object.Raw, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("read the pod: %w", err))
	}
	switch request.Operation {
	case admissionv1.Create:
		return create(pod, request.Object.Raw)
	case admissionv1.Update:
		old := &corev1.Pod{}
		if err := json.Unmarshal(request.OldObject.Raw, old); err != nil {
			return admission.Errored(http.StatusBadRequest, fmt.Errorf("read the pod as it was: %w", err))
		}
		return update(old, pod)
	}
	return admission.Allowed("")
}

func create(pod *corev1.Pod, raw []byte) admission.Response {
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err != nil {
		return admission.Denied(err.Error())
	}
	if !protection.Protected {
		return admission.Allowed("")
	}
	warnings := complete(pod)
	completed, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("write the pod: %w", err))
	}
	return admission.PatchResponseFromRaw(raw, completed).WithWarnings(warnings...)
}

// complete gives a protected pod Lifeboat's scheduler and runtime class. What its
// author chose otherwise stays, with a warning that says what it costs.
func complete(pod *corev1.Pod) (warnings []string) {
	switch pod.Spec.SchedulerName {
	case "", corev1.DefaultSchedulerName:
		pod.Spec.SchedulerName = v1alpha1.SchedulerName
	case v1alpha1.SchedulerName:
	default:
		warnings = append(warnings, fmt.Sprintf(
			"%s is set, but spec.schedulerName is %q: after the loss of its node the pod starts anew; leave spec.schedulerName empty to have it restored",
			v1alpha1.AnnotationFailover, pod.Spec.SchedulerName))
	}
	switch class := pod.Spec.RuntimeClassName; {
	case class == nil:
		pod.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName)
	case *class != v1alpha1.RuntimeClassName:
		warnings = append(warnings, fmt.Sprintf(
			"%s is set, but spec.runtimeClassName is %q: the pod is not protected; leave spec.runtimeClassName empty to have it checkpointed",
			v1alpha1.AnnotationFailover, *class))
	}
	return warnings
}

// update denies annotations that are not allowed where they change. A pod that
// had wrong ones already, past admission, can still be changed otherwise.
func update(old, pod *corev1.Pod) admission.Response {
	_, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err == nil {
		return admission.Allowed("")
	}
	if _, before := v1alpha1.ParseAnnotations(old.Annotations); before != nil && before.Error() == err.Error() {
		return admission.Allowed("").WithWarnings(err.Error())
	}
	return admission.Denied(err.Error())
}
