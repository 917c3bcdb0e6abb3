package migrate

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
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

// report takes in a decision to hold a node, or to hold it no longer.
func (h *holds) report(action decide.Action, now time.Time) {
	switch action.Kind {
	case decide.ReportHeld:
		h.hold(action, metav1.NewMicroTime(now))
	case decide.ReportReleased:
		h.release(action.Node)
	default:
		return
	}
	select {
	case h.changed <- event.GenericEvent{Object: &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: action.Node}}}:
	default:
	}
}

// hold notes why a node is held. Since when it is silent, and why its pods would be
// moved, is what was known when it was first held.
func (h *holds) hold(action decide.Action, now metav1.MicroTime) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held, ok := h.nodes[action.Node]
	if !ok {
		held.lostAt, held.reason = metav1.NewMicroTime(action.LostAt), cmp.Or(action.Why, v1alpha1.MigrationNodeLost)
		if action.LostAt.IsZero() {
			held.lostAt = now
		}
	}
	if held.Reason != action.Held {
		held.Since = now
	}
	held.Reason, held.Message = action.Held, action.Reason
	h.nodes[action.Node] = held
	delete(h.alive, action.Node)
}

func (h *holds) release(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.nodes, node)
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

// holdNode records a Migration for each protected pod of a node that is held, so
// that everybody sees why nothing is done.
func (d *Driver) holdNode(ctx context.Context, fence *v1alpha1.Fence, held hold) error {
	return d.eachPod(ctx, fence.Name, func(pod *corev1.Pod) error {
		waits, err := d.waitsBeside(ctx, pod)
		if err != nil || waits != nil || !admitted(pod) || !wanted(pod, held.lostAt) {
			return err
		}
		return d.record(ctx, pod, loss{node: fence.Name, lostAt: held.lostAt, reason: held.reason, epoch: fence.Spec.Epoch + 1, boot: fence.Spec.BootID})
	})
}

// await brings a Migration that was recorded before its node was fenced to the
// point where the recovery can begin: it notes why nothing is done, and withdraws
// it when the node turns out to live.
func (d *Driver) await(ctx context.Context, m *v1alpha1.Migration) (time.Time, error) {
	held, isHeld := d.holds.of(m.Spec.SourceNode)
	// Should the cache be behind, the API server knows whether the recovery can begin.
	fence, err := d.fenceOf(ctx, m, d.Client)
	if err == nil && !isHeld && fence.Spec.Epoch < m.Spec.FenceEpoch {
		fence, err = d.fenceOf(ctx, m, d.Reader)
	}
	if err != nil {
		return time.Time{}, err
	}
	if fence.Name == "" || fence.Spec.Epoch >= m.Spec.FenceEpoch {
		m.Status.Held = nil // the node is fenced, or was and has come back since
		for _, settled := range []func(context.Context, *v1alpha1.Migration) (bool, error){d.unwantedSince, d.movedSince} {
			if yes, err := settled(ctx, m); err != nil || yes {
				return time.Time{}, err
			}
		}
		return time.Time{}, d.begin(ctx, m, fence)
	}
	now := time.Now()
	if isHeld {
		stamp(m, v1alpha1.PhaseDetected, held.Since.Time)
		m.Status.Held = held.DeepCopy()
		return now.Add(lookWhileHeld), nil
	}
	stamp(m, v1alpha1.PhaseDetected, m.CreationTimestamp.Time)
	m.Status.Held = nil
	alive := fence.Spec.State == v1alpha1.FenceRunning && d.nodes.alive(m.Spec.SourceNode, now)
	lives, look := d.holds.lives(m.Spec.SourceNode, alive, now)
	if lives {
		conclude(m, livesOn(m, fence))
	}
	return look, nil
}

// livesOn is what became of a pod whose node was held, and lives. Only in the boot in
// which it was held has the pod run on there.
func livesOn(m *v1alpha1.Migration, fence *v1alpha1.Fence) Verdict {
	if boot := m.Annotations[annotationBoot]; boot != "" && boot != fence.Spec.BootID {
		return Verdict{Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonNodeRebooted,
			Message: "node " + m.Spec.SourceNode + " has booted anew while nothing was done about it, and the pod starts anew there"}
	}
	return Verdict{Result: v1alpha1.ResultWithdrawn, Message: "node " + m.Spec.SourceNode + " lives, and the pod ran on there; nothing was done"}
}

// unwantedSince says whether a bare pod was deleted by somebody while its recovery was
// held, and closes the Migration then: nobody but the watcher would create it again.
func (d *Driver) unwantedSince(ctx context.Context, m *v1alpha1.Migration) (bool, error) {
	if _, early := m.PhaseAt(v1alpha1.PhaseDetected); !early || m.Annotations[annotationManifest] == "" {
		return false, nil
	}
	pod := &corev1.Pod{}
	key := client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.Pod.Name}
	if err := d.Reader.Get(ctx, key, pod); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read pod %s: %w", key, err)
	}
	if pod.UID == m.LostPod() && pod.DeletionTimestamp == nil {
		return false, nil
	}
	conclude(m, Verdict{Result: v1alpha1.ResultWithdrawn,
		Message: "the pod was deleted while nothing was done about the loss of node " + m.Spec.SourceNode + ", so it is not created again"})
	return true, nil
}

// alive says whether a node looks alive just now.
func (n *nodes) alive(name string, now time.Time) bool {
	fact, ok := n.fact(name, now)
	return ok && fact.State == detect.Alive
}

// fact is what is known of a node just now.
func (n *nodes) fact(name string, now time.Time) (detect.Fact, bool) {
	var member membership.Member
	for _, m := range n.members.Members() {
		if m.Kind == membership.Checkpointer && m.Name == name {
			member = m
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.fences[name]; !ok {
		return detect.Fact{}, false
	}
	return n.sightings.Fact(now, name, member), true
}
