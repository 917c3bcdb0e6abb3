package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	longestWait = 60 * time.Second
	// lookEvery is how often a waiting operation reads the object that it waits for.
	lookEvery = 250 * time.Millisecond
)

// InNamespace is the namespace in an operation's path.
type InNamespace struct {
	Namespace string `path:"namespace" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" example:"shop"`
}

// Named is the name of the object in an operation's path.
type Named struct {
	Name string `path:"name" maxLength:"253" pattern:"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" example:"cart-0"`
}

type listPodsInput struct {
	Namespace string `query:"namespace" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Pods of this namespace alone; without it, those of the whole cluster"`
	Page
}

type podsOutput struct{ Body *List[Pod] }

type podInput struct {
	InNamespace
	Named
}

type podOutput struct{ Body Pod }

type checkpointInput struct {
	InNamespace
	Named
	Wait int `query:"wait" minimum:"0" maximum:"60" doc:"How many seconds to wait until the checkpoint is durable"`
}

// CheckpointRequest is what came of asking for a checkpoint.
type CheckpointRequest struct {
	RequestedAt time.Time  `json:"requestedAt" doc:"A generation that was begun after this was asked for"`
	Done        bool       `json:"done" doc:"Such a generation is durable"`
	Checkpoint  Checkpoint `json:"checkpoint" doc:"The pod's newest durable generation"`
}

type checkpointOutput struct {
	Status int
	Body   CheckpointRequest
}

func (s *service) listPods(ctx context.Context, in *listPodsInput) (*podsOutput, error) {
	var pods corev1.PodList
	var checkpoints v1alpha1.CheckpointList
	for _, list := range []client.ObjectList{&pods, &checkpoints} {
		if err := s.Cache.List(ctx, list, client.InNamespace(in.Namespace), client.UnsafeDisableDeepCopy); err != nil {
			return nil, unavailable("read the protected pods", err)
		}
	}
	known := make(map[string]*v1alpha1.Checkpoint, len(checkpoints.Items))
	for i := range checkpoints.Items {
		known[key(&checkpoints.Items[i])] = &checkpoints.Items[i]
	}
	var of []corev1.Pod
	for i := range pods.Items {
		if protected(&pods.Items[i]) {
			of = append(of, pods.Items[i])
		}
	}
	list, err := page(of, in.Page, func(pod *corev1.Pod) string { return key(pod) }, func(pod *corev1.Pod) Pod { return viewPod(pod, known[key(pod)]) })
	return &podsOutput{Body: list}, err
}

// key sorts objects by namespace and name. A slash sorts before all that a namespace
// may have in it but the hyphen, and that does not matter: the order is the same each time.
func key(object client.Object) string { return object.GetNamespace() + "/" + object.GetName() }

func (s *service) getPod(ctx context.Context, in *podInput) (*podOutput, error) {
	pod, checkpoint, err := s.protectedPod(ctx, in.Namespace, in.Name)
	if err != nil {
		return nil, err
	}
	return &podOutput{Body: viewPod(pod, checkpoint)}, nil
}

// protectedPod is a pod that has to be protected, and its Checkpoint, nil if it has none.
func (s *service) protectedPod(ctx context.Context, namespace, name string) (*corev1.Pod, *v1alpha1.Checkpoint, error) {
	pod, err := s.pod(ctx, namespace, name)
	if err != nil {
		return nil, nil, err
	}
	if !protected(pod) {
		return nil, nil, notProtected(pod)
	}
	checkpoint, err := s.checkpoint(ctx, pod)
	return pod, checkpoint, err
}

func (s *service) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := s.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
	switch {
	case apierrors.IsNotFound(err):
		return nil, problem(http.StatusNotFound, reasonNotFound, "GET "+basePath+"/pods lists the protected pods", "there is no pod %s in namespace %s", name, namespace)
	case err != nil:
		return nil, unavailable("read pod "+namespace+"/"+name, err)
	}
	return pod, nil
}

func notProtected(pod *corev1.Pod) *Problem {
	return problem(http.StatusNotFound, reasonNotProtected, `set the annotation `+v1alpha1.AnnotationFailover+`: "true" in its template`,
		"pod %s in namespace %s is not protected", pod.Name, pod.Namespace)
}

// checkpoint is the pod's Checkpoint, nil if it has none.
func (s *service) checkpoint(ctx context.Context, pod *corev1.Pod) (*v1alpha1.Checkpoint, error) {
	checkpoint := &v1alpha1.Checkpoint{}
	err := s.Client.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("read Checkpoint "+pod.Namespace+"/"+pod.Name, err)
	}
	return checkpoint, nil
}

