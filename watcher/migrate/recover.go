package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// annotationMigrationReason of a Fence is the reason that the Migrations of its pods
// get. It is beside the declaration, for a watcher that takes the lead.
const annotationMigrationReason = "lifeboat.dev/migration-reason"

// recordedFor is how long a pod's loss is not recorded again. A cache is not further
// behind, and a pod that is lost anew was fenced anew, which takes longer.
const recordedFor = 2 * time.Second

// askBeforeFenced is how long before a node can be fenced the holders are asked
// what they have of its pods. It takes none of the recovery's time, and a node
// that still lives without the API has stopped making checkpoints by then.
const askBeforeFenced = time.Second

// prepare asks the holders about the pods of a node that was just declared lost,
// shortly before its wait is over.
func (d *Driver) prepare(ctx context.Context, fence *v1alpha1.Fence) {
	select {
	case <-time.After(d.Terms.Wait() - askBeforeFenced):
	case <-ctx.Done():
		return
	}
	pods, err := d.protectedPods(ctx, fence.Name)
	if err != nil {
		d.Log.Warn("holders not asked before the node is fenced", "node", fence.Name, "error", err)
		return
	}
	fences, err := d.fences(ctx)
	if err != nil {
		d.Log.Warn("holders not asked before the node is fenced", "node", fence.Name, "error", err)
		return
	}
	for i := range pods {
		go d.Holders.Keep(ctx, d.sought(ctx, pods[i].Namespace, pods[i].Name, pods[i].UID), fences)
	}
}

// reconcileFence does what a node's record calls for, however often it is asked: no
// protected pod stays on a fenced node, however it got there, and the pods of a node
// that looks lost and is held have their Migrations. Volumes follow the pods.
func (d *Driver) reconcileFence(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	fence := &v1alpha1.Fence{}
	if err := d.Client.Get(ctx, request.NamespacedName, fence); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if fenced, ok := decide.FencedBy(fence); ok {
		err := d.recoverNode(ctx, fenced)
		again, volumesErr := d.detachVolumes(ctx, fenced)
		return reconcile.Result{RequeueAfter: again}, errors.Join(err, volumesErr)
	}
	d.keepVolumes(ctx, fence.Name, "")
	if held, ok := d.holds.of(fence.Name); ok {
		return reconcile.Result{}, d.holdNode(ctx, fence, held)
	}
	if fence.Spec.State == v1alpha1.FenceRunning {
		again, err := d.readmit(ctx, fence)
		return reconcile.Result{RequeueAfter: again}, err
	}
	return reconcile.Result{}, nil
}

// recoverNode records a Migration for each protected pod of a fenced node, from
// which everything else follows. It may be called again.
func (d *Driver) recoverNode(ctx context.Context, fenced decide.Fenced) error {
	if fenced.Node() == "" {
		return nil
	}
	// It is called at once, and again by the controller of fences, whose cache may not
	// show yet what was recorded.
	lock, _ := d.recovering.LoadOrStore(fenced.Node(), &sync.Mutex{})
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	d.forgetRecorded(time.Now())
	return d.eachPod(ctx, fenced.Node(), func(pod *corev1.Pod) error { return d.recoverPod(ctx, pod, fenced) })
}

// forgetRecorded forgets of what the cache shows the Migrations by now.
func (d *Driver) forgetRecorded(now time.Time) {
	d.recorded.Range(func(pod, at any) bool {
		if now.Sub(at.(time.Time)) >= recordedFor {
			d.recorded.Delete(pod)
		}
		return true
	})
}

