package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// CloneRequest asks for a new pod that starts from a pod's checkpoint.
type CloneRequest struct {
	_               struct{}          `additionalProperties:"false"`
	Name            string            `json:"name,omitempty" maxLength:"253" pattern:"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" doc:"The new pod's name; without it one is made up" example:"cart-warm"`
	PodUID          string            `json:"podUID,omitempty" maxLength:"64" doc:"The request is refused where the pod of this name is another one by now"`
	Generation      int64             `json:"generation,omitempty" minimum:"1" doc:"The generation to restore, and no other; without it the newest that is whole"`
	Labels          map[string]string `json:"labels,omitempty" doc:"All of the new pod's labels. The Services that select by them send it requests; without any none does"`
	TargetNode      string            `json:"targetNode,omitempty" maxLength:"253" doc:"Where it is to start; without it the scheduler chooses" example:"node-3"`
	DeadlineSeconds int32             `json:"deadlineSeconds,omitempty" minimum:"1" maximum:"86400" doc:"How long it may take until the new pod is Ready; without it 600"`
}

type cloneInput struct {
	InNamespace
	Named
	Key
	Body CloneRequest
}

func (s *service) createClone(ctx context.Context, in *cloneInput) (*createdOutput, error) {
	req, err := requestOf(callerOf(ctx).Username, in.IdempotencyKey, "clone", in.Namespace, in.Name, in.Body)
	if err != nil {
		return nil, err
	}
	return s.createOnce(ctx, in.Namespace, req,
		func() (*corev1.Pod, error) { return s.cloneable(ctx, in) },
		func(pod *corev1.Pod, known []v1alpha1.Migration) (*v1alpha1.Migration, error) {
			return s.clone(ctx, pod, in.Body, req, known)
		},
		problem(http.StatusConflict, reasonConflict, "try again, with another name", "others start clones of this name in namespace %s all the time", in.Namespace))
}

// cloneable is the pod that is to be cloned. What it refuses would be refused later as well,
// by the watcher; here the caller learns it at once.
func (s *service) cloneable(ctx context.Context, in *cloneInput) (*corev1.Pod, error) {
	asked := in.Body
	pod, checkpoint, err := s.protectedPod(ctx, in.Namespace, in.Name)
	if err != nil {
		return nil, err
	}
	switch why := v1alpha1.NotCloned(pod); {
	case asked.PodUID != "" && types.UID(asked.PodUID) != pod.UID:
		return nil, problem(http.StatusConflict, reasonPodReplaced, "look at the pod again, and ask with its UID",
			"pod %s in namespace %s has the UID %s, and not %s: it was replaced", pod.Name, in.Namespace, pod.UID, asked.PodUID)
	case why != "":
		return nil, problem(http.StatusUnprocessableEntity, reasonNotCloned, "see the reference of clones for which pods can be cloned", "%s", why)
	case checkpoint == nil || checkpoint.Status.Generation == 0:
		return nil, problem(http.StatusConflict, reasonNoCheckpoint, "wait for its first checkpoint, or ask for one: POST "+basePath+"/namespaces/"+in.Namespace+"/pods/"+in.Name+"/checkpoint",
			"pod %s in namespace %s has no durable generation yet", pod.Name, in.Namespace)
	case asked.Generation > checkpoint.Status.Generation+newestBehind:
		return nil, problem(http.StatusUnprocessableEntity, reasonNoCheckpoint, "leave the generation out for the newest one",
			"pod %s in namespace %s has no generation %d yet: the newest is %d", pod.Name, in.Namespace, asked.Generation, checkpoint.Status.Generation)
	}
	if errs := metavalidation.ValidateLabels(asked.Labels, field.NewPath("labels")); len(errs) > 0 {
		return nil, problem(http.StatusUnprocessableEntity, reasonInvalid, "change the labels as the message says", "%v", errs.ToAggregate())
	}
	if asked.Labels[v1alpha1.LabelClone] != "" {
		return nil, problem(http.StatusUnprocessableEntity, reasonInvalid, "leave it out", "the label %s is Lifeboat's own", v1alpha1.LabelClone)
	}
	for object, name := range map[client.Object]string{&corev1.Node{}: asked.TargetNode, &corev1.Pod{}: asked.Name} {
		if err := s.absent(ctx, object, in.Namespace, name); err != nil {
			return nil, err
		}
	}
	return pod, nil
}

