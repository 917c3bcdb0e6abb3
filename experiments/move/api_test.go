package move

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
	"github.com/lifeboat-dev/lifeboat/experiments/subject"
)

const namespace = "experiment"

// api is a real API server that knows Lifeboat's kinds. Nobody else works with it.
func api(t *testing.T) client.Client {
	t.Helper()
	c, err := observe.NewClient(controlplane.Start(t, nil).Config(controlplane.AdminToken))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"checkpoints", "migrations"} {
		raw, err := os.ReadFile("../../manifests/crds/lifeboat.dev_" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(raw, crd); err != nil {
			t.Fatal(err)
		}
		if err := c.Create(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Fatal(err)
	}
	controlplane.Eventually(t, "Lifeboat's kinds are served", func(ctx context.Context) error {
		if err := c.List(ctx, &v1alpha1.CheckpointList{}); err != nil {
			return err
		}
		return c.List(ctx, &v1alpha1.MigrationList{})
	})
	return c
}

func TestMovesOnARealAPIServer(t *testing.T) {
	c := api(t)
	t.Run("every application is accepted", func(t *testing.T) {
		cells, err := matrix.Options{All: true, Only: "memory=64 load=rewriting content=text"}.Cells()
		if err != nil {
			t.Fatal(err)
		}
		for _, cell := range cells {
			pod := subject.Pod(cell, namespace, "bare")
			if p, err := v1alpha1.ParseAnnotations(pod.Annotations); err != nil || p.Protected != cell.Protected() || (p.StateImport != nil) != (cell.Strategy == matrix.Handover) {
				t.Errorf("%s: annotations %v: %+v, %v", cell, pod.Annotations, p, err)
			}
			for _, object := range []client.Object{pod, subject.Waiting(cell, namespace, "waiting"), subject.Object(cell, namespace), subject.Service(cell, namespace)} {
				if err := c.Create(t.Context(), object, client.DryRunAll); err != nil {
					t.Errorf("%s: %v", cell, err)
				}
			}
		}
	})
	t.Run("planned", func(t *testing.T) {
		s := scene(t, c, matrix.Live)
		go carryOut(t.Context(), c, s.Pod)
		way, err := Of(matrix.Live)
		if err != nil {
			t.Fatal(err)
		}
		o, err := way.Move(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if o.Result != "Restored" || o.Bytes != 4096 || len(o.Moments) != 2 || o.AskedAt.After(o.Moments[0].At) || o.DoneAt.Before(o.Moments[1].At) {
			t.Errorf("%+v", o)
		}
		// The next one of the same pod has the next epoch.
		m, err := plannedMove{v1alpha1.StrategyCold}.ask(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if m.Spec.Epoch != 2 || m.Spec.Strategy != v1alpha1.StrategyCold || m.Spec.Reason != v1alpha1.MigrationRequested || m.Spec.Pod.UID != s.Pod.UID {
			t.Errorf("%+v", m.Spec)
		}
		// One that nobody carries out is a result too.
		if o, err := Within(t.Context(), time.Second, way, s); err != nil || o.Result != "Failed" || o.Reason != reasonNotDone {
			t.Errorf("%+v, %v", o, err)
		}
	})
	t.Run("restart", func(t *testing.T) {
		s := scene(t, c, matrix.Restart)
		go replace(t.Context(), c, s)
		o, err := restart{}.Move(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range o.Moments {
			names = append(names, m.Name)
		}
		if diff := cmp.Diff([]string{"Deleted", "Created", "Scheduled", "Ready"}, names); diff != "" || o.Result != matrix.ResultMoved {
			t.Error(o.Result, diff)
		}
		cordoned := func() bool {
			var node corev1.Node
			if err := c.Get(t.Context(), client.ObjectKey{Name: s.Pod.Spec.NodeName}, &node); err != nil {
				t.Fatal(err)
			}
			return node.Spec.Unschedulable
		}
		if !cordoned() {
			t.Error("the node was not cordoned")
		}
		if err := (restart{}).Clean(t.Context(), s); err != nil || cordoned() {
			t.Errorf("the node is still cordoned (%v)", err)
		}
	})
}

// scene is a cart in a pod on a node of its own, as far as an API server can tell.
func scene(t *testing.T, c client.Client, strategy matrix.Strategy) *Scene {
	t.Helper()
	cell := matrix.Cell{Application: matrix.Cart, Owner: matrix.StatefulSet, Strategy: strategy, MemoryMB: 64, Load: matrix.Writes, Content: "random"}
	name := "scene-" + string(strategy)
	pod := subject.Pod(cell, name, subject.Name)
	pod.Spec.NodeName = name
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, pod,
	} {
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	return &Scene{API: c, Cell: cell, Namespace: name, Pod: pod}
}

// carryOut plays the watcher and the checkpointers of a planned move. What goes wrong
// shows in the move's outcome.
func carryOut(ctx context.Context, c client.Client, pod *corev1.Pod) {
	var m *v1alpha1.Migration
	_ = observe.Until(ctx, "a move was asked for", func(ctx context.Context) (_ bool, _ string, err error) {
		m, err = observe.MigrationOf(ctx, c, pod.Namespace, pod.UID)
		return m != nil, "", err
	})
	if m == nil {
		return
	}
	patch := client.MergeFrom(m.DeepCopy())
	now := metav1.NowMicro()
	m.Status = v1alpha1.MigrationStatus{
		Phase: v1alpha1.PhaseReady, Result: v1alpha1.ResultRestored,
		Phases: []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseAccepted, At: now}, {Phase: v1alpha1.PhaseReady, At: now}},
		Source: &v1alpha1.SourceStatus{BytesSent: 4096},
	}
	_ = c.Status().Patch(ctx, m, patch)
}

// replace plays the kubelet, which ends the pod, and its owner, which creates the next.
func replace(ctx context.Context, c client.Client, s *Scene) {
	pod := s.Pod.DeepCopy()
	_ = observe.Until(ctx, "the pod is to end", func(ctx context.Context) (bool, string, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(s.Pod), pod)
		return pod.DeletionTimestamp != nil, "", err
	})
	_ = c.Delete(ctx, pod, client.GracePeriodSeconds(0))
	next := subject.Pod(s.Cell, s.Namespace, s.Pod.Name)
	next.Spec.NodeName = "elsewhere"
	// For long enough to be seen without a successor.
	if err := each(ctx, 10*lookEvery, looks(2)); err != nil {
		return
	}
	if err := c.Create(ctx, next); err != nil {
		return
	}
	patch := client.MergeFrom(next.DeepCopy())
	next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	_ = c.Status().Patch(ctx, next, patch)
}

// looks is done after so many looks.
func looks(n int) func(context.Context) (bool, error) {
	return func(context.Context) (bool, error) {
		n--
		return n == 0, nil
	}
}
