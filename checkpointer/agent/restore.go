package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// heldTimeout bounds the question to one peer which generations it holds.
	heldTimeout = 700 * time.Millisecond
	// prepareTimeout bounds bringing a generation into place. The kubelet gives
	// the runtime's create two minutes.
	prepareTimeout = 80 * time.Second
	// answerTime is how long the runtime waits for an answer, but for a moment.
	answerTime = 105 * time.Second
)

// restore is the restore of one pod on this node: one generation for all of its
// containers.
type restore struct {
	mu        sync.Mutex
	migration *v1alpha1.Migration
	// written is the Migration as it was when its restore began, nil where that was not told.
	written *v1alpha1.Migration
	key     store.Key // of the pod whose generations are restored
	// prepared is whether dir holds the generation's files, or failure says why not.
	prepared bool
	dir      string
	opened   *opened
	failure  *refusal
	// spoiled are generations that turned out to be damaged, and how.
	spoiled map[int64]string
	// status is what the Migration is told.
	status v1alpha1.RestoreStatus
	asked  map[string]bool
	// expected is how many containers will ask; 0 where that is not known.
	expected int
	// filling are the containers whose memory is being filled in.
	filling map[string]*filling
	// guest is the pod's former address, nil where connections are closed.
	guest *guestNote
	// answerBy is when the runtime must have its answer, where that is sooner than usual.
	answerBy time.Time
}

// restoring says whether a pod's restore needs generations of the pod with the
// given UID.
func (a *Agent) restoring(podUID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.restores {
		if string(r.migration.Memory()) == podUID {
			return true
		}
	}
	return false
}

// draining says whether pages of a restored pod are still being filled in. Such
// a pod is not checkpointed: its missing pages would be missing in the dump.
func (a *Agent) draining(podUID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, busy := a.restores[podUID]
	return busy
}

