package migrate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// fixedMembers are members that a test sets.
type fixedMembers struct {
	members []membership.Member
	changes chan struct{}
}

func (f *fixedMembers) Members() []membership.Member { return f.members }
func (f *fixedMembers) Changes() <-chan struct{}     { return f.changes }

// TestNodes: what the informers and the membership bring becomes what the decisions
// see, each change at once.
func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		members := &fixedMembers{changes: make(chan struct{}, 1)}
		nodes := newNodes(members, detect.DefaultPressure)
		go nodes.listen(ctx)
		changed := func() bool {
			synctest.Wait()
			select {
			case <-nodes.changed:
				return true
			default:
				return false
			}
		}
		onNode, onLease, onFence := on(nodes.node), on(nodes.lease), on(nodes.fence)
		lease := func(namespace, name string, renewed time.Time) *coordinationv1.Lease {
			return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
				Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}}}
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyZone: "z"}},
			Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: "boot-1"}}}
		fence := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "a", Generation: 7},
			Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, BootID: "boot-1", Peers: []string{"b", "c"}}}

		onNode.OnAdd(node, true)
		if !changed() {
			t.Error("a new Node is not told")
		}
		if known := nodes.known(time.Now()); len(known) != 0 {
			t.Errorf("a node without a Fence is decided upon: %v", known)
		}
		onFence.OnAdd(fence, true)
		onLease.OnAdd(lease(corev1.NamespaceNodeLease, "a", began), true)
		members.members = []membership.Member{
			{Name: "a", Kind: membership.Watcher, State: membership.Alive, LastAlive: began.Add(time.Hour)}, // only a namesake
			{Name: "a", Kind: membership.Checkpointer, State: membership.Alive, LastAlive: began},
		}
		members.changes <- struct{}{}
		if !changed() {
			t.Error("a change of the membership is not told")
		}
		want := decide.Node{
			Fence: decide.Fence{State: v1alpha1.FenceRunning, Generation: 7, BootID: "boot-1", Peers: []string{"b", "c"}},
			Fact: detect.Fact{Node: "a", State: detect.Alive, LastAlive: began, BootID: "boot-1", Domain: "z",
				Reason: "its checkpointer answers", Why: v1alpha1.MigrationNodeLost},
		}
		if diff := cmp.Diff([]decide.Node{want}, nodes.known(time.Now())); diff != "" {
			t.Errorf("known (-want +got):\n%s", diff)
		}

		// Another Lease of the node's name says nothing of it, its own does.
		time.Sleep(10 * time.Second)
		members.members[1].State = membership.Dead
		onLease.OnUpdate(nil, lease("team-a", "a", time.Now()))
		if fact := nodes.known(time.Now())[0].Fact; fact.State != detect.Unreachable {
			t.Errorf("after somebody else's Lease: %s, %s", fact.State, fact.Reason)
		}
		onLease.OnUpdate(nil, lease(corev1.NamespaceNodeLease, "a", time.Now()))
		if fact := nodes.known(time.Now())[0].Fact; fact.State != detect.Alive || !fact.LastAlive.Equal(time.Now()) {
			t.Errorf("after its own Lease: %s, %s", fact.State, fact.Reason)
		}

		// The signals come with the Node and with the Fence.
		draining := node.DeepCopy()
		draining.Spec.Unschedulable = true
		onNode.OnUpdate(node, draining)
		loaded := fence.DeepCopy()
		loaded.Status.Load = &v1alpha1.NodeLoad{MemoryPressure: 60}
		onFence.OnUpdate(fence, loaded)
		if !changed() {
			t.Error("signals are not told")
		}
		time.Sleep(20 * time.Second)
		if signals := nodes.known(time.Now())[0].Fact.Signals; len(signals) != 2 ||
			signals[0].Reason != v1alpha1.MigrationNodeDrained || signals[1].Reason != v1alpha1.MigrationNodePressure {
			t.Errorf("signals %v", signals)
		}

		// The watch missed the deletion, and learns of it later.
		onFence.OnDelete(cache.DeletedFinalStateUnknown{Key: "a", Obj: loaded})
		if known := nodes.known(time.Now()); len(known) != 0 {
			t.Errorf("known after the Fence was deleted: %v", known)
		}
	})
}
