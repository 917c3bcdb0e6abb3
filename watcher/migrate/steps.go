package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// carryOut does the next step of a planned move, and notes in its Migration what it has
// completed. It returns when to look again, zero for only after a change.
func (d *Driver) carryOut(ctx context.Context, v *move.View, step move.Step) (time.Time, error) {
	m := v.Migration
	switch step.Do {
	case move.Hold:
		d.holdMove(m, step, v.Now)
	case move.Accept:
		return d.acceptMove(ctx, v)
	case move.Release:
		return again, d.release(ctx, m, v.Pod)
	case move.Keep:
		return again, d.keep(ctx, m, v.Pod)
	case move.Claim:
		m.Status.Claim = &v1alpha1.Claim{PodName: v.Successor.Name, PodUID: v.Successor.UID, NodeName: v.Successor.Spec.NodeName, At: metav1.NewMicroTime(v.Now)}
	case move.AskToHold, move.BeginHolding, move.ShowOld, move.ShowNew, move.StopHolding:
		return d.holdStep(ctx, v, step)
	case move.LeaveServices:
		return again, d.leaveServices(ctx, v.Pod, v.Selected)
	case move.Stop:
		meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
			Type: string(corev1.DisruptionTarget), Status: metav1.ConditionTrue, Reason: string(m.Spec.Reason), Message: moveMessage(m),
		})
		stamp(m, v1alpha1.PhaseStopping, v.Now)
	case move.NoteStopped:
		stamp(m, v1alpha1.PhaseStopped, m.Status.Source.StoppedAt.Time)
		if !m.Staged() { // what the application exported is no checkpoint
			m.Status.Checkpoint = m.Status.Source.Checkpoint.DeepCopy()
		}
	case move.Remove:
		return d.removeMoved(ctx, m, v.Pod)
	case move.Delete:
		return step.Look, d.deleteMoved(ctx, m, v.Pod)
	case move.Recreate:
		return time.Time{}, d.recreate(ctx, m)
	case move.Tell:
		if m.Status.Message != step.Message {
			m.Status.Message = step.Message
			d.Events.Eventf(m, nil, corev1.EventTypeWarning, "SourceSilent", "Move", "%s", cut(step.Message))
		}
	case move.Follow:
		return d.finish(ctx, m)
	case move.Withdraw:
		return time.Time{}, d.withdraw(ctx, v, step)
	case move.Close:
		conclude(m, Verdict{Result: step.Result, Reason: step.Reason, Message: step.Message})
	}
	return step.Look, nil
}

// again asks for another look at once: a pod was written to, and is to be read anew.
var again = time.Unix(0, 0)

func moveMessage(m *v1alpha1.Migration) string {
	return fmt.Sprintf("the pod is moved away from node %s (migration %s)", m.Spec.SourceNode, m.Name)
}

func (d *Driver) holdMove(m *v1alpha1.Migration, step move.Step, now time.Time) {
	if held := m.Status.Held; held != nil && held.Reason == step.Held && held.Message == step.Message {
		return
	}
	since := metav1.NewMicroTime(now)
	if held := m.Status.Held; held != nil && held.Reason == step.Held {
		since = held.Since
	}
	m.Status.Held = &v1alpha1.Held{Reason: step.Held, Message: step.Message, Since: since}
}

