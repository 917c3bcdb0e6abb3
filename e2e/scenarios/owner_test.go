package scenarios

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// TestDeploymentIsDeletedDuringItsMove: who deletes a Deployment is rid of its pods, also
// while one is moved, on both nodes, and the move ends.
func TestDeploymentIsDeletedDuringItsMove(t *testing.T) {
	namespace := scene(t, "owner")
	loadRedis(t)
	// Each of them is in the phase when its Deployment is deleted; the hook keeps it there.
	const stopping, parked = "stopping", "parked"
	hooks := map[string]string{stopping: "timeout=60s exec sleep 10", parked: ""}
	instances, moves := map[string]*instance{}, map[string]*v1alpha1.Migration{}
	placed(t, source, func() {
		for name, hook := range hooks {
			pod := redisNamed(namespace, name)
			if hook != "" {
				pod.Annotations[v1alpha1.AnnotationPreCheckpoint] = hook
			}
			create(t, deploymentOf(pod))
		}
		for name := range hooks {
			instances[name] = inUse(t, namespace, name)
		}
	})
	for name, i := range instances {
		if _, err := observe.Durable(deadline(t), api, i.pod, 1); err != nil {
			t.Fatal(err)
		}
		moves[name] = newMove(t, i.pod, v1alpha1.StrategyLive)
	}
	create(t, moves[stopping])
	reached(t, moves[stopping], v1alpha1.PhaseStopping)
	t.Cleanup(func() { pass(t, source) })
	drop(t, source, nil) // nobody takes a generation: the move is not prepared
	create(t, moves[parked])
	reached(t, moves[parked], v1alpha1.PhaseParked)
	for name := range instances {
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		if err := api.Delete(deadline(t), deployment, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
			t.Fatal(err)
		}
	}
	for name, m := range moves {
		was := m.Status.Phase
		closed(t, m)
		if s := m.Status; s.Result != v1alpha1.ResultWithdrawn || s.Reason != v1alpha1.ReasonNotAllowed && s.Reason != v1alpha1.ReasonTargetFailed {
			t.Errorf("the move in phase %s ended as %s (%s): %s", was, s.Result, s.Reason, s.Message)
		}
		t.Logf("in phase %s: %s %s: %s", was, m.Status.Result, m.Status.Reason, m.Status.Message)
		err := observe.Until(deadline(t), "nothing of "+name+" is left", func(ctx context.Context) (bool, string, error) {
			var pods corev1.PodList
			if err := api.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"redis": name}); err != nil {
				return false, "", err
			}
			deployment := &appsv1.Deployment{}
			err := api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, deployment)
			gone := apierrors.IsNotFound(err)
			if client.IgnoreNotFound(err) != nil {
				return false, "", err
			}
			processes, err := instances[name].copies(ctx)
			return gone && len(pods.Items) == 0 && processes == 0, fmt.Sprintf("%d pods and %d processes are there; Deployment gone: %t", len(pods.Items), processes, gone), err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
