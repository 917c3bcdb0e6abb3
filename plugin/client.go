package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	resourceMigrations = "migrations"
	resourceFences     = "fences"

	// fieldManager marks what the plugin writes.
	fieldManager = "lifeboat-scheduler"
)

// client reads and writes Lifeboat's objects at the API server itself.
type client struct {
	rest rest.Interface
}

func newClient(config *rest.Config) (*client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("build the scheme of %s: %w", v1alpha1.GroupVersion, err)
	}
	config = rest.CopyConfig(config)
	config.GroupVersion = &v1alpha1.GroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// Custom resources are not served as protobuf, which is kube-scheduler's default.
	config.ContentType = runtime.ContentTypeJSON
	config.AcceptContentTypes = runtime.ContentTypeJSON
	// When a full node is lost, its pods come all at once, and each waits for the
	// write of its claim. The API server's own fairness bounds them.
	config.QPS = -1
	restClient, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("build the client of %s: %w", v1alpha1.GroupVersion, err)
	}
	return &client{rest: restClient}, nil
}

// readMigrations takes over all Migrations of a namespace; none when the kind is
// not installed.
func (c *client) readMigrations(ctx context.Context, namespace string, into *records) error {
	var list v1alpha1.MigrationList
	err := c.rest.Get().Namespace(namespace).Resource(resourceMigrations).
		VersionedParams(&metav1.ListOptions{}, metav1.ParameterCodec).Do(ctx).Into(&list)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the Migrations of namespace %s: %w", namespace, err)
	}
	into.readMigrations(namespace, pointers(list.Items), list.ResourceVersion, time.Now())
	return nil
}

// migration is one Migration, of the very UID that was seen before.
func (c *client) migration(ctx context.Context, seen *v1alpha1.Migration) (*v1alpha1.Migration, error) {
	var m v1alpha1.Migration
	err := c.rest.Get().Namespace(seen.Namespace).Resource(resourceMigrations).Name(seen.Name).Do(ctx).Into(&m)
	if err != nil {
		return nil, fmt.Errorf("read Migration %s/%s: %w", seen.Namespace, seen.Name, err)
	}
	if m.UID != seen.UID {
		return nil, fmt.Errorf("read Migration %s/%s: it was replaced by another of the same name", seen.Namespace, seen.Name)
	}
	return &m, nil
}

// readFences takes over the Fences of all nodes; none when the kind is not installed.
func (c *client) readFences(ctx context.Context, into *records) error {
	var list v1alpha1.FenceList
	err := c.rest.Get().Resource(resourceFences).
		VersionedParams(&metav1.ListOptions{}, metav1.ParameterCodec).Do(ctx).Into(&list)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read the Fences: %w", err)
	}
	for _, f := range pointers(list.Items) {
		into.putFence(f.Name, f)
	}
	return nil
}

// readFence takes over one node's Fence, or that it has none.
func (c *client) readFence(ctx context.Context, node string, into *records) error {
	var f v1alpha1.Fence
	err := c.rest.Get().Resource(resourceFences).Name(node).Do(ctx).Into(&f)
	if apierrors.IsNotFound(err) {
		into.putFence(node, nil)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the Fence of node %s: %w", node, err)
	}
	into.putFence(node, &f)
	return nil
}

// claim writes the claim into the Migration's status. It fails with a conflict
// when the Migration is no longer the one that was seen.
func (c *client) claim(ctx context.Context, seen *v1alpha1.Migration, claim v1alpha1.Claim) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": seen.UID, "resourceVersion": seen.ResourceVersion},
		"status":   map[string]any{"claim": claim},
	})
	if err != nil {
		return fmt.Errorf("encode the claim on Migration %s/%s: %w", seen.Namespace, seen.Name, err)
	}
	err = c.rest.Patch(types.MergePatchType).
		Namespace(seen.Namespace).Resource(resourceMigrations).Name(seen.Name).SubResource("status").
		VersionedParams(&metav1.PatchOptions{FieldManager: fieldManager}, metav1.ParameterCodec).
		Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("write the claim on Migration %s/%s: %w", seen.Namespace, seen.Name, err)
	}
	return nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