// acceptMove lets a move begin. Of several that are decided about at once each knows the
// others, so that there are never more than the limits allow.
func (d *Driver) acceptMove(ctx context.Context, v *move.View) (time.Time, error) {
	d.accepting.Lock()
	defer d.accepting.Unlock()
	var known v1alpha1.MigrationList
	if err := d.Client.List(ctx, &known, client.UnsafeDisableDeepCopy); err != nil {
		return time.Time{}, fmt.Errorf("list migrations: %w", err)
	}
	if err := d.viewOthers(ctx, v, known.Items); err != nil {
		return time.Time{}, err
	}
	if move.Next(v).Do != move.Accept {
		return again, nil
	}
	m := v.Migration
	d.accepted.Store(m.UID, true)
	m.Status.Held = nil
	stamp(m, v1alpha1.PhaseAccepted, v.Now)
	if c := v.Checkpoint; c != nil && move.Stateful(m.Spec.Strategy) && c.Status.TakenAt != nil {
		// What the scheduler chooses a node by, until the source has taken the last one.
		m.Status.Checkpoint = &v1alpha1.HeldCheckpoint{Generation: c.Status.Generation, TakenAt: *c.Status.TakenAt, Bytes: c.Status.Bytes, Holders: c.Status.Holders}
	}
	return time.Time{}, nil
}

// keep notes in the Migration what a bare pod is made again from, or which pods are not
// the successor of one that has an owner.
func (d *Driver) keep(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	if m.Spec.Pod.OwnerUID != "" {
		return d.keepSiblings(ctx, m)
	}
	manifest, err := manifestOf(pod)
	if err != nil {
		return err
	}
	return d.annotate(ctx, m, annotationManifest, manifest)
}

func (d *Driver) keepSiblings(ctx context.Context, m *v1alpha1.Migration) error {
	var pods corev1.PodList
	if err := d.Client.List(ctx, &pods, client.InNamespace(m.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list pods in %s: %w", m.Namespace, err)
	}
	siblings := []types.UID{}
	for i := range pods.Items {
		if m.SucceededBy(&pods.Items[i]) {
			siblings = append(siblings, pods.Items[i].UID)
		}
	}
	noted, err := json.Marshal(siblings)
	if err != nil {
		return fmt.Errorf("note the siblings of pod %s/%s: %w", m.Namespace, m.Spec.Pod.Name, err)
	}
	return d.annotate(ctx, m, move.AnnotationSiblings, string(noted))
}

// annotate writes an annotation of a Migration that is still the one that was looked at.
func (d *Driver) annotate(ctx context.Context, m *v1alpha1.Migration, key, value string) error {
	next := m.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, key, value)
	if err := d.Client.Patch(ctx, next, client.MergeFromWithOptions(m.DeepCopy(), client.MergeFromWithOptimisticLock{}), fieldOwner); err != nil {
		return fmt.Errorf("annotate migration %s/%s: %w", m.Namespace, m.Name, err)
	}
	*m = *next
	return nil
}

