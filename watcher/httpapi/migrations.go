package httpapi

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// attempts is how often a write is begun again that somebody else got in the way of.
const attempts = 8

type listMigrationsInput struct {
	Namespace string `query:"namespace" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Migrations of this namespace alone; without it, those of the whole cluster"`
	Filter
	Page
}

type listInNamespaceInput struct {
	InNamespace
	Filter
	Page
}

// Filter is which Migrations are listed.
type Filter struct {
	Open bool   `query:"open" doc:"Only those that have no result yet"`
	Pod  string `query:"pod" maxLength:"253" doc:"Only those of pods of this name, and the clones that were made of them"`
}

type migrationsOutput struct{ Body *List[Migration] }

type migrationInput struct {
	InNamespace
	Named
}

type migrationOutput struct{ Body Migration }

type cancelInput struct {
	InNamespace
	Named
	Reason string `query:"reason" maxLength:"500" doc:"Why it is to be given up; it becomes part of the Migration's message"`
}

// MoveRequest asks for a pod's planned move.
type MoveRequest struct {
	_               struct{} `additionalProperties:"false"`
	Pod             string   `json:"pod" minLength:"1" maxLength:"253" doc:"The pod's name" example:"cart-0"`
	PodUID          string   `json:"podUID,omitempty" maxLength:"64" doc:"The move is refused where the pod of this name is another one by now"`
	Strategy        string   `json:"strategy,omitempty" enum:"Cold,Warm,Live,Application,Replace" doc:"How it moves; without it as its annotation says, or Replace where it is not protected"`
	TargetNode      string   `json:"targetNode,omitempty" maxLength:"253" doc:"Where to; without it the scheduler chooses" example:"node-3"`
	DeadlineSeconds int32    `json:"deadlineSeconds,omitempty" minimum:"1" maximum:"86400" doc:"How long it may take until the pod is stopped; without it 600"`
}

type createInput struct {
	InNamespace
	Key
	Body MoveRequest
}

type createdOutput struct {
	Status   int
	Location string `header:"Location" doc:"The Migration's path"`
	Body     Migration
}

func (s *service) listMigrations(ctx context.Context, in *listMigrationsInput) (*migrationsOutput, error) {
	return s.migrationsOf(ctx, in.Namespace, in.Filter, in.Page)
}

func (s *service) listInNamespace(ctx context.Context, in *listInNamespaceInput) (*migrationsOutput, error) {
	return s.migrationsOf(ctx, in.Namespace, in.Filter, in.Page)
}

func (s *service) migrationsOf(ctx context.Context, namespace string, filter Filter, in Page) (*migrationsOutput, error) {
	var all v1alpha1.MigrationList
	if err := s.Cache.List(ctx, &all, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, unavailable("read the Migrations", err)
	}
	var asked []v1alpha1.Migration
	for _, m := range all.Items {
		if (!filter.Open || m.Open()) && (filter.Pod == "" || filter.Pod == m.Spec.Pod.Name || m.Clones() && filter.Pod == m.Spec.Clone.Pod.Name) {
			asked = append(asked, m)
		}
	}
	list, err := page(asked, in, func(m *v1alpha1.Migration) string { return key(m) }, viewMigration)
	return &migrationsOutput{Body: list}, err
}

func (s *service) getMigration(ctx context.Context, in *migrationInput) (*migrationOutput, error) {
	m, err := s.migration(ctx, in.Namespace, in.Name)
	if err != nil {
		return nil, err
	}
	return &migrationOutput{Body: viewMigration(m)}, nil
}

func (s *service) migration(ctx context.Context, namespace, name string) (*v1alpha1.Migration, error) {
	m := &v1alpha1.Migration{}
	err := s.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, m)
	switch {
	case apierrors.IsNotFound(err):
		return nil, problem(http.StatusNotFound, reasonNotFound, "GET "+basePath+"/migrations lists them", "there is no Migration %s in namespace %s", name, namespace)
	case err != nil:
		return nil, unavailable("read Migration "+namespace+"/"+name, err)
	}
	return m, nil
}

func (s *service) createMigration(ctx context.Context, in *createInput) (*createdOutput, error) {
	asked := in.Body
	who := callerOf(ctx).Username
	req, err := requestOf(who, in.IdempotencyKey, "move", in.Namespace, asked)
	if err != nil {
		return nil, err
	}
	return s.createOnce(ctx, in.Namespace, req,
		func() (*corev1.Pod, error) { return s.movable(ctx, in.Namespace, &asked) },
		func(pod *corev1.Pod, known []v1alpha1.Migration) (*v1alpha1.Migration, error) {
			move := v1alpha1.Move{Strategy: v1alpha1.Strategy(asked.Strategy), Reason: v1alpha1.MigrationRequested,
				TargetNode: asked.TargetNode, Deadline: time.Duration(asked.DeadlineSeconds) * time.Second}
			return s.move(ctx, pod, move, req, known)
		},
		problem(http.StatusConflict, reasonConflict, "try again", "pod %s in namespace %s is being moved by others all the time", asked.Pod, in.Namespace))
}