// newestBehind is how many generations the Checkpoint may be behind: it is written at a
// bounded rate.
const newestBehind = 20

// absent refuses a pod's name that is taken, and a node that does not exist. An empty name
// is neither.
func (s *service) absent(ctx context.Context, object client.Object, namespace, name string) error {
	if name == "" {
		return nil
	}
	key := client.ObjectKey{Name: name}
	_, isNode := object.(*corev1.Node)
	if !isNode {
		key.Namespace = namespace
	}
	err := s.Client.Get(ctx, key, object)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return unavailable("read "+key.String(), err)
	case isNode && err != nil:
		return problem(http.StatusUnprocessableEntity, reasonInvalid, "GET "+basePath+"/nodes lists them", "there is no node %s", name)
	case !isNode && err == nil:
		return problem(http.StatusConflict, reasonNameTaken, "choose another name, or none", "there is a pod %s in namespace %s already", name, namespace)
	}
	return nil
}

// clone records that a new pod is to start. It fails with AlreadyExists when another
// Migration of its name was recorded since known was read.
func (s *service) clone(ctx context.Context, pod *corev1.Pod, asked CloneRequest, req request, known []v1alpha1.Migration) (*v1alpha1.Migration, error) {
	m := v1alpha1.NewClone(pod, v1alpha1.Clone{Name: asked.Name, Generation: asked.Generation, Labels: asked.Labels,
		TargetNode: asked.TargetNode, Deadline: time.Duration(asked.DeadlineSeconds) * time.Second}, known, time.Now())
	for i := range known {
		if other := &known[i]; other.Open() && other.Spec.Pod.Name == m.Spec.Pod.Name {
			return nil, problem(http.StatusConflict, reasonNameTaken, "choose another name, or wait for that one: "+pathOf(other),
				"Migration %s in namespace %s is of a pod %s already", other.Name, other.Namespace, m.Spec.Pod.Name)
		}
	}
	who := callerOf(ctx).Username
	metav1.SetMetaDataAnnotation(&m.ObjectMeta, annotationRequestedBy, who)
	req.mark(m)
	err := s.Client.Create(ctx, m, fieldOwner)
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil, err
	case err != nil:
		return nil, unavailable("record the clone of pod "+pod.Namespace+"/"+pod.Name, err)
	}
	s.Log.Info("a clone was asked for through the API", "user", who, "pod", pod.Namespace+"/"+pod.Name, "migration", m.Name, "generation", asked.Generation)
	return m, nil
}

func (s *service) registerClones(api huma.API) {
	need := lifeboat("create", "migrations")
	need.also = []permission{{verb: "create", resource: "pods", anyName: true}, lifeboat("get", "checkpoints")}
	register(api, operation{id: "clone-pod", method: http.MethodPost, path: "/namespaces/{namespace}/pods/{name}/clones", tag: "Pods", summary: "Start a new pod from a checkpoint",
		description: "Records that a new pod is to start with the memory that the named one had in a generation, beside it; the named one runs on. It is answered at once with the " +
			"Migration, whose strategy is Clone; watch that with its events. A pod that cannot be restored is deleted, and does not start anew.",
		need: need, status: http.StatusCreated, errors: []int{http.StatusNotFound, http.StatusConflict},
		responses: map[string]*huma.Response{"200": {Description: "The same request was made before; this is what it came to", Content: jsonOf[Migration](api),
			Headers: map[string]*huma.Param{"Location": {Description: "The Migration's path", Schema: &huma.Schema{Type: huma.TypeString}}}}},
	}, s.createClone)
}
