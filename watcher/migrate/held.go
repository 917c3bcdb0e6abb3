package migrate

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

const (
	// lookWhileHeld is how often a Migration that waits for its node to be fenced is
	// looked at.
	lookWhileHeld = 2 * time.Second
	// withdrawAfter is how long a node must have been alive, with nothing held, before
	// its Migrations are withdrawn: a watcher that has just started believes for a
	// moment that every node lives.
	withdrawAfter = 5 * time.Second
	// holdsInLine bounds the changes that nobody has taken up yet. Each is looked at
	// again in time anyway.
	holdsInLine = 1024
)

// hold is why a node that looks lost is not acted upon, and since when it is silent.
type hold struct {
	v1alpha1.Held
	lostAt metav1.MicroTime
	reason v1alpha1.MigrationReason
}

// holds are the nodes that look lost and are not acted upon. Every watcher knows
// them, so that one that takes the lead need not be told again.
type holds struct {
	// changed tells the controller of fences of a node.
	changed chan event.GenericEvent

	mu    sync.Mutex
	nodes map[string]hold
	// alive is since when a node with a Migration that waits lives, with nothing held.
	alive map[string]time.Time
}

func newHolds() *holds {
	return &holds{changed: make(chan event.GenericEvent, holdsInLine), nodes: map[string]hold{}, alive: map[string]time.Time{}}
}

// hold takes in that a node is held. Since when it is silent, and why its pods would
// be moved, is what the fact said when it was first held.
func (h *holds) hold(node string, reason v1alpha1.HeldReason, message string, fact detect.Fact, now time.Time) {
	at := metav1.NewMicroTime(now)
	h.mu.Lock()
	held, ok := h.nodes[node]
	if !ok {
		held.lostAt, held.reason = metav1.NewMicroTime(fact.LastAlive), fact.Why
		if fact.LastAlive.IsZero() {
			held.lostAt = at
		}
		if held.reason == "" {
			held.reason = v1alpha1.MigrationNodeLost
		}
	}
	if held.Reason != reason {
		held.Since = at
	}
	held.Reason, held.Message = reason, message
	h.nodes[node] = held
	h.mu.Unlock()
	h.kick(node)
}

// release takes in that a node is held no longer.
func (h *holds) release(node string) {
	h.mu.Lock()
	delete(h.nodes, node)
	h.mu.Unlock()
	h.kick(node)
}

func (h *holds) kick(node string) {
	select {
	case h.changed <- event.GenericEvent{Object: &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: node}}}:
	default:
	}
}

func (h *holds) of(node string) (hold, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held, ok := h.nodes[node]
	return held, ok
}

// lives says whether a node has been alive for withdrawAfter, and else when to ask
// again. It counts from when it was first asked.
func (h *holds) lives(node string, alive bool, now time.Time) (bool, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, ok := h.alive[node]
	if !alive {
		delete(h.alive, node)
		return false, now.Add(lookWhileHeld)
	}
	if !ok {
		since = now
		h.alive[node] = now
	}
	return now.Sub(since) >= withdrawAfter, since.Add(withdrawAfter)
}

// reportHeld tells that nothing is done although a node looks lost.
func (d *Driver) reportHeld(ctx context.Context, node string, reason v1alpha1.HeldReason, message string) {
	d.Metrics.Refused(reason)
	d.Log.Warn("a node looks lost and is not acted upon", "node", node, "held", reason, "reason", message)
	d.nodeEvent(ctx, node, corev1.EventTypeWarning, "RecoveryHeld", "The node looks lost, and nothing is done (%s): %s.", reason, message)
}

// reportReleased tells that this is over.
func (d *Driver) reportReleased(ctx context.Context, node, message string) {
	d.Log.Info("a node is not held any more", "node", node, "reason", message)
	d.nodeEvent(ctx, node, corev1.EventTypeNormal, "RecoveryResumed", "The recovery of the node's pods is not held any more: %s.", message)
}

// holdNode records a Migration for each protected pod of a node that is held, so
// that everybody sees why nothing is done.
func (d *Driver) holdNode(ctx context.Context, fence *v1alpha1.Fence, held hold) error {
	return d.eachPod(ctx, fence.Name, func(pod *corev1.Pod) error {
		if !wanted(pod, held.lostAt) {
			return nil
		}
		return d.record(ctx, pod, loss{node: fence.Name, lostAt: held.lostAt, reason: held.reason, epoch: fencedAs(fence)})
	})
}

// await brings a Migration that was recorded before its node was fenced to the
// point where the recovery can begin: it notes why nothing is done, and withdraws
// it when the node turns out to live.
func (d *Driver) await(ctx context.Context, m *v1alpha1.Migration) (time.Time, error) {
	held, isHeld := d.holds.of(m.Spec.SourceNode)
	fence, err := d.fenceOf(ctx, m, isHeld)
	if err != nil {
		return time.Time{}, err
	}
	if fence.Name == "" || fence.Spec.Epoch >= m.Spec.FenceEpoch {
		m.Status.Held = nil // the node is fenced, or was and has come back since
		return time.Time{}, d.begin(ctx, m, fence)
	}
	now := time.Now()
	if isHeld {
		stamp(m, v1alpha1.PhaseDetected, held.Since.Time)
		m.Status.Held = held.Held.DeepCopy()
		return now.Add(lookWhileHeld), nil
	}
	stamp(m, v1alpha1.PhaseDetected, m.CreationTimestamp.Time)
	m.Status.Held = nil
	alive := fence.Spec.State == v1alpha1.FenceRunning && d.nodes.alive(m.Spec.SourceNode, now)
	lives, look := d.holds.lives(m.Spec.SourceNode, alive, now)
	if lives {
		conclude(m, Verdict{Result: v1alpha1.ResultWithdrawn, Message: "node " + m.Spec.SourceNode + " lives, and the pod ran on there; nothing was done"})
	}
	return look, nil
}

// alive says whether a node looks alive just now.
func (n *nodes) alive(name string, now time.Time) bool {
	fact, ok := n.fact(name, now)
	return ok && fact.State == detect.Alive
}

// fact is what is known of a node just now.
func (n *nodes) fact(name string, now time.Time) (detect.Fact, bool) {
	for _, node := range n.known(now) {
		if node.Fact.Node == name {
			return node.Fact, true
		}
	}
	return detect.Fact{}, false
}

// countRecoveries sets the metrics of what is open and held, as long as it leads.
func (d *Driver) countRecoveries(ctx context.Context) error {
	tick := time.NewTicker(lookWhileHeld)
	defer tick.Stop()
	for {
		var list v1alpha1.MigrationList
		if err := d.Client.List(ctx, &list); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			d.Log.Warn("open recoveries are not counted", "error", err)
		} else {
			d.Metrics.Recoveries(countHeld(list.Items))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func countHeld(migrations []v1alpha1.Migration) (open int, held map[v1alpha1.HeldReason]int) {
	held = map[v1alpha1.HeldReason]int{}
	for i := range migrations {
		switch m := &migrations[i]; {
		case !m.Open():
		case m.Status.Held != nil:
			held[m.Status.Held.Reason]++
		default:
			open++
		}
	}
	return open, held
}
