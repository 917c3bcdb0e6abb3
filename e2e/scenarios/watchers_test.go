package scenarios

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
)

// watchersWith gives the watchers further flags, until the scenario is over.
func watchersWith(t *testing.T, flags ...string) {
	t.Helper()
	withFlags(t, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: deploy.Watcher}}, flags)
}

// agentsWith gives the checkpointers' agents further flags, until the scenario is over.
func agentsWith(t *testing.T, flags ...string) {
	t.Helper()
	withFlags(t, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: deploy.Checkpointer}}, flags)
}

// withFlags gives the first container of a workload's pods these flags, and waits until
// they run so.
func withFlags(t *testing.T, workload client.Object, flags []string) {
	t.Helper()
	set := func(ctx context.Context, args []string) (before []string, err error) {
		if err := api.Get(ctx, client.ObjectKeyFromObject(workload), workload); err != nil {
			return nil, err
		}
		was := workload.DeepCopyObject().(client.Object)
		var pods *corev1.PodTemplateSpec
		switch w := workload.(type) {
		case *appsv1.Deployment:
			pods = &w.Spec.Template
		case *appsv1.DaemonSet:
			pods = &w.Spec.Template
		default:
			return nil, fmt.Errorf("%T has no pods to give flags to", workload)
		}
		container := &pods.Spec.Containers[0]
		before, container.Args = container.Args, args
		return before, api.Patch(ctx, workload, client.MergeFrom(was))
	}
	before, err := set(deadline(t), flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := set(ctx, before); err != nil {
			t.Errorf("give the pods of %s their flags back: %v", workload.GetName(), err)
		}
	})
	if err := deploy.Whole(deadline(t), lab, api, func(string) {}); err != nil {
		t.Fatal(err)
	}
}
