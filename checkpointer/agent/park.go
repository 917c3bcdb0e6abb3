package agent

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

const (
	// parkTime is how long a container may wait for its source to stop. kubelet gives
	// the runtime's create two minutes, and asks again for one that was refused.
	parkTime = 85 * time.Second
	// prefetchTime bounds how long a pod that is to wait brings over what its source has
	// prepared, before it tells that it waits.
	prefetchTime = 30 * time.Second
	// lookAgainEvery is how often the Migration is looked at when nothing has changed.
	lookAgainEvery = time.Second
)

// park has a container wait until its source has stopped, and returns the Migration as
// the API has it then, or why the container must not be created now. gone is closed
// when nobody waits for the answer any more.
func (a *Agent) park(ctx context.Context, r *restore, m *v1alpha1.Migration, pod *corev1.Pod, req client.CreateRequest, gone <-chan struct{}) (_ *v1alpha1.Migration, refused string) {
	c := req.Container
	log := a.log.With("pod", c.Namespace+"/"+c.PodName, "container", c.Name, "migration", m.Name)
	until := time.After(parkTime)
	// While it waits the pod must not start by itself, whoever else is gone.
	if err := a.confirmed.withhold(c.PodUID); err != nil {
		return nil, fmt.Sprintf("note down that it waits: %v", err)
	}
	a.prefetch(ctx, r, m)
	status := r.parks(m)
	log.Info("container waits until its pod's predecessor is stopped", "source", m.Spec.SourceNode)
	for {
		changed := a.changes.wait()
		current := a.cachedMigration(ctx, m)
		switch {
		case current == nil || !current.Open(), current.Status.Reason != "" && !current.SourceStopped():
			return nil, fmt.Sprintf("migration %s, by which its pod was to take the place of pod %s, was given up", m.Name, m.Spec.Pod.Name)
		case current.Status.Source != nil && current.Status.Source.Error != "":
			return nil, fmt.Sprintf("pod %s, whose place it was to take, runs on: %s", m.Spec.Pod.Name, current.Status.Source.Error)
		case a.deleted(ctx, pod):
			return nil, "its pod was deleted while it waited"
		case current.SourceStopped():
			m, refused := a.claimed(ctx, c, pod)
			switch {
			case refused != "":
				return nil, refused
			case m == nil:
				return nil, "its pod's claim was taken back while it waited"
			case !parks(m):
				return m, ""
			}
		default:
			a.hold(ctx, r, current, pod, req)
			a.tellParked(ctx, r, m, current, status)
		}
		select {
		case <-changed:
		case <-time.After(lookAgainEvery):
		case <-gone:
			return nil, "the runtime does not wait any more"
		case <-until:
			return nil, fmt.Sprintf("it waited %s until its pod's predecessor on node %s is stopped, and is to be asked for again", parkTime, m.Spec.SourceNode)
		case <-ctx.Done():
			return nil, "the checkpointer is ending"
		}
	}
}

// parks begins the wait of a pod, or goes on with it, and returns what is to be told.
func (r *restore) parks(m *v1alpha1.Migration) v1alpha1.RestoreStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	if parked(m) { // perhaps with an earlier checkpointer
		r.status.ParkedAt = m.Status.Restore.ParkedAt
		r.status.Attempts = max(r.status.Attempts, m.Status.Restore.Attempts)
	}
	if r.status.ParkedAt == nil {
		now := metav1.NewMicroTime(time.Now())
		r.status.ParkedAt = &now
	}
	r.status.StartedAt = *r.status.ParkedAt
	return *r.status.DeepCopy()
}

// unpark begins the restore of a pod that has waited.
func (r *restore) unpark(m *v1alpha1.Migration, answerBy time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.migration, r.status.StartedAt, r.answerBy = m, metav1.NewMicroTime(time.Now()), answerBy
}

// refusedParked tells that a container which has waited was refused: kubelet makes
// another one, and counts that as a restart.
func (a *Agent) refusedParked(ctx context.Context, r *restore, m *v1alpha1.Migration) {
	r.mu.Lock()
	r.status.Attempts = max(r.status.Attempts, 1) + 1
	status := *r.status.DeepCopy()
	r.mu.Unlock()
	if current := a.cachedMigration(ctx, m); current != nil && current.Open() {
		a.reportRestore(ctx, m, status)
	}
}

// withholdParked makes sure that a pod which waits, or was to, does not start by itself
// while nobody is there to be asked.
func (a *Agent) withholdParked(ctx context.Context, c client.Container) error {
	var known v1alpha1.MigrationList
	if err := a.cache.List(ctx, &known, inNamespace(c.Namespace)); err != nil {
		return fmt.Errorf("look for the migration of its pod: %w", err)
	}
	if m := findClaim(known.Items, c.PodUID, a.cfg.NodeName); m != nil && parks(m) || withdrawn(known.Items, c.PodUID) != "" {
		return a.confirmed.withhold(c.PodUID)
	}
	return nil
}

// deleted says whether a pod of this node is gone, or going.
func (a *Agent) deleted(ctx context.Context, pod *corev1.Pod) bool {
	current := a.podHere(ctx, pod.Namespace, pod.Name, pod.UID)
	return current == nil || current.DeletionTimestamp != nil
}

// prefetch copies what the source has prepared into the own store, so that the last
// generation lacks little. Without it that takes longer, and no more.
func (a *Agent) prefetch(ctx context.Context, r *restore, m *v1alpha1.Migration) {
	if m.Status.Source == nil || m.Status.Source.PreparedGeneration == 0 || a.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, prefetchTime)
	defer cancel()
	stop := a.endWithMigration(ctx, m, cancel)
	defer stop()
	number := m.Status.Source.PreparedGeneration
	if a.store.Complete(ctx, r.key, number) == nil {
		return
	}
	for _, holder := range a.holders(ctx) {
		if holder.Name() != m.Spec.SourceNode {
			continue
		}
		began := time.Now()
		err := holder.Fetch(ctx, r.key, number)
		a.log.Info("prepared generation was copied here", "pod", r.key.String(), "generation", number, "took", time.Since(began), "err", err)
	}
}

// endWithMigration calls cancel as soon as the source of a Migration has stopped, or
// the Migration is closed. The returned function ends that.
func (a *Agent) endWithMigration(ctx context.Context, m *v1alpha1.Migration, cancel context.CancelFunc) (stop func()) {
	ended := make(chan struct{})
	go func() {
		for {
			changed := a.changes.wait()
			if current := a.cachedMigration(ctx, m); current == nil || !current.Open() || current.SourceStopped() {
				cancel()
				return
			}
			select {
			case <-ended:
				return
			case <-changed:
			}
		}
	}()
	return func() { close(ended) }
}
