package fence

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const resource = "fences"

// records reads and writes the Fence object of one node.
type records struct {
	client rest.Interface
	node   string
	bootID string
}

// newRecords derives a client from config that never waits longer than patience
// for anything, and that no dead connection can hold up.
func newRecords(config *rest.Config, node, bootID string, patience time.Duration) (*records, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	own := rest.CopyConfig(config)
	own.APIPath = "/apis"
	own.GroupVersion = &v1alpha1.GroupVersion
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	own.ContentType = runtime.ContentTypeJSON
	own.QPS = -1 // the permit bounds the rate
	// HTTP/2 puts all requests on one connection, so that a single dead one
	// delays them all until the kernel or a ping notices. With HTTP/1.1 a
	// request that runs out of time takes only its own connection with it.
	own.NextProtos = []string{"http/1.1"}
	own.Dial = (&net.Dialer{Timeout: patience}).DialContext
	client, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("make a client for the node's fence record: %w", err)
	}
	return &records{client: client, node: node, bootID: bootID}, nil
}

// read returns the record, nil where there is none. Without a resourceVersion
// the API server asks etcd's quorum, not its own cache.
func (r *records) read(ctx context.Context) (*Record, error) {
	var fence v1alpha1.Fence
	err := r.client.Get().Resource(resource).Name(r.node).MaxRetries(0).Do(ctx).Into(&fence)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read fence %s: %w", r.node, err)
	}
	return &Record{
		Version: fence.ResourceVersion,
		State:   fence.Spec.State,
		Epoch:   fence.Spec.Epoch,
		BootID:  fence.Spec.BootID,
		Peers:   fence.Spec.Peers,
	}, nil
}

// write carries out a decision's write. It returns false when another write
// came first. After an error the write may have happened or not.
func (r *records) write(ctx context.Context, d Decision) (won bool, err error) {
	switch d.Write {
	case Create:
		err = r.create(ctx, d.KillBelow+1)
	case SetPeers:
		err = r.setPeers(ctx, d.Replaces.Version, d.Peers)
	default:
		err = r.setRunning(ctx, d.Replaces.Version)
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s fence %s: %w", d.Write, r.node, err)
	}
	return true, nil
}

func (r *records) create(ctx context.Context, epoch int64) error {
	now := metav1.NowMicro()
	return r.client.Post().Resource(resource).MaxRetries(0).Body(&v1alpha1.Fence{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Fence"},
		ObjectMeta: metav1.ObjectMeta{Name: r.node},
		Spec: v1alpha1.FenceSpec{
			State:     v1alpha1.FenceRunning,
			Epoch:     epoch,
			BootID:    r.bootID,
			ChangedAt: &now,
		},
	}).Do(ctx).Error()
}

// annotationPeersAt is when the node last wrote its peers.
const annotationPeersAt = "lifeboat.dev/peers-written-at"

// setRunning writes Running by this boot if the record still has version.
func (r *records) setRunning(ctx context.Context, version string) error {
	return r.patch(ctx, map[string]any{"resourceVersion": version}, map[string]any{
		"state":     v1alpha1.FenceRunning,
		"bootID":    r.bootID,
		"changedAt": metav1.NowMicro(),
		"reason":    nil,
		"lostAt":    nil,
		"proof":     nil,
	})
}

// setPeers writes the peers if the record still has version. The record changes
// also where it has these peers already: a new version is what shows that no
// earlier write can come any more.
func (r *records) setPeers(ctx context.Context, version string, peers []string) error {
	return r.patch(ctx, map[string]any{
		"resourceVersion": version,
		"annotations":     map[string]any{annotationPeersAt: metav1.NowMicro().UTC().Format(metav1.RFC3339Micro)},
	}, map[string]any{"peers": peers})
}

func (r *records) patch(ctx context.Context, metadata, spec map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata, "spec": spec})
	if err != nil {
		return err
	}
	return r.client.Patch(types.MergePatchType).Resource(resource).Name(r.node).MaxRetries(0).Body(patch).Do(ctx).Error()
}
