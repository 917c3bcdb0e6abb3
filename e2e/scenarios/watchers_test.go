package scenarios

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
)

// watchersWith gives the watchers further flags, until the scenario is over.
func watchersWith(t *testing.T, flags ...string) {
	t.Helper()
	set := func(ctx context.Context, args []string) (before []string, err error) {
		watchers := &appsv1.Deployment{}
		if err := api.Get(ctx, types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: deploy.Watcher}, watchers); err != nil {
			return nil, err
		}
		was := watchers.DeepCopy()
		container := &watchers.Spec.Template.Spec.Containers[0]
		before, container.Args = container.Args, args
		return before, api.Patch(ctx, watchers, client.MergeFrom(was))
	}
	before, err := set(deadline(t), flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := set(ctx, before); err != nil {
			t.Errorf("give the watchers their flags back: %v", err)
		}
	})
	if err := deploy.Whole(deadline(t), lab, api, func(string) {}); err != nil {
		t.Fatal(err)
	}
}
