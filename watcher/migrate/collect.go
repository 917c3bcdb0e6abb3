package migrate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

const (
	// collectEvery is how often records are looked for that nobody needs any more.
	collectEvery = 10 * time.Minute
	// keepMigrations of each pod are kept however old they are, and all that are
	// younger than keepMigrationsFor.
	keepMigrations    = 10
	keepMigrationsFor = 7 * 24 * time.Hour
	// keepFenceFor is how long the record of a node is kept after its Node object was
	// deleted: a node that only registers anew finds it.
	keepFenceFor = time.Hour
)

// collect removes records that nobody needs any more, as long as it leads.
func (d *Driver) collect(ctx context.Context) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	gone := map[string]time.Time{}
	for {
		if err := d.collectMigrations(ctx, time.Now()); err != nil && ctx.Err() == nil {
			d.Log.Warn("old migrations are not removed", "error", err)
		}
		if err := d.collectFences(ctx, gone, time.Now()); err != nil && ctx.Err() == nil {
			d.Log.Warn("fence records of deleted nodes are not removed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *Driver) collectMigrations(ctx context.Context, now time.Time) error {
	var (
		migrations v1alpha1.MigrationList
		pods       corev1.PodList
	)
	if err := d.Client.List(ctx, &migrations); err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	if err := d.Client.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	exists := map[types.UID]bool{}
	for i := range pods.Items {
		exists[pods.Items[i].UID] = true
	}
	for _, m := range removable(migrations.Items, exists, now) {
		d.Events.Eventf(m, nil, corev1.EventTypeNormal, "Removed", "Collect", "The migration was closed as %s and is older than %s.", m.Status.Result, keepMigrationsFor)
		if err := d.Client.Delete(ctx, m, exactly(m)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("remove migration %s/%s: %w", m.Namespace, m.Name, err)
		}
		d.told.Delete(m.UID)
		d.Metrics.Collected("Migration")
	}
	return nil
}

// exactly makes a deletion fail when the object has changed since it was read.
func exactly(object client.Object) client.Preconditions {
	uid, version := object.GetUID(), object.GetResourceVersion()
	return client.Preconditions{UID: &uid, ResourceVersion: &version}
}

// removable are the closed Migrations that are old, and not among the newest of their
// pod. One whose successor still runs says in which epoch that runs, and stays.
func removable(migrations []v1alpha1.Migration, exists map[types.UID]bool, now time.Time) []*v1alpha1.Migration {
	byPod := map[string][]*v1alpha1.Migration{}
	for i := range migrations {
		m := &migrations[i]
		byPod[line(m)] = append(byPod[line(m)], m)
	}
	var old []*v1alpha1.Migration
	for _, all := range byPod {
		slices.SortFunc(all, func(a, b *v1alpha1.Migration) int {
			return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(b.Spec.Epoch, a.Spec.Epoch))
		})
		for i, m := range all {
			runs := m.Status.Claim != nil && exists[m.Status.Claim.PodUID]
			if i >= keepMigrations && !m.Open() && !runs && now.Sub(m.CreationTimestamp.Time) > keepMigrationsFor {
				old = append(old, m)
			}
		}
	}
	return old
}

// line is what the Migrations of one pod and its successors have in common. The pods
// of most controllers get another name each time.
func line(m *v1alpha1.Migration) string {
	pod := m.Spec.Pod
	if pod.OwnerUID == "" || pod.OwnerKind == "StatefulSet" {
		return m.Namespace + "/" + pod.Name
	}
	return m.Namespace + "/" + pod.OwnerKind + "/" + pod.OwnerName
}

// collectFences removes the records of nodes whose Node objects are gone for long.
// Gone has since when each of them is.
func (d *Driver) collectFences(ctx context.Context, gone map[string]time.Time, now time.Time) error {
	var (
		fences     v1alpha1.FenceList
		migrations v1alpha1.MigrationList
	)
	if err := d.Client.List(ctx, &fences); err != nil {
		return fmt.Errorf("list fences: %w", err)
	}
	if err := d.Client.List(ctx, &migrations); err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	waits := map[string]bool{}
	for i := range migrations.Items {
		if m := &migrations.Items[i]; m.Open() {
			waits[m.Spec.SourceNode] = true
		}
	}
	known := map[string]bool{}
	for i := range fences.Items {
		fence := &fences.Items[i]
		known[fence.Name] = true
		pods, err := d.protectedPods(ctx, fence.Name)
		if err != nil {
			return err
		}
		fact, ok := d.nodes.fact(fence.Name, now)
		if !ok || fact.State != detect.Gone || waits[fence.Name] || len(pods) > 0 {
			delete(gone, fence.Name)
			continue
		}
		since, before := gone[fence.Name]
		if !before {
			gone[fence.Name] = now
			continue
		}
		if now.Sub(since) < keepFenceFor {
			continue
		}
		d.Events.Eventf(fence, nil, corev1.EventTypeNormal, "Removed", "Collect", "The node was deleted more than %s ago, and none of its pods waits.", keepFenceFor)
		if err := d.Client.Delete(ctx, fence, exactly(fence)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("remove fence %s: %w", fence.Name, err)
		}
		d.Log.Info("fence record of a deleted node removed", "node", fence.Name, "since", metav1.NewTime(since))
		delete(gone, fence.Name)
		d.Metrics.Collected("Fence")
	}
	for name := range gone {
		if !known[name] {
			delete(gone, name)
		}
	}
	return nil
}
