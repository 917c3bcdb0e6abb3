package migrate

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
	"github.com/lifeboat-dev/lifeboat/watcher/metrics"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

const (
	// podsAtOnce is how many pods are recovered at a time.
	podsAtOnce = 16
	// nodeIndex finds the protected pods of a node in the cache.
	nodeIndex = "spec.nodeName"
)

// Driver carries out what the watcher decides. All fields but Moves and HoldConnections are required.
type Driver struct {
	// Client reads from the manager's cache, Reader from the API server.
	Client client.Client
	Reader client.Reader
	Events events.EventRecorder

	Members Members
	Holders *Holders
	Peers   Peers
	Metrics *metrics.Metrics
	Terms   permission.Terms
	// Decide is how is decided; its Terms are the driver's.
	Decide decide.Config
	// Moves bounds the planned moves; where it is zero it is move.DefaultLimits.
	Moves move.Limits
	// HoldConnections has connections wait while a pod is moved live, where that is possible.
	HoldConnections bool
	// Pressure is from when on a node counts as short of something.
	Pressure detect.Pressure
	// Namespace is Lifeboat's own.
	Namespace string
	Log       *slog.Logger

	// nodes is what is known of the nodes, holds which of them are held.
	nodes *nodes
	holds *holds
	pause *pause
	kept  volumesHeld
	// recovering has, by node, a mutex that is held while Migrations are recorded;
	// recorded are the pods, by UID, whose Migrations were recorded a moment ago.
	recovering, recorded sync.Map
	// told are the Migrations, by UID, whose closing was told.
	told sync.Map
	// accepting is held while it is decided whether a move may begin; accepted are those,
	// by UID, that were accepted a moment ago.
	accepting sync.Mutex
	accepted  sync.Map
	// slicesSeen is what was last seen of the EndpointSlices of moves, by their UIDs.
	slicesSeen sync.Map
}

// Peers asks the peers of a node for promises, see peers.Client.
type Peers interface {
	Promise(ctx context.Context, addresses map[string]string, node string) (promised, unreadable []string)
}

// SetupWithManager adds the driver to a manager. Every watcher declares and
// fences nodes: both are compare-and-swaps of one record, so it does not matter
// who writes first, and the loss of the leader's own node takes no longer to
// notice than another's. Only the one that leads moves pods and reports.
func (d *Driver) SetupWithManager(ctx context.Context, mgr manager.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, nodeIndex, func(object client.Object) []string {
		return []string{object.(*corev1.Pod).Spec.NodeName}
	})
	if err != nil {
		return fmt.Errorf("index pods by node: %w", err)
	}
	// Every kind is watched from the start, whether this watcher leads or not: to
	// read a kind for the first time takes a second that no recovery has.
	for _, kind := range []client.Object{&corev1.Pod{}, &v1alpha1.Migration{}, &v1alpha1.Checkpoint{}, &storagev1.VolumeAttachment{},
		&policyv1.PodDisruptionBudget{}} {
		if _, err := mgr.GetCache().GetInformer(ctx, kind, cache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	d.nodes, d.holds = newNodes(d.Members, d.Pressure), newHolds()
	if err := d.nodes.watch(ctx, mgr.GetCache()); err != nil {
		return err
	}
	d.pause = newPause(d.Namespace)
	if err := d.pause.watch(ctx, mgr.GetCache()); err != nil {
		return err
	}
	for _, runnable := range []manager.Runnable{
		OnEveryReplica(func(ctx context.Context) error {
			d.pause.wait(ctx)
			return d.decide(ctx, d.nodes, mgr.Elected())
		}),
		manager.RunnableFunc(d.setGauges),
		manager.RunnableFunc(d.tellPaused),
		manager.RunnableFunc(d.collect),
	} {
		if err := mgr.Add(runnable); err != nil {
			return fmt.Errorf("add the decider: %w", err)
		}
	}
	err = builder.ControllerManagedBy(mgr).Named("fence").For(&v1alpha1.Fence{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(fenceOfPod)).
		WatchesRawSource(source.Channel(d.holds.changed, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2, RateLimiter: retries()}).
		Complete(reconcile.Func(d.reconcileFence))
	if err != nil {
		return fmt.Errorf("add the controller of fences: %w", err)
	}
	err = builder.ControllerManagedBy(mgr).Named("migration").For(&v1alpha1.Migration{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(d.migrationsOfPod)).
		Watches(&v1alpha1.Fence{}, handler.EnqueueRequestsFromMapFunc(d.migrationsOfNode), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: podsAtOnce, RateLimiter: retries()}).
		Complete(reconcile.Func(d.reconcileMigration))
	if err != nil {
		return fmt.Errorf("add the controller of migrations: %w", err)
	}
	return nil
}

// retries are soon: each one is a pod that does not run.
func retries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](20*time.Millisecond, 5*time.Second)
}

// OnEveryReplica is a part of the manager that runs whether this watcher leads or not.
type OnEveryReplica func(ctx context.Context) error

