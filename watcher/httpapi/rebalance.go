package httpapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// RebalanceRequest asks for protected pods to be moved off nodes.
type RebalanceRequest struct {
	_        struct{} `additionalProperties:"false"`
	Nodes    []string `json:"nodes" minItems:"1" maxItems:"100" uniqueItems:"true" doc:"The nodes that pods are moved off"`
	MaxPods  int      `json:"maxPods,omitempty" default:"10" minimum:"1" maximum:"100" doc:"How many pods are moved at most"`
	Strategy string   `json:"strategy,omitempty" enum:"Cold,Warm,Live,Application,Replace" doc:"How they move; without it as the annotation of each says"`
}

// Rebalance is what came of it.
type Rebalance struct {
	Migrations []Migration  `json:"migrations" doc:"Those that were created"`
	Skipped    []SkippedPod `json:"skipped" doc:"Pods that are not moved, each with the reason"`
	Left       int          `json:"left" doc:"Pods beyond maxPods, which could be moved by another request"`
}

// SkippedPod is a pod that is not moved.
type SkippedPod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
}

type rebalanceInput struct {
	Key
	Body RebalanceRequest
}

type rebalanceOutput struct {
	Status int
	Body   Rebalance
}

// candidates are the protected pods on the nodes that can be moved, the least important
// first, and those that cannot be.
func candidates(pods []corev1.Pod, known []v1alpha1.Migration, nodes []string) (movable []*corev1.Pod, skipped []SkippedPod) {
	for i := range pods {
		pod := &pods[i]
		if !slices.Contains(nodes, pod.Spec.NodeName) || !protected(pod) {
			continue
		}
		skip := func(reason, message string) {
			skipped = append(skipped, SkippedPod{Namespace: pod.Namespace, Name: pod.Name, Reason: reason, Message: message})
		}
		owner := metav1.GetControllerOf(pod)
		_, wrong := v1alpha1.ParseAnnotations(pod.Annotations)
		already := slices.IndexFunc(known, func(m v1alpha1.Migration) bool { return m.Open() && moves(&m, pod) })
		switch {
		case wrong != nil:
			skip(reasonNotProtected, wrong.Error())
		case pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning:
			skip(reasonNotRunning, "the pod does not run")
		case owner != nil && (owner.Kind == "DaemonSet" || owner.Kind == "Node"):
			skip(reasonInvalid, "a pod of a "+owner.Kind+" belongs to its node")
		case already >= 0:
			skip(reasonAlreadyMoving, "Migration "+known[already].Name+" is moving it")
		default:
			movable = append(movable, pod)
		}
	}
	slices.SortFunc(movable, func(a, b *corev1.Pod) int {
		if d := int64(ptr.Deref(a.Spec.Priority, 0)) - int64(ptr.Deref(b.Spec.Priority, 0)); d != 0 {
			return int(max(-1, min(1, d)))
		}
		return strings.Compare(key(a), key(b))
	})
	slices.SortFunc(skipped, func(a, b SkippedPod) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	return movable, skipped
}

func (s *service) rebalance(ctx context.Context, in *rebalanceInput) (*rebalanceOutput, error) {
	asked := in.Body
	req, err := requestOf(callerOf(ctx).Username, in.IdempotencyKey, "rebalance", asked)
	if err != nil {
		return nil, err
	}
	known, err := s.known(ctx, metav1.NamespaceAll)
	if err != nil {
		return nil, err
	}
	result := Rebalance{Migrations: []Migration{}, Skipped: []SkippedPod{}}
	made, err := req.made(known)
	if err != nil {
		return nil, err
	}
	if len(made) > 0 {
		for i := range made {
			result.Migrations = append(result.Migrations, viewMigration(&made[i]))
		}
		return &rebalanceOutput{Status: http.StatusOK, Body: result}, nil
	}
	for _, name := range asked.Nodes {
		if err := s.Client.Get(ctx, client.ObjectKey{Name: name}, &corev1.Node{}); apierrors.IsNotFound(err) {
			return nil, problem(http.StatusUnprocessableEntity, reasonInvalid, "GET "+basePath+"/nodes lists them", "there is no node %s", name)
		} else if err != nil {
			return nil, unavailable("read node "+name, err)
		}
	}
	var pods corev1.PodList
	if err := s.Cache.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return nil, unavailable("read the protected pods", err)
	}
	movable, skipped := candidates(pods.Items, known, asked.Nodes)
	result.Skipped = append(result.Skipped, skipped...)
	for i, pod := range movable {
		if len(result.Migrations) == asked.MaxPods {
			result.Left = len(movable) - i
			break
		}
		m, err := s.move(ctx, pod, v1alpha1.Move{Strategy: v1alpha1.Strategy(asked.Strategy), Reason: v1alpha1.MigrationRebalance}, req, known)
		switch {
		case apierrors.IsAlreadyExists(err):
			result.Skipped = append(result.Skipped, SkippedPod{Namespace: pod.Namespace, Name: pod.Name, Reason: reasonAlreadyMoving, Message: "another move of it was asked for just now"})
		case err != nil:
			// What was recorded goes on; the caller has to know that this was not all.
			result.Skipped = append(result.Skipped, SkippedPod{Namespace: pod.Namespace, Name: pod.Name, Reason: reasonUnavailable, Message: err.Error()})
		default:
			result.Migrations = append(result.Migrations, viewMigration(m))
		}
	}
	return &rebalanceOutput{Status: http.StatusCreated, Body: result}, nil
}

func (s *service) registerRebalance(api huma.API) {
	register(api, operation{id: "rebalance", method: http.MethodPost, path: "/rebalance", tag: "Migrations", summary: "Move protected pods off nodes",
		description: "Records a move for each of up to maxPods protected pods on the nodes, those of the lowest priority first. The scheduler chooses where they go: " +
			"cordon the nodes before, so that no pod moves from one of them to another. How many move at a time is limited by what carries the moves out.",
		need: lifeboat("create", "migrations"), status: http.StatusCreated, within: 2 * time.Minute,
		responses: map[string]*huma.Response{"200": {Description: "The same request was made before; these are the Migrations that it created", Content: jsonOf[Rebalance](api)}},
	}, s.rebalance)
}