// createOnce creates the Migration that a request asks for, of the pod that find returns,
// unless the same request has created one. It returns the problem when others always come first.
func (s *service) createOnce(ctx context.Context, namespace string, req request, find func() (*corev1.Pod, error),
	create func(*corev1.Pod, []v1alpha1.Migration) (*v1alpha1.Migration, error), outrun error) (*createdOutput, error) {
	var pod *corev1.Pod
	for range attempts {
		known, err := s.known(ctx, namespace)
		if err != nil {
			return nil, err
		}
		// Before the pod is looked at: by the time of a repetition it may have moved.
		made, err := req.made(known)
		if err != nil {
			return nil, err
		}
		if len(made) > 0 {
			return created(&made[0], http.StatusOK), nil
		}
		if pod == nil {
			if pod, err = find(); err != nil {
				return nil, err
			}
		}
		m, err := create(pod, known)
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return created(m, http.StatusCreated), nil
	}
	return nil, outrun
}

func created(m *v1alpha1.Migration, status int) *createdOutput {
	return &createdOutput{Status: status, Location: pathOf(m), Body: viewMigration(m)}
}

func pathOf(m *v1alpha1.Migration) string {
	return basePath + "/namespaces/" + m.Namespace + "/migrations/" + m.Name
}

// known are the Migrations of a namespace, empty for all, as the API server has them
// now: they say which epoch is next, and what an earlier request came to.
func (s *service) known(ctx context.Context, namespace string) ([]v1alpha1.Migration, error) {
	var known v1alpha1.MigrationList
	if err := s.Client.List(ctx, &known, client.InNamespace(namespace)); err != nil {
		return nil, unavailable("read the Migrations", err)
	}
	return known.Items, nil
}

// movable is the pod that is to move. What it refuses would be refused later as well, by
// what carries the move out; here the caller learns it at once.
func (s *service) movable(ctx context.Context, namespace string, asked *MoveRequest) (*corev1.Pod, error) {
	pod, err := s.pod(ctx, namespace, asked.Pod)
	if err != nil {
		return nil, err
	}
	switch {
	case asked.PodUID != "" && types.UID(asked.PodUID) != pod.UID:
		return nil, problem(http.StatusConflict, reasonPodReplaced, "look at the pod again, and ask with its UID",
			"pod %s in namespace %s has the UID %s, and not %s: it was replaced", pod.Name, namespace, pod.UID, asked.PodUID)
	case pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return nil, problem(http.StatusConflict, reasonNotRunning, "wait until the pod runs",
			"pod %s in namespace %s does not run: there is nothing to move", pod.Name, namespace)
	case asked.Strategy != "" && asked.Strategy != string(v1alpha1.StrategyReplace) && !protected(pod):
		return nil, problem(http.StatusUnprocessableEntity, reasonNotProtected,
			`use the strategy Replace, or set the annotation `+v1alpha1.AnnotationFailover+`: "true" in the pod's template`,
			"pod %s in namespace %s is not protected, and cannot be moved with the strategy %s", pod.Name, namespace, asked.Strategy)
	}
	if asked.TargetNode == "" {
		return pod, nil
	}
	if asked.TargetNode == pod.Spec.NodeName {
		return nil, problem(http.StatusUnprocessableEntity, reasonInvalid, "name another node, or none", "pod %s in namespace %s runs on node %s already", pod.Name, namespace, asked.TargetNode)
	}
	err = s.Client.Get(ctx, client.ObjectKey{Name: asked.TargetNode}, &corev1.Node{})
	if apierrors.IsNotFound(err) {
		return nil, problem(http.StatusUnprocessableEntity, reasonInvalid, "GET "+basePath+"/nodes lists them", "there is no node %s", asked.TargetNode)
	}
	if err != nil {
		return nil, unavailable("read node "+asked.TargetNode, err)
	}
	return pod, nil
}

// move records that a pod is to move. It fails with AlreadyExists when another Migration
// of the pod was recorded since known was read.
func (s *service) move(ctx context.Context, pod *corev1.Pod, move v1alpha1.Move, req request, known []v1alpha1.Migration) (*v1alpha1.Migration, error) {
	for i := range known {
		if m := &known[i]; m.Open() && moves(m, pod) {
			return nil, problem(http.StatusConflict, reasonAlreadyMoving, "watch that one, or cancel it: "+pathOf(m),
				"pod %s in namespace %s is being moved by Migration %s already", pod.Name, pod.Namespace, m.Name)
		}
	}
	checkpoint, err := s.checkpoint(ctx, pod)
	if err != nil {
		return nil, err
	}
	m := v1alpha1.NewMove(pod, move, v1alpha1.NextEpoch(pod, checkpoint, known), time.Now())
	who := callerOf(ctx).Username
	setKey(&m.Annotations, annotationRequestedBy, who)
	req.mark(m)
	err = s.Client.Create(ctx, m, fieldOwner)
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil, err
	case err != nil:
		return nil, unavailable("record the move of pod "+pod.Namespace+"/"+pod.Name, err)
	}
	s.Log.Info("a move was asked for through the API", "user", who, "pod", pod.Namespace+"/"+pod.Name, "migration", m.Name, "strategy", m.Spec.Strategy)
	return m, nil
}