// removeMoved removes a pod that its source has stopped from the API, at once.
func (d *Driver) removeMoved(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (time.Time, error) {
	if pod == nil || pod.UID != m.LostPod() {
		stamp(m, v1alpha1.PhaseDeleted, time.Now())
		return time.Time{}, nil
	}
	now := &v1alpha1.Migration{}
	if err := d.Reader.Get(ctx, client.ObjectKeyFromObject(m), now); err != nil {
		return time.Time{}, fmt.Errorf("read migration %s/%s: %w", m.Namespace, m.Name, err)
	}
	if now.UID != m.UID || !now.Open() || !now.SourceStopped() {
		return time.Now().Add(conflictPause), nil // what was decided upon is not so any more
	}
	marked, err := d.markMoved(ctx, m, pod)
	if err != nil {
		return time.Time{}, client.IgnoreNotFound(err)
	}
	switch removed, err := d.deleteExactly(ctx, marked); {
	case err != nil:
		return time.Time{}, err
	case removed == podChanged:
		return time.Now().Add(conflictPause), nil
	case removed == podKept:
		return time.Now().Add(lookAgain), nil
	}
	stamp(m, v1alpha1.PhaseDeleted, time.Now())
	return time.Time{}, nil
}

// deleteMoved lets a pod that is not needed any more end with its grace period.
func (d *Driver) deleteMoved(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	if pod == nil || pod.UID != m.LostPod() {
		stamp(m, v1alpha1.PhaseDeleted, time.Now())
		return nil
	}
	fence, err := d.fenceOf(ctx, m, d.Client)
	if err != nil {
		return err
	}
	if _, fenced := decide.FencedBy(fence); fenced && protected(pod) && admitted(pod) {
		_, err := d.removePod(ctx, pod, m.Spec.SourceNode, m.Spec.Reason) // no kubelet tells its end
		return err
	}
	if pod.DeletionTimestamp != nil {
		return nil
	}
	marked, err := d.markMoved(ctx, m, pod)
	if err == nil {
		err = d.Client.Delete(ctx, marked, client.Preconditions{UID: &marked.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// markMoved tells in the pod, and by an event, why it goes.
func (d *Driver) markMoved(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (*corev1.Pod, error) {
	marked, err := d.setMark(ctx, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: string(m.Spec.Reason), Message: moveMessage(m),
	})
	if err != nil {
		return nil, fmt.Errorf("mark pod %s/%s as moved: %w", pod.Namespace, pod.Name, err)
	}
	d.Events.Eventf(marked, nil, corev1.EventTypeNormal, "Moved", "Delete", "The pod is moved away from node %s and deleted (migration %s).", m.Spec.SourceNode, m.Name)
	return marked, nil
}

// withdraw gives a move up: it first notes why, so that nobody takes it further, then
// puts the pod back as it was, and closes the Migration last.
func (d *Driver) withdraw(ctx context.Context, v *move.View, step move.Step) error {
	m := v.Migration
	if !m.Withdrawing() {
		m.Status.Held, m.Status.Reason, m.Status.Message = nil, step.Reason, step.Message
		return nil
	}
	lost := step.Reason == v1alpha1.ReasonSourceLost
	if m.Released() {
		runs := v.Pod != nil && v.Pod.UID == m.LostPod() && v.Pod.DeletionTimestamp == nil
		if runs && (!lost || protected(v.Pod)) {
			if err := d.putLabelsBack(ctx, m, v.Pod); err != nil {
				return err
			}
		}
		// What was to be restored never starts without that; another pod does. Of the
		// others, one is needed where the pod itself has gone. And where it is lost with its
		// state, a successor that can have it is.
		waits := v.Successor != nil && m.ClaimedBy(v.Successor.UID) && v.Successor.DeletionTimestamp == nil
		if waits && (move.Stateful(m.Spec.Strategy) || runs && !lost || lost && protected(v.Successor)) {
			d.Events.Eventf(v.Successor, m, corev1.EventTypeNormal, "MoveWithdrawn", "Delete", "%s",
				cut(fmt.Sprintf("The move of pod %s, whose place the pod was to take, is given up: %s", m.Spec.Pod.Name, step.Message)))
			if err := d.Client.Delete(ctx, v.Successor, client.Preconditions{UID: &v.Successor.UID}); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("delete pod %s/%s, which waited: %w", v.Successor.Namespace, v.Successor.Name, err)
			}
		}
	}
	conclude(m, Verdict{Result: step.Result, Reason: step.Reason, Message: step.Message})
	return nil
}

// tellMove tells what a write of a move's Migration has changed.
func (d *Driver) tellMove(before, m *v1alpha1.Migration) {
	held := m.Status.Held
	if held != nil && (before.Status.Held == nil || before.Status.Held.Reason != held.Reason) {
		d.Events.Eventf(m, nil, corev1.EventTypeNormal, "MoveHeld", "Move", "The move waits (%s): %s.", held.Reason, held.Message)
	}
	d.tellUnclaimed(before, m)
	d.tellHolding(before, m)
	if m.Status.Phase != before.Status.Phase {
		d.Log.Info("a planned move goes on", "migration", m.Namespace+"/"+m.Name, "node", m.Spec.SourceNode, "strategy", m.Spec.Strategy, "phase", m.Status.Phase)
	}
	if !m.Open() {
		d.closed(m)
	}
}
