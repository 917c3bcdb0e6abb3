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
	sightings map[string]*detect.Sighting
	fences    map[string]decide.Fence
}

func newNodes(members Members) *nodes {
	return &nodes{members: members, changed: make(chan struct{}, 1),
		sightings: map[string]*detect.Sighting{}, fences: map[string]decide.Fence{}}
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

// sighting returns the sighting of a node. n.mu is held.
func (n *nodes) sighting(name string) *detect.Sighting {
	s := n.sightings[name]
	if s == nil {
		s = &detect.Sighting{Node: name, Watched: time.Now()}
		n.sightings[name] = s
	}
	return s
}

func (n *nodes) node(node *corev1.Node, exists bool) {
	n.mu.Lock()
	s := n.sighting(node.Name)
	s.NodeExists, s.Ready, s.BootID = exists, "", node.Status.NodeInfo.BootID
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			s.Ready = condition.Status
		}
	}
	n.mu.Unlock()
	n.kick()
}

func (n *nodes) lease(lease *coordinationv1.Lease, exists bool) {
	if !exists || lease.Spec.RenewTime == nil {
		return
	}
	renewed := lease.Spec.RenewTime.Time
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sighting(lease.Name)
	if !s.LeaseRenewed.IsZero() && !renewed.Equal(s.LeaseRenewed) {
		s.LeaseSeen = time.Now()
	}
	s.LeaseRenewed = renewed
}

func (n *nodes) fence(fence *v1alpha1.Fence, exists bool) {
	n.mu.Lock()
	if exists {
		n.fences[fence.Name] = viewOf(fence)
	} else {
		delete(n.fences, fence.Name)
	}
	n.mu.Unlock()
	n.kick()
}

func viewOf(fence *v1alpha1.Fence) decide.Fence {
	return decide.Fence{State: fence.Spec.State, Generation: fence.Generation, BootID: fence.Spec.BootID}
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
		s := *n.sighting(name)
		s.Member = members[name]
		known = append(known, decide.Node{Fact: s.Fact(now), Fence: fence})
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
