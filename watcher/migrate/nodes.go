package migrate

import (
	"context"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// Members is the watcher's view of the membership.
type Members interface {
	Members() []membership.Member
	Changes() <-chan struct{}
}

// nodes gathers what the API and the membership say of the nodes.
type nodes struct {
	members Members
	// changed receives after something that matters has changed.
	changed chan struct{}

	mu        sync.Mutex
	sightings *detect.Sightings
	fences    map[string]decide.Fence
}

func newNodes(members Members, pressure detect.Pressure) *nodes {
	return &nodes{members: members, changed: make(chan struct{}, 1),
		sightings: detect.NewSightings(pressure), fences: map[string]decide.Fence{}}
}

// watch hears of Nodes, their Leases and Fences from now on.
func (n *nodes) watch(ctx context.Context, informers ctrlcache.Informers) error {
	for kind, handler := range map[client.Object]cache.ResourceEventHandler{
		&corev1.Node{}:          on(n.node),
		&coordinationv1.Lease{}: on(n.lease),
		&v1alpha1.Fence{}:       on(n.fence),
	} {
		informer, err := informers.GetInformer(ctx, kind, ctrlcache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	return nil
}

// on makes a handler of a function that takes an object as it is and whether it
// still exists.
func on[T client.Object](f func(object T, exists bool)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { f(object.(T), true) },
		UpdateFunc: func(_, object any) { f(object.(T), true) },
		DeleteFunc: func(object any) {
			if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = last.Obj
			}
			f(object.(T), false)
		},
	}
}

func (n *nodes) node(node *corev1.Node, exists bool) {
	n.mu.Lock()
	n.sightings.Node(time.Now(), node, exists)
	n.mu.Unlock()
	n.kick()
}

// lease takes in a kubelet's Lease. Others have other meanings.
func (n *nodes) lease(lease *coordinationv1.Lease, exists bool) {
	if lease.Namespace != corev1.NamespaceNodeLease || lease.Spec.RenewTime == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sightings.Lease(time.Now(), lease.Name, lease.Spec.RenewTime.Time, exists)
}

func (n *nodes) fence(fence *v1alpha1.Fence, exists bool) {
	n.mu.Lock()
	n.sightings.Fence(time.Now(), fence, exists)
	if exists {
		n.fences[fence.Name] = viewOf(fence)
	} else {
		delete(n.fences, fence.Name)
	}
	n.mu.Unlock()
	n.kick()
}

func viewOf(fence *v1alpha1.Fence) decide.Fence {
	return decide.Fence{State: fence.Spec.State, Generation: fence.Generation, BootID: fence.Spec.BootID, Peers: fence.Spec.Peers}
}

// known is what is known of each node that has a fence record.
func (n *nodes) known(now time.Time) []decide.Node {
	members := map[string]membership.Member{}
	for _, m := range n.members.Members() {
		if m.Kind == membership.Checkpointer {
			members[m.Name] = m
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	known := make([]decide.Node, 0, len(n.fences))
	for name, fence := range n.fences {
		known = append(known, decide.Node{Fact: n.sightings.Fact(now, name, members[name]), Fence: fence})
	}
	return known
}

// kick tells that something has changed.
func (n *nodes) kick() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// listen passes on the changes of the membership until ctx ends.
func (n *nodes) listen(ctx context.Context) {
	for {
		select {
		case <-n.members.Changes():
			n.kick()
		case <-ctx.Done():
			return
		}
	}
}