// Start implements manager.Runnable.
func (f OnEveryReplica) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (OnEveryReplica) NeedLeaderElection() bool { return false }

// decide runs the decisions until ctx ends.
func (d *Driver) decide(ctx context.Context, nodes *nodes, elected <-chan struct{}) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { nodes.listen(ctx) })
	l := &loop{
		machine: decide.New(d.Decide),
		changed: nodes.changed,
		write:   d.writeFence,
		ask:     d.askPeer,
		known: func() decide.View {
			known := nodes.known(time.Now())
			d.Metrics.Nodes(count(known))
			d.Metrics.Paused(d.pause.reason() != "")
			return decide.View{Nodes: known, Paused: d.pause.reason()}
		},
		tell: func(action decide.Action) {
			d.holds.report(action, time.Now()) // whoever leads next knows it, too
			select {
			case <-elected:
				running.Go(func() { d.tell(ctx, action) })
			default: // the leader tells; the controller of fences recovers what was fenced before this one leads
			}
		},
	}
	l.run(ctx)
	return nil
}

func count(known []decide.Node) map[string]int {
	count := map[string]int{}
	for _, node := range known {
		if node.Fence.State == v1alpha1.FenceRunning {
			count[string(node.Fact.State)]++
		} else {
			count[string(node.Fence.State)]++
		}
	}
	return count
}

// tell carries out an action that writes no fence record.
func (d *Driver) tell(ctx context.Context, action decide.Action) {
	switch action.Kind {
	case decide.Recover:
		fence := &v1alpha1.Fence{}
		err := d.Reader.Get(ctx, client.ObjectKey{Name: action.Node}, fence)
		if fenced, ok := decide.FencedBy(fence); ok && err == nil {
			err = d.recoverNode(ctx, fenced)
		}
		if err != nil {
			// The controller of fences tries again.
			d.Log.Warn("node not recovered at once", "node", action.Node, "error", err)
		}
	case decide.ReportRefuted:
		d.Metrics.Declaration(metrics.Refuted)
		d.Log.Info("declaration refuted", "node", action.Node, "reason", action.Reason)
		d.nodeEvent(ctx, action.Node, corev1.EventTypeNormal, "DeclarationRefuted", "The node is not lost: %s.", action.Reason)
	case decide.ReportHeld:
		d.Metrics.Refused(action.Held)
		d.Log.Warn("a node that looks lost is not acted upon", "node", action.Node, "held", action.Held, "reason", action.Reason)
		d.nodeEvent(ctx, action.Node, corev1.EventTypeWarning, "RecoveryHeld", "Nothing is done about the node although it looks lost (%s): %s.", action.Held, action.Reason)
	case decide.ReportReleased:
		d.Log.Info("a node is not held any more", "node", action.Node, "reason", action.Reason)
		d.nodeEvent(ctx, action.Node, corev1.EventTypeNormal, "RecoveryReleased", "The node is not held any more: %s.", action.Reason)
	case decide.Secure:
		d.Log.Info("a node may go soon", "node", action.Node, "why", action.Why, "reason", action.Reason)
		d.secure(ctx, action)
	}
}

// fenceOfPod asks for another look at a node's fence when a protected pod shows
// up on the node: it may be fenced already.
func fenceOfPod(_ context.Context, object client.Object) []reconcile.Request {
	pod := object.(*corev1.Pod)
	if pod.Spec.NodeName == "" || !protected(pod) {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: pod.Spec.NodeName}}}
}

// migrationsOfPod are the open Migrations that a pod may concern.
func (d *Driver) migrationsOfPod(ctx context.Context, object client.Object) []reconcile.Request {
	pod := object.(*corev1.Pod)
	if !protected(pod) {
		return nil
	}
	var migrations v1alpha1.MigrationList
	if err := d.Client.List(ctx, &migrations, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		d.Log.Error("list migrations", "error", err)
		return nil
	}
	var requests []reconcile.Request
	for i := range migrations.Items {
		m := &migrations.Items[i]
		if m.Open() && (pod.UID == m.LostPod() || m.ClaimedBy(pod.UID) || m.SucceededBy(pod)) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(m)})
		}
	}
	return requests
}

// migrationsOfNode are the Migrations that wait until their node is fenced, and the
// planned moves from and to it.
func (d *Driver) migrationsOfNode(ctx context.Context, object client.Object) []reconcile.Request {
	var migrations v1alpha1.MigrationList
	if err := d.Client.List(ctx, &migrations, client.UnsafeDisableDeepCopy); err != nil {
		d.Log.Error("list migrations", "error", err)
		return nil
	}
	var requests []reconcile.Request
	for i := range migrations.Items {
		m := &migrations.Items[i]
		_, fenced := m.PhaseAt(v1alpha1.PhaseFenced)
		target := m.Planned() && m.Status.Claim != nil && m.Status.Claim.NodeName == object.GetName()
		if m.Open() && (!fenced && m.Spec.SourceNode == object.GetName() || target) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(m)})
		}
	}
	return requests
}