func (s *service) requestCheckpoint(ctx context.Context, in *checkpointInput) (*checkpointOutput, error) {
	pod, checkpoint, err := s.protectedPod(ctx, in.Namespace, in.Name)
	if err != nil {
		return nil, err
	}
	if checkpoint == nil || checkpoint.Spec.PodUID != pod.UID {
		return nil, problem(http.StatusConflict, reasonNoCheckpoint, "wait until the pod runs; when it does, look at the events of the pod and at the checkpointer on its node",
			"the checkpointer on the node of pod %s in namespace %s has not seen the pod yet; it takes the first checkpoint by itself", pod.Name, pod.Namespace)
	}
	// As it is reported when it is answered.
	at := checkpoint.NextRequest(time.Now())
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         checkpoint.UID,
		"annotations": map[string]string{v1alpha1.AnnotationCheckpointRequested: at.Format(time.RFC3339Nano)},
	}})
	if err != nil {
		return nil, err
	}
	if err := s.Client.Patch(ctx, checkpoint, client.RawPatch(types.MergePatchType, patch), fieldOwner); err != nil {
		return nil, unavailable("ask for a checkpoint of pod "+pod.Namespace+"/"+pod.Name, err)
	}
	s.Log.Info("a checkpoint was asked for through the API", "user", callerOf(ctx).Username, "pod", pod.Namespace+"/"+pod.Name)
	done := s.awaitCheckpoint(ctx, checkpoint, metav1.NewMicroTime(at), time.Duration(in.Wait)*time.Second)
	out := &checkpointOutput{Status: http.StatusAccepted, Body: CheckpointRequest{RequestedAt: at, Done: done, Checkpoint: *viewCheckpoint(checkpoint)}}
	if done {
		out.Status = http.StatusOK
	}
	return out, nil
}

// awaitCheckpoint waits until a request is answered, and keeps the Checkpoint fresh.
func (s *service) awaitCheckpoint(ctx context.Context, checkpoint *v1alpha1.Checkpoint, asked metav1.MicroTime, wait time.Duration) bool {
	over := time.After(wait)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for wait > 0 {
		select {
		case <-over:
			return false
		case <-ctx.Done():
			return false
		case <-s.ending.Done():
			return false
		case <-look.C:
		}
		newest := &v1alpha1.Checkpoint{}
		if err := s.Client.Get(ctx, client.ObjectKeyFromObject(checkpoint), newest); err != nil || newest.Spec.PodUID != checkpoint.Spec.PodUID {
			return false // the pod has gone, or nobody can say
		}
		*checkpoint = *newest
		if answered := newest.Status.Requested; answered != nil && !answered.Before(&asked) {
			return true
		}
	}
	return false
}

func (s *service) registerPods(api huma.API) {
	list := lifeboat("list", "checkpoints")
	list.byQuery = true
	register(api, operation{id: "list-pods", method: http.MethodGet, path: "/pods", tag: "Pods", summary: "List protected pods",
		description: "With each pod's newest durable generation and what its preflight check found. The list comes from the watcher's cache, and is at most moments old.",
		need:        list}, s.listPods)
	register(api, operation{id: "get-pod", method: http.MethodGet, path: "/namespaces/{namespace}/pods/{name}", tag: "Pods", summary: "Get a protected pod",
		need: lifeboat("get", "checkpoints"), errors: []int{http.StatusNotFound}}, s.getPod)
	register(api, operation{id: "request-checkpoint", method: http.MethodPost, path: "/namespaces/{namespace}/pods/{name}/checkpoint", tag: "Pods",
		summary: "Take a checkpoint now",
		description: "Asks for a generation that is begun from now on. Without wait, and when the time is over before the generation is durable, " +
			"it is answered with 202; what keeps the pod from being checkpointed is in the conditions. Asking again does no harm.",
		need: lifeboat("update", "checkpoints"), errors: []int{http.StatusNotFound, http.StatusConflict}, within: longestWait + answerWithin,
		responses: map[string]*huma.Response{"202": {Description: "The checkpoint was asked for, and is not durable yet", Content: jsonOf[CheckpointRequest](api)}},
	}, s.requestCheckpoint)
}

// jsonOf is the content of a response.
func jsonOf[T any](api huma.API) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: schemaOf[T](api)}}
}
