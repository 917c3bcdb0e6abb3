package migrate

import (
	"context"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/metrics"
)

// annotationDeclaredAt is when the watcher noticed that the node was lost. The
// record itself has only the time of its last change.
const annotationDeclaredAt = "lifeboat.dev/declared-at"

// writeTimeout bounds one write of a fence record. An API server that takes
// longer is as good as none, and the decision is made anew.
const writeTimeout = 2 * time.Second

// writeFence carries out an action that writes a fence record by
// compare-and-swap. When somebody else wrote first, it answers what they wrote.
func (d *Driver) writeFence(ctx context.Context, action decide.Action) answer {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var unguarded string
	if action.Kind == decide.ConfirmFenced && action.Proof == v1alpha1.ProofWaited {
		if unguarded = d.unguarded(ctx, action.Node); unguarded != "" {
			action.Kind, action.Reason = decide.Withdraw, unguarded
		}
	}
	log := d.Log.With("node", action.Node, "action", action.Kind)
	fence, err := d.swap(ctx, action)
	if err != nil {
		d.Metrics.Declaration(metrics.Abandoned)
		log.Warn("fence record not written", "error", err)
		return answer{err: err}
	}
	if fence.Spec.State != stateAfter[action.Kind] {
		d.Metrics.Declaration(metrics.Abandoned)
		log.Info("somebody else wrote the fence record first", "state", fence.Spec.State)
		return answer{fence: viewOf(fence)}
	}
	switch action.Kind {
	case decide.DeclareLost:
		d.Metrics.Declaration(metrics.Declared)
		log.Info("node declared lost", "lostAt", action.LostAt, "why", action.Why, "reason", action.Reason)
		d.nodeEvent(ctx, action.Node, corev1.EventTypeWarning, "DeclaredLost",
			"Lifeboat declared the node lost: %s. It is fenced in %s unless it answers.", action.Reason, d.Terms.Wait())
		go d.prepare(context.WithoutCancel(ctx), fence)
		go d.retireWatchers(context.WithoutCancel(ctx), action.Node)
	case decide.ConfirmFenced:
		d.Metrics.Declaration(metrics.Fenced)
		log.Info("node is fenced", "epoch", fence.Spec.Epoch, "proof", action.Proof, "reason", action.Reason)
		d.nodeEvent(ctx, action.Node, corev1.EventTypeWarning, "Fenced",
			"None of the node's protected pods can run any more: %s. They are being recovered elsewhere.", proofs[action.Proof])
	case decide.Withdraw:
		log.Info("declaration withdrawn", "reason", action.Reason)
		if unguarded != "" {
			d.nodeEvent(ctx, action.Node, corev1.EventTypeWarning, "NotFenced", "The node is not fenced: %s.", unguarded)
		}
	}
	return answer{fence: viewOf(fence), unguarded: unguarded}
}

// proofs say in words why a fenced node's pods cannot run.
var proofs = map[v1alpha1.FenceProof]string{
	v1alpha1.ProofWaited:       "it did not answer before its permission ran out",
	v1alpha1.ProofRebooted:     "it has booted since",
	v1alpha1.ProofOutOfService: "it is silent, and was tainted out-of-service",
}

// stateAfter is what a record says after an action.
var stateAfter = map[decide.Kind]v1alpha1.FenceState{
	decide.DeclareLost:   v1alpha1.FenceLost,
	decide.ConfirmFenced: v1alpha1.FenceFenced,
	decide.Withdraw:      v1alpha1.FenceRunning,
}

// stateBefore is what it must say for the action to make sense.
var stateBefore = map[decide.Kind]v1alpha1.FenceState{
	decide.DeclareLost:   v1alpha1.FenceRunning,
	decide.ConfirmFenced: v1alpha1.FenceLost,
	decide.Withdraw:      v1alpha1.FenceLost,
}

// swap writes the record as the action wants it if it is still in the state that
// was decided upon, and returns it as it is then.
func (d *Driver) swap(ctx context.Context, action decide.Action) (*v1alpha1.Fence, error) {
	fence := &v1alpha1.Fence{}
	if err := d.Client.Get(ctx, client.ObjectKey{Name: action.Node}, fence); err != nil {
		return nil, fmt.Errorf("read fence %s: %w", action.Node, err)
	}
	for {
		// The record may have been refuted and declared again since.
		if fence.Spec.State != stateBefore[action.Kind] || fence.Generation > action.Generation {
			return fence, nil
		}
		next := fence.DeepCopy()
		edit(next, action, time.Now())
		err := d.Client.Update(ctx, next)
		if err == nil {
			return next, nil
		}
		if !apierrors.IsConflict(err) {
			return nil, fmt.Errorf("write fence %s: %w", action.Node, err)
		}
		// The cache may be behind, or only the node's facts have changed.
		if err := d.Reader.Get(ctx, client.ObjectKey{Name: action.Node}, fence); err != nil {
			return nil, fmt.Errorf("read fence %s: %w", action.Node, err)
		}
	}
}

// edit changes a record as an action wants it.
func edit(fence *v1alpha1.Fence, action decide.Action, now time.Time) {
	changed := metav1.NewMicroTime(now)
	fence.Spec.State = stateAfter[action.Kind]
	fence.Spec.ChangedAt = &changed
	switch action.Kind {
	case decide.DeclareLost:
		lostAt := metav1.NewMicroTime(action.LostAt)
		if action.LostAt.IsZero() {
			lostAt = changed
		}
		fence.Spec.LostAt, fence.Spec.Reason = &lostAt, action.Reason
		metav1.SetMetaDataAnnotation(&fence.ObjectMeta, annotationDeclaredAt, changed.UTC().Format(time.RFC3339Nano))
		metav1.SetMetaDataAnnotation(&fence.ObjectMeta, annotationMigrationReason, string(action.Why))
	case decide.ConfirmFenced:
		fence.Spec.Epoch++
		fence.Spec.Proof = action.Proof
	case decide.Withdraw:
		fence.Spec.LostAt, fence.Spec.Reason = nil, ""
	}
}

// declaredAt is when the loss of a fenced node was noticed.
func declaredAt(fence *v1alpha1.Fence) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339Nano, fence.Annotations[annotationDeclaredAt])
	return at, err == nil
}

// askPeer asks one peer of a lost node to promise not to vouch for it. Answered is
// false where it cannot be asked or does not answer in time.
func (d *Driver) askPeer(ctx context.Context, action decide.Action, peer string) (promised, answered bool) {
	fence := &v1alpha1.Fence{}
	if err := d.Client.Get(ctx, client.ObjectKey{Name: peer}, fence); err != nil {
		d.Log.Info("a peer of a lost node cannot be asked", "node", action.Node, "peer", peer, "error", err)
		return false, false
	}
	host, _, err := net.SplitHostPort(fence.Status.Facts.PeerAddress)
	if err != nil {
		d.Log.Info("a peer of a lost node cannot be asked", "node", action.Node, "peer", peer, "error", err)
		return false, false
	}
	yes, unreadable := d.Peers.Promise(ctx, map[string]string{peer: host}, action.Node)
	return len(yes) > 0, len(yes)+len(unreadable) > 0
}

// nodeEvent records an event on a Node object.
func (d *Driver) nodeEvent(ctx context.Context, name, kind, reason, note string, args ...any) {
	node := &corev1.Node{}
	if err := d.Client.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		node.Name = name // deleted: the event is about its name
	}
	d.Events.Eventf(node, nil, kind, reason, "Fence", note, args...)
}
