package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// fieldOwner is the watcher's name as a writer.
const fieldOwner = client.FieldOwner("lifeboat-watcher")

// lookAgain is how often a lost pod is looked for that something else, as a
// finalizer, keeps in the API.
const lookAgain = 5 * time.Second

// reconcileMigration brings one Migration as far as it goes.
func (d *Driver) reconcileMigration(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	m := &v1alpha1.Migration{}
	if err := d.Client.Get(ctx, request.NamespacedName, m); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if m.Clones() {
		return d.reconcileClone(ctx, m)
	}
	if m.Planned() {
		return d.reconcileMove(ctx, m)
	}
	for m.Open() && m.DeletionTimestamp == nil {
		before := m.DeepCopy()
		look, err := d.advance(ctx, m)
		if err != nil {
			return reconcile.Result{}, err
		}
		if equality.Semantic.DeepEqual(before.Status, m.Status) {
			return lookAt(look), nil
		}
		// The plugin and the checkpointer write to the Migration, too. A verdict
		// on what they had not written yet does not pass: the patch demands that
		// the Migration is still the one that was judged.
		if err := d.writeStatus(ctx, before, m); apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictPause}, nil
		} else if err != nil {
			return reconcile.Result{}, err
		}
		d.tellHold(before, m)
		d.tellUnclaimed(before, m)
		if !m.Open() {
			d.closed(m)
		}
	}
	if m.Open() {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, d.tellClosed(ctx, m)
}

// conflictPause gives the cache time to show what somebody else wrote.
const conflictPause = 10 * time.Millisecond

// advance completes the next step of a Migration, if it can be completed, and
// notes it in m. Else it returns when to look again, zero for only after a change.
func (d *Driver) advance(ctx context.Context, m *v1alpha1.Migration) (time.Time, error) {
	if _, ok := m.PhaseAt(v1alpha1.PhaseFenced); !ok {
		return d.await(ctx, m)
	}
	if _, ok := m.PhaseAt(v1alpha1.PhaseDeleted); !ok {
		return d.removeLost(ctx, m)
	}
	return d.finish(ctx, m)
}

// finish follows the successor of a pod that is gone until it can be said what became
// of the Migration.
func (d *Driver) finish(ctx context.Context, m *v1alpha1.Migration) (time.Time, error) {
	pod, err := d.successor(ctx, m)
	if err != nil {
		return time.Time{}, err
	}
	if free, err := d.unclaim(ctx, m, pod); free || err != nil {
		return again, err
	}
	if _, created := m.PhaseAt(v1alpha1.PhaseCreated); pod == nil && !created && m.Annotations[annotationManifest] != "" {
		return time.Time{}, d.recreate(ctx, m)
	}
	if pod != nil {
		if replaced, err := d.replaceUnadmitted(ctx, m, pod); replaced || err != nil {
			return time.Now().Add(lookAgain), err
		}
	}
	now := time.Now()
	d.follow(m, pod, now)
	v := Judge(m, pod, now)
	if v.Result == "" && pod == nil {
		if v, err = d.judgeOwner(ctx, m, v, now); err != nil {
			return time.Time{}, err
		}
	}
	if v.Result != "" {
		conclude(m, v)
	}
	return v.Look, nil
}

// begin notes how the loss was noticed, and what there is to restore.
func (d *Driver) begin(ctx context.Context, m *v1alpha1.Migration, fence *v1alpha1.Fence) error {
	fenced := m.CreationTimestamp.Time
	if fence.Spec.State == v1alpha1.FenceFenced && fence.Spec.ChangedAt != nil {
		fenced = fence.Spec.ChangedAt.Time
	}
	detected, ok := declaredAt(fence)
	if !ok || detected.After(fenced) {
		detected = fenced
	}
	fences, err := d.fences(ctx)
	if err != nil {
		return err
	}
	m.Status.Checkpoint = d.Holders.Newest(ctx, d.sought(ctx, m.Namespace, m.Spec.Pod.Name, m.Spec.Pod.UID), fences)
	stamp(m, v1alpha1.PhaseDetected, detected)
	stamp(m, v1alpha1.PhaseFenced, fenced)
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: string(corev1.DisruptionTarget), Status: metav1.ConditionTrue,
		Reason: string(m.Spec.Reason), Message: lossMessage(m.Spec.SourceNode),
	})
	return nil
}

// removeLost removes the lost pod from the API.
func (d *Driver) removeLost(ctx context.Context, m *v1alpha1.Migration) (time.Time, error) {
	pod := &corev1.Pod{}
	key := client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.Pod.Name}
	err := d.Client.Get(ctx, key, pod)
	if client.IgnoreNotFound(err) != nil {
		return time.Time{}, fmt.Errorf("read pod %s: %w", key, err)
	}
	if err != nil || pod.UID != m.LostPod() {
		stamp(m, v1alpha1.PhaseDeleted, time.Now())
		return time.Time{}, nil
	}
	removed, err := d.removePod(ctx, pod, m.Spec.SourceNode, m.Spec.Reason)
	switch {
	case err != nil:
		return time.Time{}, err
	case removed == podLives:
		conclude(m, Verdict{Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonNotAsked,
			Message: fmt.Sprintf("node %s came back before the pod was deleted; the pod starts anew there", m.Spec.SourceNode)})
	case removed == podChanged:
		return time.Now().Add(conflictPause), nil
	case removed == podKept:
		return time.Now().Add(lookAgain), nil
	default:
		stamp(m, v1alpha1.PhaseDeleted, time.Now())
	}
	return time.Time{}, nil
}

