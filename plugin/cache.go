package plugin

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// cache keeps the Migrations and Fences of the cluster. Where their kinds are
// not installed it stays empty and unsynced, and goes on trying.
//
// The scheduler's own informers for custom resources are of no use here: the
// scheduler does not start before they are synced, and so never would on a
// cluster without Lifeboat's kinds.
type cache struct {
	migrations, fences toolscache.SharedIndexInformer
}

// changes is told of what may let a waiting pod be placed. Old objects are nil
// for new ones, new objects nil for deleted ones.
type changes interface {
	migrationChanged(before, after *v1alpha1.Migration)
	fenceChanged(before, after *v1alpha1.Fence)
}

// newCache fills the cache until ctx ends.
func newCache(ctx context.Context, c *client, told changes) (*cache, error) {
	kept := &cache{
		migrations: newInformer(c, resourceMigrations, &v1alpha1.Migration{}, toolscache.Indexers{
			toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc,
		}),
		fences: newInformer(c, resourceFences, &v1alpha1.Fence{}, nil),
	}
	if err := run(ctx, kept.migrations, told.migrationChanged); err != nil {
		return nil, fmt.Errorf("watch Migrations: %w", err)
	}
	if err := run(ctx, kept.fences, told.fenceChanged); err != nil {
		return nil, fmt.Errorf("watch Fences: %w", err)
	}
	return kept, nil
}

func newInformer(c *client, resource string, example runtime.Object, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	source := toolscache.NewFilteredListWatchFromClient(c.rest, resource, metav1.NamespaceAll, func(*metav1.ListOptions) {})
	return toolscache.NewSharedIndexInformer(source, example, 0, indexers)
}

// run starts the informer, which tells of each change until ctx ends.
func run[T any](ctx context.Context, informer toolscache.SharedIndexInformer, told func(before, after *T)) error {
	if err := informer.SetWatchErrorHandlerWithContext(reportWatchError); err != nil {
		return err
	}
	_, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(added any) { told(nil, object[T](added)) },
		UpdateFunc: func(before, after any) { told(object[T](before), object[T](after)) },
		DeleteFunc: func(deleted any) { told(object[T](deleted), nil) },
	})
	if err != nil {
		return err
	}
	go informer.RunWithContext(ctx)
	return nil
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

// migrationsIn are the Migrations of a namespace, and whether the cache can be relied on.
func (c *cache) migrationsIn(namespace string) (migrations []*v1alpha1.Migration, synced bool) {
	if !c.migrations.HasSynced() {
		return nil, false
	}
	objects, err := c.migrations.GetIndexer().ByIndex(toolscache.NamespaceIndex, namespace)
	if err != nil {
		return nil, false
	}
	for _, o := range objects {
		if m := object[v1alpha1.Migration](o); m != nil {
			migrations = append(migrations, m)
		}
	}
	return migrations, true
}

// fence is a node's Fence, nil when it has none.
func (c *cache) fence(node string) *v1alpha1.Fence {
	o, _, err := c.fences.GetStore().GetByKey(node)
	if err != nil {
		return nil
	}
	return object[v1alpha1.Fence](o)
}

// fencesSynced says whether a missing Fence means that the node has none.
func (c *cache) fencesSynced() bool { return c.fences.HasSynced() }

// sameForPlacement says whether two states of a Fence admit the same pods.
func sameForPlacement(a, b *v1alpha1.Fence) bool {
	return a != nil && b != nil && a.Spec.State == b.Spec.State && reflect.DeepEqual(a.Status.Facts, b.Status.Facts)
}