// create answers how a container is to be created. Every failure is an answer
// too: the container starts anew, with the reason.
// gone is closed when nobody waits for the answer any more.
func (a *Agent) create(ctx context.Context, req client.CreateRequest, gone <-chan struct{}) client.CreateResponse {
	began := time.Now()
	log := a.log.With("pod", req.Namespace+"/"+req.PodName, "container", req.Name)
	refuse := func(why string) client.CreateResponse {
		log.Warn("container is refused", "reason", why)
		a.metrics.refused.WithLabelValues(req.Namespace).Inc()
		return client.CreateResponse{Refuse: why}
	}
	if why := a.awaitPermission(ctx, req.Epoch); why != "" {
		return refuse(why)
	}
	if a.stops.committed(req.PodUID) {
		return refuse("its pod was stopped here for good, and goes on elsewhere")
	}
	if err := a.withholdParked(ctx, req.Container); err != nil {
		return refuse(err.Error())
	}
	pod, why := a.owned(ctx, req.Container, req.Epoch)
	if why != "" {
		return refuse(why)
	}
	if pod != nil && pod.DeletionTimestamp != nil {
		return refuse("its pod is being deleted") // another pod may have its state by now
	}
	var lasting []string
	if pod != nil {
		lasting = v1alpha1.LastingContainers(pod)
		if !slices.Contains(lasting, req.Name) {
			if why := a.stopping(ctx, req.Container); why != "" {
				return refuse(why) // an ephemeral container would not be stopped with the others
			}
			return client.CreateResponse{} // an init container runs again, before what is restored
		}
	}
	m, why := a.claimed(ctx, req.Container, pod)
	if why != "" {
		return refuse(why)
	}
	if m == nil {
		a.confirmRestored(pod, req)
		return client.CreateResponse{}
	}
	r := a.restoreOf(req.PodUID, m, len(lasting))
	if parks(m) {
		if pod == nil {
			return refuse("the API does not say whether its pod is to wait")
		}
		claim := m
		if m, why = a.park(ctx, r, m, pod, req, gone); why == "" {
			why = a.awaitPermission(ctx, req.Epoch) // it may have run out meanwhile
		}
		select {
		case <-gone: // a container is restored once: not for nobody
			why = cmp.Or(why, "the runtime does not wait any more")
		default:
		}
		if why != "" {
			a.refusedParked(ctx, r, claim)
			return refuse(why)
		}
		a.confirmed.allow(req.PodUID)
		r.unpark(m, began.Add(answerTime))
		a.mu.Lock()
		a.restores[req.PodUID] = r // it may have expired while it waited
		a.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked[req.Name] || consumed(m, req.Name) {
		if m.Clones() {
			return refuse(fmt.Sprintf("its pod is a clone, its restore is over, and migration %s does not tell yet what came of it", m.Name))
		}
		return client.CreateResponse{}
	}
	r.asked[req.Name] = true
	if !r.prepared {
		a.prepare(ctx, r, req, pod)
		r.prepared = true
	}
	if r.failure == nil {
		if why := specChanged(r.dir, req, r.opened.generation()); why != nil {
			r.failure = why
		}
	}
	if r.failure != nil {
		return a.fail(ctx, r, req, r.failure)
	}
	a.admitGuest(ctx, r, req)
	committed := make(chan struct{})
	status := *r.status.DeepCopy()
	go func() { // the files need not wait for the API
		defer close(committed)
		status.CommittedAt, why = a.commitRestore(ctx, cmp.Or(r.written, m), status)
	}()
	resp, err := a.place(ctx, r, req, pod)
	<-committed
	if why != "" {
		a.abandon(req, r)
		return refuse(why)
	}
	r.status.CommittedAt = status.CommittedAt
	if err != nil {
		return a.fail(ctx, r, req, &refusal{v1alpha1.ReasonRestoreFailed, err.Error()})
	}
	resp.OrNothing = m.Clones()
	log.Info("container is being restored", "generation", resp.Generation, "lazy", resp.Lazy)
	return resp
}

// restoreOf returns the restore of a pod, which it begins if need be.
func (a *Agent) restoreOf(podUID string, m *v1alpha1.Migration, expected int) *restore {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.restores[podUID]
	if !ok {
		r = &restore{
			migration: m, key: store.Key{Namespace: m.Namespace, PodUID: string(m.Memory())}, expected: expected,
			asked: map[string]bool{}, spoiled: map[int64]string{}, filling: map[string]*filling{},
			status: v1alpha1.RestoreStatus{PodUID: m.Status.Claim.PodUID, StartedAt: metav1.NewMicroTime(time.Now())},
		}
		a.restores[podUID] = r
	}
	return r
}

// prepare brings the newest generation that is whole into place. Those that are
// damaged are passed over, and named. Pod is the one that is restored, nil where the API
// has not said.
func (a *Agent) prepare(ctx context.Context, r *restore, req client.CreateRequest, pod *corev1.Pod) {
	ctx, cancel := context.WithTimeout(ctx, r.prepareTime(time.Now()))
	defer cancel()
	started := r.status.DeepCopy()
	reported := make(chan struct{})
	go func() { // the images need not wait for the API
		defer close(reported)
		if now, err := a.patchRestore(ctx, r.migration, *started); err == nil {
			r.written = now
		} else {
			a.log.Error("report that a restore begins", "migration", r.migration.Namespace+"/"+r.migration.Name, "err", err)
		}
	}()
	defer func() { <-reported }()

	dir := filepath.Join(restoreFolder, req.PodUID)
	var newest error
	tried, damaged := map[int64]bool{}, map[int64]bool{}
	for _, search := range a.searches(r, pod) {
		if damaged[search.again] {
			continue // it will not get better
		}
		for _, c := range search.find(ctx) {
			if why, spoiled := r.spoiled[c.generation.Number]; spoiled {
				newest, tried[c.generation.Number], damaged[c.generation.Number] = cmp.Or(newest, errors.New(why)), true, true
				continue
			}
			opened, err := a.open(ctx, r.key, c, a.drafts.take(r.migration.UID), dir)
			if err == nil {
				takenAt := metav1.NewMicroTime(opened.generation().TakenAt)
				r.dir, r.opened = dir, opened
				r.status.Generation, r.status.TakenAt = c.generation.Number, &takenAt
				return
			}
			newest = cmp.Or(newest, err)
			var damage *store.Damaged
			damaged[c.generation.Number] = errors.As(err, &damage)
			a.log.Warn("generation passed over", "pod", req.Namespace+"/"+req.PodName, "generation", c.generation.Number, "err", err)
			if tried[c.generation.Number] {
				continue
			}
			tried[c.generation.Number] = true
			r.status.Skipped = append(r.status.Skipped, v1alpha1.SkippedGeneration{Generation: c.generation.Number, Reason: err.Error()})
		}
	}
	switch {
	case pod != nil && keepsVolumes(pod) && !r.migration.Planned():
		r.failure = &refusal{v1alpha1.ReasonWritableVolumes, "the pod has a volume that is writable and outlives it: older memory must not meet newer files"}
	case len(tried) == 0 && r.migration.Clones() && r.migration.Spec.Clone.Generation != 0:
		r.failure = &refusal{v1alpha1.ReasonNoCheckpoint, fmt.Sprintf("no node that is alive holds generation %d of the pod", r.migration.Spec.Clone.Generation)}
	case len(tried) == 0:
		r.failure = &refusal{v1alpha1.ReasonNoCheckpoint, "no node that is alive holds a generation of the pod"}
	default:
		r.failure = &refusal{v1alpha1.ReasonCheckpointDamaged, fmt.Sprintf("none of the %d held generations could be used; the newest: %v", len(tried), newest)}
	}
}

// place applies file changes to the container's bundle and readies what runc
// needs to restore it.
func (a *Agent) place(ctx context.Context, r *restore, req client.CreateRequest, pod *corev1.Pod) (client.CreateResponse, error) {
	if pod == nil { // the API did not answer when the container was asked for
		pod = &corev1.Pod{}
		key := ctrlclient.ObjectKey{Namespace: req.Namespace, Name: req.PodName}
		if err := a.cache.Get(ctx, key, pod); err != nil || string(pod.UID) != req.PodUID {
			if err := a.api.Get(ctx, key, pod); err != nil {
				return client.CreateResponse{}, fmt.Errorf("get pod %s: %w", key, err)
			}
		}
	}
	dirs := emptyDirs(pod)
	shm := filepath.Join(containerdSandboxs, req.SandboxID, "shm")
	if len(r.filling) > 0 || len(r.status.Containers) > 0 {
		dirs, shm = nil, "" // they are the pod's: its first container has brought them
	}
	if err := a.engine.ApplyFiles(ctx, r.dir, req.Name, filepath.Join(req.Bundle, "rootfs"), dirs, shm); err != nil {
		return client.CreateResponse{}, fmt.Errorf("apply file changes: %w", err)
	}
	images := filepath.Join(r.dir, req.Name, criu.ImagesDir)
	work := filepath.Join(r.dir, req.Name, "work")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return client.CreateResponse{}, fmt.Errorf("make CRIU's work folder: %w", err)
	}
	config := filepath.Join(work, "restore.conf")
	if err := a.engine.PrepareRestore(ctx, r.dir, req.Name, config, r.keepsConnections()); err != nil {
		return client.CreateResponse{}, err
	}
	filling, err := a.fill(ctx, r, req.Container, work)
	if err != nil {
		return client.CreateResponse{}, errors.Join(err, a.engine.CleanRestore(r.dir, req.Name))
	}
	r.filling[req.Name] = filling
	return client.CreateResponse{
		Restore: true, ImagesPath: images, WorkPath: work, ConfigPath: config, Lazy: true, Generation: r.opened.generation().Number,
		IPC: a.imagedIPC(images, req.Container),
	}, nil
}

