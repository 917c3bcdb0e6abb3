package plugin

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// watches tell of the Migrations and Fences of the cluster. Where their kinds are
// not installed they tell of none, and go on trying.
//
// The scheduler's own informers for custom resources are of no use here: the
// scheduler does not start before they are synced, and so never would on a
// cluster without Lifeboat's kinds.
type watches struct {
	// fencesTold says whether all Fences that there were at the start were told of.
	fencesTold func() bool
}

// changes is told of what may let a waiting pod be placed. Old objects are nil
// for new ones, new objects nil for deleted ones.
type changes interface {
	migrationChanged(before, after *v1alpha1.Migration)
	fenceChanged(before, after *v1alpha1.Fence)
}

// watch tells of changes until ctx ends.
func watch(ctx context.Context, c *client, told changes) (watches, error) {
	if _, err := run(ctx, newInformer(c, resourceMigrations, &v1alpha1.Migration{}), told.migrationChanged); err != nil {
		return watches{}, fmt.Errorf("watch Migrations: %w", err)
	}
	fences, err := run(ctx, newInformer(c, resourceFences, &v1alpha1.Fence{}), told.fenceChanged)
	if err != nil {
		return watches{}, fmt.Errorf("watch Fences: %w", err)
	}
	return watches{fencesTold: fences.HasSynced}, nil
}

func newInformer(c *client, resource string, example runtime.Object) toolscache.SharedIndexInformer {
	source := toolscache.NewFilteredListWatchFromClient(c.rest, resource, metav1.NamespaceAll, func(*metav1.ListOptions) {})
	return toolscache.NewSharedIndexInformer(source, example, 0, nil)
}

// run starts the informer, which tells of each change until ctx ends.
func run[T any](ctx context.Context, informer toolscache.SharedIndexInformer, told func(before, after *T)) (toolscache.ResourceEventHandlerRegistration, error) {
	if err := informer.SetWatchErrorHandlerWithContext(reportWatchError); err != nil {
		return nil, err
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(added any) { told(nil, object[T](added)) },
		UpdateFunc: func(before, after any) { told(object[T](before), object[T](after)) },
		DeleteFunc: func(deleted any) { told(object[T](deleted), nil) },
	})
	if err != nil {
		return nil, err
	}
	go informer.RunWithContext(ctx)
	return registration, nil
}

// object is what an informer passes to its handlers: for a deletion that the
// watch has missed, the last state that was known.
func object[T any](passed any) *T {
	if missed, ok := passed.(toolscache.DeletedFinalStateUnknown); ok {
		passed = missed.Obj
	}
	typed, _ := passed.(*T)
	return typed
}

// reportWatchError keeps a cluster without Lifeboat's kinds from filling the
// scheduler's log with errors.
func reportWatchError(ctx context.Context, r *toolscache.Reflector, err error) {
	if apierrors.IsNotFound(err) {
		klog.FromContext(ctx).V(2).Info("Lifeboat's custom resource definitions are not installed; trying again", "kind", r.TypeDescription())
		return
	}
	toolscache.DefaultWatchErrorHandler(ctx, r, err)
}
