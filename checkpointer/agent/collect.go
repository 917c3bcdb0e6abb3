package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	retainEvery = 15 * time.Second
	orphanEvery = 10 * time.Minute
	// orphanAge is how old the newest generation of a pod that is gone must be
	// before its data is removed.
	orphanAge = time.Hour
	// shortEvery and shortAge are the same where the disk is short: kubelet ends pods
	// before it lets a disk fill up.
	shortEvery = time.Minute
	shortAge   = time.Minute
	// shortShare is the share of the store's disk below which, when no more than that is
	// free, it is short. Kubelet's own threshold is 15 % for images and 10 % for the rest.
	shortShare = 0.2
)

// inNamespace limits a list to a namespace.
func inNamespace(namespace string) ctrlclient.ListOption { return ctrlclient.InNamespace(namespace) }

// runCollection drops what the store need not keep: generations beyond those
// that are retained, of the node's own pods and of those it holds copies of,
// and everything of pods that are gone for good.
func (a *Agent) runCollection(ctx context.Context) error {
	retain, orphans, short := time.NewTicker(retainEvery), time.NewTicker(orphanEvery), time.NewTicker(shortEvery)
	defer retain.Stop()
	defer orphans.Stop()
	defer short.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-retain.C:
			a.expireRestores()
			if err := a.confirmed.keep(a.isHere); err != nil {
				a.log.Warn("forget the pods that have left the node", "err", err)
			}
			if err := a.retainAll(ctx); err != nil {
				a.log.Warn("drop old generations", "err", err)
			}
		case <-short.C:
			if diskShort(a.cfg.StoreDir) {
				a.tidy(ctx, true)
			}
		case <-orphans.C:
			a.tidy(ctx, false)
		}
	}
}

func (a *Agent) tidy(ctx context.Context, early bool) {
	if err := a.removeOrphans(ctx, early); err != nil {
		a.log.Warn("remove the checkpoints of pods that are gone", "err", err)
	}
}

// diskShort says whether little of the disk that a folder is on is free.
func diskShort(folder string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(folder, &stat) == nil && float64(stat.Bavail) < shortShare*float64(stat.Blocks)
}

const (
	// scrubEvery is the time between two readings of the whole store, and
	// scrubRate how many bytes are read in a second.
	scrubEvery = 6 * time.Hour
	scrubRate  = 16 << 20
)

// runScrub reads the store back, slowly: damage is found while other copies are
// there, and not when a pod waits for them.
func (a *Agent) runScrub(ctx context.Context) error {
	a.store.Scrub(ctx, scrubEvery, scrubRate, func(c store.Checked) {
		a.log.Error("stored generation is not whole; it is not used", "pod", c.Key.String(), "generation", c.Number, "err", c.Err)
		a.metrics.damaged.WithLabelValues(c.Key.Namespace).Inc()
	})
	return ctx.Err()
}

func (a *Agent) retainAll(ctx context.Context) error {
	keys, err := a.store.Pods()
	if err != nil {
		return fmt.Errorf("list the store's pods: %w", err)
	}
	cloned, err := a.cloned(ctx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if isState(key) {
			if err := a.dropState(ctx, key); err != nil {
				return fmt.Errorf("state %s in namespace %s: %w", key.PodUID, key.Namespace, err)
			}
			continue
		}
		if a.restoring(key.PodUID) {
			continue
		}
		retain := a.cfg.Retain
		retain.Also = cloned[key.PodUID]
		if err := a.store.Retain(key, retain); err != nil {
			return fmt.Errorf("pod %s in namespace %s: %w", key.PodUID, key.Namespace, err)
		}
	}
	return nil
}

// cloned are the generations that open Migrations make clones from, by the UIDs of the pods
// that they are of: they stay meanwhile, on every node that holds them.
func (a *Agent) cloned(ctx context.Context) (map[string][]int64, error) {
	var migrations v1alpha1.MigrationList
	if err := a.cache.List(ctx, &migrations); err != nil {
		return nil, fmt.Errorf("look for clones that are being started: %w", err)
	}
	cloned := map[string][]int64{}
	for i := range migrations.Items {
		if m := &migrations.Items[i]; m.Clones() && m.Open() && m.Spec.Clone.Generation != 0 {
			cloned[string(m.Memory())] = append(cloned[string(m.Memory())], m.Spec.Clone.Generation)
		}
	}
	return cloned, nil
}

// removeOrphans removes the data of pods that no longer exist, that no open
// Migration is about, and whose newest generation is older than orphanAge. Early
// it is older than shortAge, and what no Migration could bring back stays.
func (a *Agent) removeOrphans(ctx context.Context, early bool) error {
	age := orphanAge
	if early {
		age = shortAge
	}
	keys, err := a.store.Pods()
	if err != nil {
		return fmt.Errorf("list the store's pods: %w", err)
	}
	byNamespace := map[string][]store.Key{}
	for _, key := range keys {
		byNamespace[key.Namespace] = append(byNamespace[key.Namespace], key)
	}
	for namespace, keys := range byNamespace {
		wanted, err := a.wantedPods(ctx, namespace, early)
		if err != nil {
			return err
		}
		for _, key := range keys {
			held, err := a.store.List(key)
			if err != nil {
				return fmt.Errorf("list generations: %w", err)
			}
			if wanted[key.PodUID] || (len(held) > 0 && time.Since(held[0].TakenAt) < age) {
				continue
			}
			a.log.Info("remove the checkpoints of a pod that is gone", "pod", key.Namespace+"/"+key.PodUID)
			if a.bucket != nil {
				if err := a.bucket.Remove(ctx, key); err != nil {
					return fmt.Errorf("remove pod %s from the bucket: %w", key.PodUID, err)
				}
			}
			if err := a.store.Remove(key); errors.Is(err, store.ErrInUse) {
				continue // being read or received: later
			} else if err != nil {
				return fmt.Errorf("remove pod %s: %w", key.PodUID, err)
			}
		}
	}
	return nil
}

// wantedPods are the UIDs of the pods in a namespace whose data must stay, early with
// those whose state was not brought back.
func (a *Agent) wantedPods(ctx context.Context, namespace string, early bool) (map[string]bool, error) {
	wanted := map[string]bool{}
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	if err := a.api.List(ctx, pods, inNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list the pods of namespace %s: %w", namespace, err)
	}
	for _, pod := range pods.Items {
		wanted[string(pod.UID)] = true
	}
	var migrations v1alpha1.MigrationList
	if err := a.api.List(ctx, &migrations, inNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list the migrations of namespace %s: %w", namespace, err)
	}
	for _, m := range migrations.Items {
		failed := m.Status.Result == v1alpha1.ResultFailed || m.Status.Result == v1alpha1.ResultColdStarted
		if m.Open() || early && failed {
			wanted[string(m.Memory())] = true
			wanted[string(m.StateUID())] = m.Open()
		}
	}
	return wanted, nil
}