// eachPod calls f for each protected pod of a node, some at a time. One pod's trouble
// is not the others'.
func (d *Driver) eachPod(ctx context.Context, node string, f func(*corev1.Pod) error) error {
	pods, err := d.protectedPods(ctx, node)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	errs := make([]error, len(pods))
	slots := make(chan struct{}, podsAtOnce)
	for i := range pods {
		slots <- struct{}{}
		group.Go(func() {
			errs[i] = f(&pods[i])
			<-slots
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// protectedPods are the protected pods of a node that can be had elsewhere.
func (d *Driver) protectedPods(ctx context.Context, node string) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := d.Client.List(ctx, &list, client.MatchingFields{nodeIndex: node}); err != nil {
		return nil, fmt.Errorf("list pods of node %s: %w", node, err)
	}
	var pods []corev1.Pod
	for _, pod := range list.Items {
		if protected(&pod) && movable(&pod) {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// fences are all records as the cache has them: to be read alone.
func (d *Driver) fences(ctx context.Context) ([]v1alpha1.Fence, error) {
	var list v1alpha1.FenceList
	if err := d.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list fences: %w", err)
	}
	return list.Items, nil
}

// loss is what a Migration records of the loss of a pod's node.
type loss struct {
	node   string
	lostAt metav1.MicroTime
	reason v1alpha1.MigrationReason
	// epoch is the one that the node's Fence has from this loss on.
	epoch int64
	// boot is the one that had the permission, where the node is not fenced yet.
	boot string
}

// recoverPod records the Migration of one lost pod, unless there is one already.
// A pod that nobody wants back is only removed.
func (d *Driver) recoverPod(ctx context.Context, pod *corev1.Pod, fenced decide.Fenced) error {
	if !admitted(pod) {
		return d.clearUnadmitted(ctx, pod, fenced)
	}
	waits, err := d.waitsBeside(ctx, pod)
	if err != nil {
		return err
	}
	if waits != nil {
		return d.removeWaiting(ctx, waits, pod, fenced)
	}
	if !wanted(pod, fenced.LostAt()) {
		_, err := d.removePod(ctx, pod, fenced.Node(), reasonOf(fenced))
		return err
	}
	return d.record(ctx, pod, loss{node: fenced.Node(), lostAt: fenced.LostAt(), reason: reasonOf(fenced), epoch: fenced.Epoch()})
}

// record creates the Migration of one pod, unless there is one already.
func (d *Driver) record(ctx context.Context, pod *corev1.Pod, lost loss) error {
	if at, ok := d.recorded.Load(pod.UID); ok && time.Since(at.(time.Time)) < recordedFor {
		return nil
	}
	var known v1alpha1.MigrationList
	if err := d.Client.List(ctx, &known, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list migrations in %s: %w", pod.Namespace, err)
	}
	epoch, err := d.nextEpoch(ctx, pod, known.Items)
	if err != nil {
		return err
	}
	if err := d.readMovesOf(ctx, pod, known.Items); err != nil {
		return err
	}
	for _, m := range known.Items {
		if covers(&m, pod) {
			return nil
		}
	}
	m, err := migrationOf(pod, identityOf(pod, known.Items), lost, epoch)
	if err != nil {
		return err
	}
	d.lineage(ctx, m, pod, known.Items)
	// The cache may not show the Migrations of a moment ago: a name that is taken
	// by another pod's is passed over.
	for {
		err := d.Client.Create(ctx, m)
		if err == nil {
			d.recorded.Store(pod.UID, time.Now())
			d.Log.Info("a pod's loss is recorded", "pod", pod.Namespace+"/"+pod.Name, "node", lost.node, "epoch", m.Spec.Epoch, "reason", lost.reason)
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("record the migration of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		taken := &v1alpha1.Migration{}
		if err := d.Reader.Get(ctx, client.ObjectKeyFromObject(m), taken); err != nil {
			return fmt.Errorf("read migration %s/%s: %w", m.Namespace, m.Name, err)
		}
		if covers(taken, pod) {
			return nil
		}
		m.Spec.Epoch++
		m.Name = v1alpha1.MigrationName(pod.Name, m.Spec.Epoch)
	}
}

// covers says whether a Migration already sees to the recovery of a lost pod. One
// that was closed because the node came back first does not: the pod went on
// there, and is lost anew.
func covers(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	_, deleted := m.PhaseAt(v1alpha1.PhaseDeleted)
	if m.Planned() {
		return m.LostPod() == pod.UID && (deleted || m.Open() && outlives(m))
	}
	return m.LostPod() == pod.UID && (m.Open() || deleted)
}

// reasonOf is why the pods of a fenced node move: what makes it sure that they run no
// more where that says it, else what was known of the node when it was declared lost.
func reasonOf(fenced decide.Fenced) v1alpha1.MigrationReason {
	switch fenced.Proof() {
	case v1alpha1.ProofOutOfService:
		return v1alpha1.MigrationNodeOutOfService
	case v1alpha1.ProofRebooted:
		return v1alpha1.MigrationNodeRebooted
	}
	known := []v1alpha1.MigrationReason{
		v1alpha1.MigrationNodeOutOfService, v1alpha1.MigrationNodeRebooted, v1alpha1.MigrationSpotInterruption,
		v1alpha1.MigrationNodeShutdown, v1alpha1.MigrationNodeDrained, v1alpha1.MigrationNodePressure,
	}
	if reason := v1alpha1.MigrationReason(fenced.Annotation(annotationMigrationReason)); slices.Contains(known, reason) {
		return reason
	}
	return v1alpha1.MigrationNodeLost
}

func migrationOf(pod *corev1.Pod, id v1alpha1.PodIdentity, lost loss, epoch int64) (*v1alpha1.Migration, error) {
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.MigrationName(pod.Name, epoch), Namespace: pod.Namespace},
		Spec: v1alpha1.MigrationSpec{
			Pod: id, SourceNode: lost.node, Epoch: epoch, FenceEpoch: lost.epoch, LostAt: lost.lostAt,
			Strategy: v1alpha1.StrategyFailover, Reason: lost.reason,
		},
	}
	if lost.boot != "" {
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, annotationBoot, lost.boot)
	}
	if m.Spec.Pod.OwnerUID == "" {
		manifest, err := manifestOf(pod)
		if err != nil {
			return nil, err
		}
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, annotationManifest, manifest)
	}
	return m, nil
}

// fenceOf reads the record of a Migration's node; one that does not exist is empty.
func (d *Driver) fenceOf(ctx context.Context, m *v1alpha1.Migration, reader client.Reader) (*v1alpha1.Fence, error) {
	fence := &v1alpha1.Fence{}
	if err := reader.Get(ctx, client.ObjectKey{Name: m.Spec.SourceNode}, fence); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read fence %s: %w", m.Spec.SourceNode, err)
	}
	return fence, nil
}

// sought is a pod whose generations are looked for, with what was last reported of them.
func (d *Driver) sought(ctx context.Context, namespace, name string, uid types.UID) Sought {
	s := Sought{Namespace: namespace, Pod: uid}
	checkpoint := &v1alpha1.Checkpoint{}
	// Without it every node is waited for.
	if err := d.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, checkpoint); err == nil && checkpoint.Spec.PodUID == uid {
		s.Generation, s.Nodes = checkpoint.Status.Generation, checkpoint.Status.Holders
	}
	return s
}

// nextEpoch is one more than any epoch that a pod of this name ran in.
func (d *Driver) nextEpoch(ctx context.Context, pod *corev1.Pod, known []v1alpha1.Migration) (int64, error) {
	checkpoint := &v1alpha1.Checkpoint{}
	if err := d.Client.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint); client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("read checkpoint %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return v1alpha1.NextEpoch(pod, checkpoint, known), nil
}

// lineage makes a Migration restore the checkpoint of the lost pod's predecessor
// where the lost pod was itself a successor and has made no checkpoint of its
// own: its node was lost before. What it came back from is then still the newest
// state. That holds while its own Migration is open, or when it was Restored; a
// pod that started cold began anew.
func (d *Driver) lineage(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, known []v1alpha1.Migration) {
	for _, before := range known {
		if !before.ClaimedBy(pod.UID) || !before.Open() && before.Status.Result != v1alpha1.ResultRestored ||
			before.Planned() && !move.Stateful(before.Spec.Strategy) {
			continue
		}
		fences, err := d.fences(ctx)
		if err != nil || d.Holders.Newest(ctx, d.sought(ctx, pod.Namespace, pod.Name, pod.UID), fences) != nil {
			return
		}
		m.Spec.Pod.UID = before.Spec.Pod.UID
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, v1alpha1.AnnotationLostPod, string(pod.UID))
		return
	}
}