// moves says whether a Migration moves the pod, or has brought it about.
func moves(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	return m.Namespace == pod.Namespace && (m.LostPod() == pod.UID || m.Status.Claim != nil && m.Status.Claim.PodUID == pod.UID)
}

func (s *service) cancelMigration(ctx context.Context, in *cancelInput) (*migrationOutput, error) {
	who := callerOf(ctx).Username
	why := "by " + who
	if in.Reason != "" {
		why = in.Reason + " (" + why + ")"
	}
	for range attempts {
		m, err := s.migration(ctx, in.Namespace, in.Name)
		if err != nil {
			return nil, err
		}
		if refused := cancelable(m); refused != nil {
			return nil, refused
		}
		if m.Annotations[v1alpha1.AnnotationCancel] != "" {
			return &migrationOutput{Body: viewMigration(m)}, nil
		}
		before := m.DeepCopy()
		setKey(&m.Annotations, v1alpha1.AnnotationCancel, why)
		// It is still the one that was not too late to be cancelled.
		err = s.Client.Patch(ctx, m, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), fieldOwner)
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return nil, unavailable("cancel Migration "+in.Namespace+"/"+in.Name, err)
		}
		s.Log.Info("a move was cancelled through the API", "user", who, "migration", in.Namespace+"/"+in.Name)
		return &migrationOutput{Body: viewMigration(m)}, nil
	}
	return nil, problem(http.StatusConflict, reasonConflict, "try again", "Migration %s in namespace %s changes all the time", in.Name, in.Namespace)
}

// cancelable is why a Migration cannot be cancelled, nil where it can be.
func cancelable(m *v1alpha1.Migration) *Problem {
	switch {
	case !m.Open():
		return problem(http.StatusConflict, reasonClosed, "nothing is left to do", "Migration %s in namespace %s is closed: %s", m.Name, m.Namespace, m.Status.Result)
	case !m.Planned():
		return problem(http.StatusConflict, reasonNotPlanned, "PUT "+basePath+"/pause holds recoveries back that have not begun",
			"Migration %s in namespace %s is the recovery of a pod whose node was lost, and no planned move", m.Name, m.Namespace)
	case m.TooLateToCancel():
		return problem(http.StatusConflict, reasonTooLateToCancel, "wait until it is closed, and move the pod back if need be",
			"Migration %s in namespace %s is past the step at which the pod is stopped (phase %s)", m.Name, m.Namespace, m.Status.Phase)
	}
	return nil
}

func (s *service) registerMigrations(api huma.API) {
	all := lifeboat("list", "migrations")
	all.byQuery = true
	const inOne = "/namespaces/{namespace}/migrations"
	register(api, operation{id: "list-all-migrations", method: http.MethodGet, path: "/migrations", tag: "Migrations", summary: "List Migrations",
		description: "The list comes from the watcher's cache, and is at most moments old.", need: all}, s.listMigrations)
	register(api, operation{id: "list-migrations", method: http.MethodGet, path: inOne, tag: "Migrations", summary: "List a namespace's Migrations",
		description: "The list comes from the watcher's cache, and is at most moments old.", need: lifeboat("list", "migrations")}, s.listInNamespace)
	register(api, operation{id: "create-migration", method: http.MethodPost, path: inOne, tag: "Migrations", summary: "Move a pod",
		description: "Records that a pod is to move; it is answered at once, and the move goes on in the cluster. Watch it with its events.",
		need:        lifeboat("create", "migrations"), status: http.StatusCreated, errors: []int{http.StatusNotFound, http.StatusConflict},
		responses: map[string]*huma.Response{"200": {Description: "The same request was made before; this is what it came to", Content: jsonOf[Migration](api),
			Headers: map[string]*huma.Param{"Location": {Description: "The Migration's path", Schema: &huma.Schema{Type: huma.TypeString}}}}},
	}, s.createMigration)
	register(api, operation{id: "get-migration", method: http.MethodGet, path: inOne + "/{name}", tag: "Migrations", summary: "Get a Migration",
		need: lifeboat("get", "migrations"), errors: []int{http.StatusNotFound}}, s.getMigration)
	register(api, operation{id: "cancel-migration", method: http.MethodDelete, path: inOne + "/{name}", tag: "Migrations", summary: "Cancel a planned move",
		description: "Asks for the move to be given up, as long as the pod has not been stopped for it. The Migration stays, and is closed as Withdrawn once everything is as before.",
		need:        lifeboat("delete", "migrations"), status: http.StatusAccepted, errors: []int{http.StatusNotFound, http.StatusConflict}}, s.cancelMigration)
}

func schemaOf[T any](api huma.API) *huma.Schema {
	t := reflect.TypeFor[T]()
	return api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}
