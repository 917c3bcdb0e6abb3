package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/metrics"
	"github.com/lifeboat-dev/lifeboat/watcher/trigger"
)

// EvictionsPath is where the API server finds the webhook that is asked about evictions.
const EvictionsPath = "/evictions"

// Evictions answers the API server's admission reviews of evictions. All fields are
// required. Whoever evicts a protected pod is answered as by a PodDisruptionBudget that
// does not allow it for now, with 429 Too Many Requests: kubectl drain then waits. Once the
// pod has left the answer is 404 Not Found, which to kubectl drain is what it wanted.
type Evictions struct {
	Recorder *trigger.Recorder
	Events   events.EventRecorder
	Metrics  *metrics.Triggers
	Log      *slog.Logger
}

// Handle answers one review.
func (h *Evictions) Handle(ctx context.Context, request admission.Request) admission.Response {
	now := time.Now()
	e, err := h.gather(ctx, request)
	if err != nil {
		// A pod is not kept because Lifeboat does not know what it is.
		h.Log.Warn("an eviction is let through unjudged", "pod", request.Namespace+"/"+request.Name, "error", err)
		return admission.Allowed("").WithWarnings("Lifeboat could not judge the eviction, and lets it through: " + err.Error())
	}
	answer := trigger.JudgeEviction(e, now)
	if answer.Kind == trigger.Begin {
		answer = h.begin(ctx, e.Pod, now)
	}
	if answer.Note && !e.DryRun {
		if err := h.Recorder.Note(ctx, answer.Migration, now); err != nil {
			h.Log.Warn("the successor of a pod that was moved may be evicted in its place", "pod", request.Namespace+"/"+request.Name, "error", err)
		}
	}
	h.tell(e, answer)
	return respond(request, answer, e.DryRun)
}

// gather finds out what is known of the pod.
func (h *Evictions) gather(ctx context.Context, request admission.Request) (trigger.Eviction, error) {
	asked := &policyv1.Eviction{}
	if err := json.Unmarshal(request.Object.Raw, asked); err != nil {
		return trigger.Eviction{}, fmt.Errorf("read the eviction: %w", err)
	}
	e := trigger.Eviction{Namespace: request.Namespace, Name: request.Name, DryRun: request.DryRun != nil && *request.DryRun}
	if options := asked.DeleteOptions; options != nil {
		// kubectl says only here that nothing may come of it.
		e.DryRun = e.DryRun || slices.Contains(options.DryRun, metav1.DryRunAll)
		if options.Preconditions != nil && options.Preconditions.UID != nil {
			e.UID = *options.Preconditions.UID
		}
	}
	reader, key := h.Recorder.Client, client.ObjectKey{Namespace: e.Namespace, Name: e.Name}
	var known v1alpha1.MigrationList
	if err := reader.List(ctx, &known, client.InNamespace(e.Namespace)); err != nil {
		return e, fmt.Errorf("list migrations in %s: %w", e.Namespace, err)
	}
	e.Migrations = known.Items
	pod, checkpoint, node, fence := &corev1.Pod{}, &v1alpha1.Checkpoint{}, &corev1.Node{}, &v1alpha1.Fence{}
	if err := reader.Get(ctx, key, pod); apierrors.IsNotFound(err) {
		return e, nil
	} else if err != nil {
		return e, fmt.Errorf("read pod %s: %w", key, err)
	}
	e.Pod = pod
	if err := reader.Get(ctx, key, checkpoint); err == nil {
		e.Checkpoint = checkpoint
	} else if !apierrors.IsNotFound(err) {
		return e, fmt.Errorf("read checkpoint %s: %w", key, err)
	}
	if pod.Spec.NodeName == "" {
		return e, nil
	}
	for _, object := range []client.Object{node, fence} {
		if err := reader.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, object); client.IgnoreNotFound(err) != nil {
			return e, fmt.Errorf("read %T %s: %w", object, pod.Spec.NodeName, err)
		}
	}
	e.Cordoned, e.NodeRuns = node.Spec.Unschedulable, fence.Spec.State == v1alpha1.FenceRunning
	return e, nil
}

// begin records the move of a pod that is evicted.
func (h *Evictions) begin(ctx context.Context, pod *corev1.Pod, now time.Time) trigger.Answer {
	m, created, err := h.Recorder.Record(ctx, pod, v1alpha1.Move{Reason: v1alpha1.MigrationNodeDrained}, trigger.Evicted(now))
	switch {
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err): // trying again would not help
		return trigger.Answer{Kind: trigger.LetThrough, Message: "Lifeboat cannot move the pod, and its successor starts without its state: " + err.Error()}
	case err != nil:
		return trigger.Answer{Kind: trigger.Wait, Message: "Lifeboat could not begin to move the pod to another node, and tries again: " + err.Error()}
	}
	answer := trigger.Answer{Kind: trigger.Begin, Migration: m, Note: !created,
		Message: fmt.Sprintf("Lifeboat is moving the pod to another node (migration %s)", m.Name)}
	if created {
		h.Log.Info("a pod that is evicted is to be moved", "pod", pod.Namespace+"/"+pod.Name, "node", pod.Spec.NodeName, "migration", m.Name)
		h.Events.Eventf(pod, m, corev1.EventTypeNormal, "MoveBegun", "Move",
			"The pod is to be moved (migration %s, %s), because somebody evicts it from node %s.", m.Name, m.Spec.Reason, pod.Spec.NodeName)
	}
	return answer
}

// tell counts an answer that concerns a protected pod, and says where its state is lost.
func (h *Evictions) tell(e trigger.Eviction, answer trigger.Answer) {
	if answer.Kind == trigger.LetThrough && answer.Message == "" || e.DryRun {
		return
	}
	h.Metrics.Eviction(string(answer.Kind))
	if answer.Kind == trigger.LetThrough && e.Pod != nil {
		h.Log.Warn("a protected pod is evicted", "pod", e.Namespace+"/"+e.Name, "why", answer.Message)
		h.Events.Eventf(e.Pod, nil, corev1.EventTypeWarning, "EvictedWithoutState", "Evict", "%s", answer.Message)
	}
}

// respond says it in the API server's words. A dry run is never told to wait: kubectl
// would, for ever.
func respond(request admission.Request, answer trigger.Answer, dryRun bool) admission.Response {
	var status *apierrors.StatusError
	switch {
	case answer.Kind == trigger.LetThrough, dryRun:
		if answer.Message == "" {
			return admission.Allowed("")
		}
		return admission.Allowed("").WithWarnings(answer.Message)
	case answer.Kind == trigger.Gone:
		status = apierrors.NewNotFound(corev1.Resource("pods"), request.Name)
		status.ErrStatus.Message = answer.Message
	default:
		status = apierrors.NewTooManyRequests(answer.Message, int(answer.RetryAfter.Seconds()))
	}
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: &status.ErrStatus}}
}