// recreate creates a bare pod's successor.
func (d *Driver) recreate(ctx context.Context, m *v1alpha1.Migration) error {
	next := &corev1.Pod{}
	if err := json.Unmarshal([]byte(m.Annotations[annotationManifest]), next); err != nil {
		return fmt.Errorf("read annotation %s of migration %s/%s: %w", annotationManifest, m.Namespace, m.Name, err)
	}
	// Whoever may write to a Migration may not thereby have pods created elsewhere.
	next.Namespace, next.Name = m.Namespace, m.Spec.Pod.Name
	err := d.Client.Create(ctx, next, fieldOwner)
	if apierrors.IsAlreadyExists(err) && m.Staged() {
		there, readErr := d.readPod(ctx, client.ObjectKeyFromObject(next))
		lost, lostErr := d.isLost(ctx, there)
		if err := errors.Join(readErr, lostErr); err != nil {
			return err
		}
		if lost || there == nil || there.UID == m.LostPod() {
			return fmt.Errorf("create the successor of pod %s/%s: the former one is not gone yet", m.Namespace, m.Spec.Pod.Name)
		}
	}
	if err == nil || apierrors.IsAlreadyExists(err) {
		stamp(m, v1alpha1.PhaseCreated, time.Now())
		return nil
	}
	d.Events.Eventf(m, nil, corev1.EventTypeWarning, "SuccessorNotCreated", "Create", "The pod's successor cannot be created: %s", err)
	if v := overdue(deletedAt(m).Add(readyDeadline), time.Now(), "the successor could not be created: "+err.Error()); v.Result != "" {
		conclude(m, v)
		return nil
	}
	return fmt.Errorf("create the successor of pod %s/%s: %w", m.Namespace, m.Spec.Pod.Name, err)
}

// successor is the pod that claimed the Migration or, while it is not claimed, the
// one that is to take the lost pod's place; nil when there is none.
func (d *Driver) successor(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	if claim := m.Status.Claim; claim != nil {
		key := client.ObjectKey{Namespace: m.Namespace, Name: claim.PodName}
		// The cache may be behind; that a pod is gone is asked of the API server.
		for _, reader := range []client.Reader{d.Client, d.Reader} {
			pod := &corev1.Pod{}
			err := reader.Get(ctx, key, pod)
			if client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("read pod %s: %w", key, err)
			}
			if err == nil && pod.UID == claim.PodUID {
				return pod, nil
			}
		}
		return nil, nil
	}
	var (
		pods       corev1.PodList
		migrations v1alpha1.MigrationList
	)
	// A namespace may have thousands of either: they are looked at as the cache has them.
	if err := d.Client.List(ctx, &pods, client.InNamespace(m.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list pods in %s: %w", m.Namespace, err)
	}
	if err := d.Client.List(ctx, &migrations, client.InNamespace(m.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list migrations in %s: %w", m.Namespace, err)
	}
	next := candidate(m, migrations.Items, pods.Items).DeepCopy()
	if m.Staged() {
		if lost, err := d.isLost(ctx, next); err != nil || lost {
			return nil, err // the claim was taken from it
		}
	}
	return next, nil
}

// follow notes the steps that the successor has completed.
func (d *Driver) follow(m *v1alpha1.Migration, pod *corev1.Pod, now time.Time) {
	if pod == nil {
		return
	}
	claim, restore := m.Status.Claim, m.Status.Restore
	stamp(m, v1alpha1.PhaseCreated, now)
	if claim != nil {
		// It was there before it claimed, even when it was noticed only then.
		noLater(m, v1alpha1.PhaseCreated, claim.At.Time)
		stamp(m, v1alpha1.PhaseScheduled, claim.At.Time)
		if restore != nil && restore.PodUID == claim.PodUID {
			followRestore(m, restore)
		}
	}
	if ready(pod) && mayBeReady(m) {
		stamp(m, v1alpha1.PhaseReady, now)
	}
}

// mayBeReady says whether a successor that is Ready completes that step. While a planned
// move's source runs, what is to be restored is not Ready; and where no scheduler claims
// the move, the watcher notes first which pod it is.
func mayBeReady(m *v1alpha1.Migration) bool {
	switch {
	case !m.Planned():
		return true
	case m.Staged():
		return imported(m) || m.RestoreCommitted() // until then it answers without its state
	case move.Stateful(m.Spec.Strategy):
		return m.Reached(v1alpha1.PhaseStopped)
	}
	return m.Status.Claim != nil
}

// followRestore notes how far the checkpointer of the claim's node has come. A pod that
// waits for its checkpoint asks for it long before there is one.
func followRestore(m *v1alpha1.Migration, restore *v1alpha1.RestoreStatus) {
	if !m.Planned() || m.Clones() {
		stamp(m, v1alpha1.PhaseRestoring, restore.StartedAt.Time)
		return
	}
	if !move.Stateful(m.Spec.Strategy) {
		return
	}
	if restore.ParkedAt != nil && !m.Reached(v1alpha1.PhaseStopping) {
		stamp(m, v1alpha1.PhaseParked, restore.ParkedAt.Time)
	}
	// While a pod is parked it says that it has begun when it was parked.
	begun := restore.ParkedAt == nil || restore.StartedAt.After(restore.ParkedAt.Time)
	if m.Reached(v1alpha1.PhaseStopped) && begun {
		stamp(m, v1alpha1.PhaseRestoring, restore.StartedAt.Time)
	}
}
