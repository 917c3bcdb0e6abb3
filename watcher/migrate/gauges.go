package migrate

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// countEvery is how often the gauge of recoveries is set, and countPodsEvery that of
	// pods, of which there may be many.
	countEvery     = 5 * time.Second
	countPodsEvery = 30 * time.Second
	// reportDelay is by how much a Checkpoint may be behind what it tells of: the
	// checkpointers write it at a bounded rate.
	reportDelay = 10 * time.Second
)

// setGauges sets the metrics of what there is, as long as it leads.
func (d *Driver) setGauges(ctx context.Context) error {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	var pods time.Time
	for {
		err := d.countRecoveries(ctx)
		if now := time.Now(); err == nil && now.Sub(pods) >= countPodsEvery {
			pods, err = now, d.countPods(ctx, now)
		}
		if err != nil && ctx.Err() == nil {
			d.Log.Warn("recoveries and pods are not counted", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *Driver) countRecoveries(ctx context.Context) error {
	var migrations v1alpha1.MigrationList
	if err := d.Client.List(ctx, &migrations, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	d.Metrics.Recoveries(countHeld(migrations.Items, false))
	d.Metrics.Moves(countHeld(migrations.Items, true))
	return nil
}

func (d *Driver) countPods(ctx context.Context, now time.Time) error {
	var (
		pods        corev1.PodList
		checkpoints v1alpha1.CheckpointList
	)
	for what, list := range map[string]client.ObjectList{"pods": &pods, "checkpoints": &checkpoints} {
		if err := d.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("list %s: %w", what, err)
		}
	}
	d.Metrics.Unprotected(countUnprotected(pods.Items, checkpoints.Items, now))
	return nil
}

// countHeld counts the open Migrations, the planned ones or the others, and those of
// them that are held by reason.
func countHeld(migrations []v1alpha1.Migration, planned bool) (open int, held map[v1alpha1.HeldReason]int) {
	held = map[v1alpha1.HeldReason]int{}
	for i := range migrations {
		switch m := &migrations[i]; {
		case !m.Open() || m.Planned() != planned || m.Clones():
		case m.Status.Held != nil:
			held[m.Status.Held.Reason]++
		default:
			open++
		}
	}
	return open, held
}

// countUnprotected counts the running pods that opted in and would not be restored, by
// the reason of their Checkpoints' condition.
func countUnprotected(pods []corev1.Pod, checkpoints []v1alpha1.Checkpoint, now time.Time) map[string]int {
	byName := map[client.ObjectKey]*v1alpha1.Checkpoint{}
	for i := range checkpoints {
		byName[client.ObjectKeyFromObject(&checkpoints[i])] = &checkpoints[i]
	}
	count := map[string]int{}
	for i := range pods {
		pod := &pods[i]
		if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
		if err == nil && !protection.Protected {
			continue
		}
		checkpoint := byName[client.ObjectKeyFromObject(pod)]
		if checkpoint != nil && checkpoint.Spec.PodUID != pod.UID {
			checkpoint = nil // an earlier pod's
		}
		if reason := unprotectedBecause(checkpoint, protection, now); reason != "" {
			count[reason]++
		}
	}
	return count
}

// unprotectedBecause says why a pod would not be restored, nothing if it would be. A
// checkpointer that does not run any more cannot report that its checkpoints age.
func unprotectedBecause(checkpoint *v1alpha1.Checkpoint, protection v1alpha1.Protection, now time.Time) string {
	if checkpoint == nil {
		return v1alpha1.ReasonFirstCheckpoint
	}
	s := checkpoint.Status
	condition := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionProtected)
	switch {
	case condition == nil:
		return v1alpha1.ReasonFirstCheckpoint
	case condition.Status != metav1.ConditionTrue:
		return condition.Reason
	case s.TakenAt != nil && now.Sub(s.TakenAt.Time) > 3*protection.Interval+reportDelay:
		return v1alpha1.ReasonCheckpointOutdated
	}
	return ""
}