// reported ends a container's restore as the runtime tells it.
func (a *Agent) reported(ctx context.Context, req client.ReportRequest) {
	a.mu.Lock()
	r, ok := a.restores[req.PodUID]
	a.mu.Unlock()
	if !ok {
		a.log.Error("report for a restore that is not under way", "pod", req.Namespace+"/"+req.PodName, "container", req.Name)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := a.engine.CleanRestore(r.dir, req.Name); err != nil {
		a.log.Warn("clean up after the restore", "container", req.Name, "err", err)
	}
	filling := r.filling[req.Name]
	entry := v1alpha1.ContainerRestore{Name: req.Name, Result: v1alpha1.ResultRestored, Seconds: req.Seconds, Lazy: true, Filling: filling != nil}
	if !req.Restored {
		a.history.failed(time.Now(), v1alpha1.ReasonRestoreFailed)
		entry = v1alpha1.ContainerRestore{
			Name: req.Name, Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonRestoreFailed,
			Message: req.Message, Seconds: req.Seconds,
		}
		if r.migration.Clones() {
			entry.Result = v1alpha1.ResultFailed
		}
		if filling != nil {
			filling.stop()
			delete(r.filling, req.Name)
		}
	}
	a.metrics.restores.WithLabelValues(req.Namespace, string(entry.Result), entry.Reason).Inc()
	if a.finish(ctx, req.PodUID, r, entry) {
		if pod := a.podHere(ctx, req.Namespace, req.PodName, types.UID(req.PodUID)); pod != nil {
			go a.postRestore(context.WithoutCancel(ctx), r, pod)
		}
	}
	if filling := r.filling[req.Name]; filling != nil {
		go a.await(context.WithoutCancel(ctx), r, filling)
	}
}

// finish records how one container's restore ended, and returns whether that was the
// last one and all have come back. r.mu is held.
func (a *Agent) finish(ctx context.Context, podUID string, r *restore, entry v1alpha1.ContainerRestore) (complete bool) {
	r.status.Containers = append(r.status.Containers, entry)
	complete = r.complete()
	switch {
	case complete:
		a.openGuest(r)
		a.connections.release(podUID)
	case entry.Result != v1alpha1.ResultRestored: // it begins anew: who waited does so, too
		a.dismissGuest(r, "the pod did not come back as a whole")
		a.connections.set(podUID, nil)
		r.status.Holding = nil
	}
	a.reportRestore(ctx, r.migration, *r.status.DeepCopy())
	if len(r.filling) == 0 {
		a.forget(podUID, r)
	}
	return complete
}

// forget ends a pod's restore: its images are no longer needed. r.mu is held.
func (a *Agent) forget(podUID string, r *restore) {
	captured := 0
	if r.opened != nil {
		captured = len(r.opened.generation().Containers)
	}
	if len(r.asked) < max(r.expected, captured) {
		return // a further container of the pod has yet to be created
	}
	a.discard(podUID, r)
}

// discard removes a pod's restore and its images. r.mu is held.
func (a *Agent) discard(podUID string, r *restore) {
	a.mu.Lock()
	if a.restores[podUID] == r {
		delete(a.restores, podUID)
	}
	a.mu.Unlock()
	r.close(a.log)
}

// close lets go of the generation. r.mu is held.
func (r *restore) close(log *slog.Logger) {
	if r.opened != nil {
		r.opened.close()
		r.opened = nil
	}
	if r.dir != "" {
		if err := os.RemoveAll(r.dir); err != nil {
			log.Warn("remove restored images", "err", err)
		}
	}
}
