package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// checkpointTimeout bounds one checkpoint, from the freeze to the last copy.
const checkpointTimeout = 5 * time.Minute

// podState is what the agent remembers of a protected pod on its node.
type podState struct {
	// pod and protection are as the cache last showed them; Agent.mu guards them.
	pod        *corev1.Pod
	protection v1alpha1.Protection
	// requested is the newest request for a generation, by the clock of who asked.
	requested time.Time
	// turn is held by who takes a generation of the pod. What follows it is used by them alone.
	turn    *turnLock
	summary *summary
}

// turnLock is held while a generation of a pod is taken and copied.
type turnLock struct {
	sync.Mutex
	// interrupt ends a turn of the schedule, so that a planned move need not wait;
	// Agent.mu guards it. It is nil while there is none.
	interrupt context.CancelCauseFunc
}

// errMoving ends a turn of the schedule when the pod is about to move.
var errMoving = errors.New("the pod is about to move")

// runSchedule checkpoints the node's protected pods, each at its interval.
func (a *Agent) runSchedule(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.refreshPods(ctx); err != nil {
			a.log.Error("list the node's pods", "err", err)
			continue
		}
		now := time.Now()
		for {
			a.mu.Lock()
			uid, ok := a.schedule.next(now)
			var state podState
			if ok {
				state = *a.pods[string(uid)]
			}
			a.mu.Unlock()
			if !ok {
				break
			}
			go a.turn(ctx, state, now)
		}
	}
}

// refreshPods brings the schedule in line with the protected pods on the node.
func (a *Agent) refreshPods(ctx context.Context) error {
	var list corev1.PodList
	if err := a.cache.List(ctx, &list); err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	keep, here := map[types.UID]bool{}, map[string]bool{}
	for i := range list.Items {
		pod := &list.Items[i]
		here[string(pod.UID)] = true
		if pod.Annotations[v1alpha1.AnnotationFailover] == "" || terminal(pod) || pod.DeletionTimestamp != nil {
			continue
		}
		protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
		if err == nil && !protection.Protected {
			continue
		}
		uid := string(pod.UID)
		if a.movedPods[uid] {
			continue
		}
		state, known := a.pods[uid]
		if !known {
			state = &podState{summary: a.knownSummary(ctx, pod), turn: &turnLock{}}
			a.pods[uid] = state
		}
		state.pod, state.protection = pod, protection
		keep[pod.UID] = true
		a.schedule.set(pod.UID, max(protection.Interval, v1alpha1.MinInterval), time.Now())
		a.takeRequest(ctx, pod, state, time.Now())
	}
	a.schedule.keep(keep)
	maps.DeleteFunc(a.movedPods, func(uid string, _ bool) bool { return !here[uid] })
	for uid := range a.pods {
		if !keep[types.UID(uid)] {
			delete(a.pods, uid)
			go a.engine.Forget(uid) // it waits for a checkpoint that is under way
		}
	}
	return nil
}

func terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// turn takes one checkpoint of a pod, and reports how it ended.
func (a *Agent) turn(ctx context.Context, state podState, started time.Time) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	ctx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	pod, outcome := state.pod, failed
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.schedule.done(pod.UID, started, time.Now(), outcome)
	}()
	if !state.turn.TryLock() {
		outcome = tooEarly // a planned move takes its generations
		return
	}
	defer state.turn.Unlock()
	if a.stops.of(string(pod.UID)) != nil {
		outcome = tooEarly
		return
	}
	a.mu.Lock()
	state.turn.interrupt = interrupt
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		state.turn.interrupt = nil
	}()

	log := a.log.With("pod", pod.Namespace+"/"+pod.Name)
	if refusal := refuse(pod, state.protection); refusal != nil {
		a.unprotected(ctx, state, refusal)
		return
	}
	if a.draining(string(pod.UID)) || a.awaitsImport(ctx, pod) {
		outcome = tooEarly
		return
	}
	if a.isMoved(store.Key{Namespace: pod.Namespace, PodUID: string(pod.UID)}) {
		a.stopCheckpoints(pod, "its Migration says so")
		return
	}
	sealed, holders, pause, err := a.checkpoint(ctx, state)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errMoving):
		outcome = tooEarly
	case errors.Is(err, transfer.ErrMoved):
		a.stopCheckpoints(pod, err.Error())
	case errors.Is(err, errNotRunning):
		outcome = tooEarly
		a.unprotected(ctx, state, &refusal{v1alpha1.ReasonNotRunning, err.Error()})
	case err != nil && a.gone(pod):
		log.Debug("pod went away during its checkpoint", "err", err)
	case err != nil:
		reason := failureReason(err)
		a.metrics.failures.WithLabelValues(pod.Namespace, reason).Inc()
		log.Warn("checkpoint failed", "reason", reason, "err", err)
		a.unprotected(ctx, state, &refusal{reason, err.Error()})
	default:
		outcome = succeeded
		a.metrics.observe(pod, sealed, pause)
		log.Debug("checkpoint is durable", "generation", sealed.Number, "pause", pause, "bytes", sealed.Bytes, "holders", holders)
		a.protected(ctx, state, sealed, holders, pause)
		if state.summary.verifyDue(time.Now()) {
			go a.verify(context.WithoutCancel(ctx), state, sealed.Number)
		}
	}
}

// gone says whether the pod has left the node.
func (a *Agent) gone(pod *corev1.Pod) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, here := a.pods[string(pod.UID)]
	return !here
}

// refusal is why a pod is not checkpointed at all.
type refusal struct{ reason, message string }

// refuse says why a pod must not be checkpointed, or nil.
func refuse(pod *corev1.Pod, protection v1alpha1.Protection) *refusal {
	if _, err := v1alpha1.ParseAnnotations(pod.Annotations); err != nil {
		return &refusal{v1alpha1.ReasonInvalidAnnotation, err.Error()}
	}
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName != v1alpha1.RuntimeClassName {
		return &refusal{v1alpha1.ReasonNotAdmitted, fmt.Sprintf("the pod does not have runtimeClassName %q, so it could not be restored; create it again while Lifeboat's admission runs, or set it in the pod's template", v1alpha1.RuntimeClassName)}
	}
	if volume := preflight.LastingVolume(pod); volume != "" && protection.Volumes == v1alpha1.VolumesProtect {
		return &refusal{v1alpha1.ReasonWritableVolume, fmt.Sprintf("volume %q is writable and outlives the pod: older memory must not meet newer files, so the pod starts cold after a node loss; annotation %s: %q restores its memory all the same", volume, v1alpha1.AnnotationVolumes, v1alpha1.VolumesIgnore)}
	}
	return nil
}

// failureReason is the one-word reason of a failed checkpoint.
func failureReason(err error) string {
	var not *criu.NotCheckpointable
	var few *tooFewHolders
	switch {
	case errors.As(err, &not):
		return v1alpha1.ReasonNotCheckpointable
	case errors.As(err, &few):
		return v1alpha1.ReasonTooFewHolders
	case errors.Is(err, store.ErrBudget), errors.Is(err, store.ErrDiskFull):
		return v1alpha1.ReasonNoRoom
	default:
		return v1alpha1.ReasonCheckpointFailed
	}
}

// checkpoint takes one generation of a pod: dump into staging with the pod
// paused, then seal and copy with the pod running.
func (a *Agent) checkpoint(ctx context.Context, state podState) (store.Generation, []string, time.Duration, error) {
	sealed, pause, err := a.takeNext(ctx, state)
	if err != nil {
		return store.Generation{}, nil, 0, err
	}
	key := keyOf(state.pod)
	holders, _, err := a.replicate(ctx, key, sealed.Number, state.protection.Replicas, state.summary.status.Holders)
	if err != nil {
		return store.Generation{}, nil, 0, err
	}
	if a.bucket != nil {
		a.bucket.follow(context.WithoutCancel(ctx), key, sealed.Number, a.cfg.Retain)
	}
	return sealed, append([]string{a.cfg.NodeName}, holders...), pause, nil
}

// keyOf is what a pod's generations are kept under.
func keyOf(pod *corev1.Pod) store.Key {
	return store.Key{Namespace: pod.Namespace, PodUID: string(pod.UID)}
}

// takeNext takes a pod's next generation and seals it in the node's own store.
func (a *Agent) takeNext(ctx context.Context, state podState) (store.Generation, time.Duration, error) {
	g, dir, err := a.begin(ctx, state)
	if err != nil {
		return g, 0, err
	}
	defer os.RemoveAll(filepath.Dir(dir))
	return a.takeAndSeal(ctx, state, dir, g)
}

// begin numbers a pod's next generation, and makes the folder that it is dumped into,
// whose parent the caller removes.
func (a *Agent) begin(ctx context.Context, state podState) (g store.Generation, dir string, err error) {
	pod := state.pod
	number, err := a.nextGeneration(keyOf(pod), state.summary.status.Generation)
	if err != nil {
		return g, "", err
	}
	epoch, err := a.epoch(ctx, pod)
	if err != nil {
		return g, "", err
	}
	dir = filepath.Join(stagingFolder, string(pod.UID), strconv.FormatInt(number, 10))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return g, "", fmt.Errorf("make the staging folder: %w", err)
	}
	return store.Generation{Number: number, Epoch: epoch, PodName: pod.Name}, dir, nil
}

// takeAndSeal takes a checkpoint and stores it. Where the store does not have the
// generation any more that the checkpoint builds on, it takes one of everything.
func (a *Agent) takeAndSeal(ctx context.Context, state podState, dir string, g store.Generation) (store.Generation, time.Duration, error) {
	sealed, pause, err := a.takeAndSealOnce(ctx, state, dir, g, false)
	if errors.Is(err, store.ErrNoBase) {
		a.log.Info("checkpoint is taken again, in full", "pod", state.pod.Namespace+"/"+state.pod.Name, "err", err)
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			return sealed, 0, fmt.Errorf("clear the staging folder: %w", err)
		}
		sealed, pause, err = a.takeAndSealOnce(ctx, state, dir, g, true)
	}
	return sealed, pause, err
}

func (a *Agent) takeAndSealOnce(ctx context.Context, state podState, dir string, g store.Generation, whole bool) (store.Generation, time.Duration, error) {
	pod := state.pod
	dump, err := a.dump(ctx, pod, dir, whole)
	state.summary.found(dump, err)
	if err != nil {
		return g, 0, err
	}
	sealed, err := a.seal(ctx, pod, dump, dir, g)
	return sealed, dump.Pause, err
}

// seal stores a dump as a generation, and closes it.
func (a *Agent) seal(ctx context.Context, pod *corev1.Pod, dump *criu.Dump, dir string, g store.Generation) (store.Generation, error) {
	defer dump.Close()
	g.TakenAt, g.Base = dump.TakenAt, dump.Base
	for _, c := range dump.Containers {
		g.Containers = append(g.Containers, c.Name)
	}
	a.mu.Lock()
	g.Facts = a.facts
	a.mu.Unlock()
	var kept []store.Kept
	for _, k := range dump.Kept {
		kept = append(kept, store.Kept{Path: k.Path, Offset: k.Offset, Length: k.Length, BasePath: k.BasePath, BaseOffset: k.BaseOffset})
	}
	sealed, err := a.store.Seal(ctx, keyOf(pod), g, dir, dump.Memory, kept...)
	if err != nil {
		return g, fmt.Errorf("seal generation %d: %w", g.Number, err)
	}
	dump.Sealed(sealed.Number)
	a.metrics.dumped(pod, dump)
	return sealed, nil
}

// dump pauses the pod, writes its state into dir, and reads what is new of its memory.
func (a *Agent) dump(ctx context.Context, pod *corev1.Pod, dir string, whole bool) (*criu.Dump, error) {
	a.dumping.Lock()
	defer a.dumping.Unlock()
	target, err := a.runtime.target(ctx, a.host, pod)
	if err != nil {
		return nil, err
	}
	return a.engine.Checkpoint(ctx, target, dir, whole)
}

// nextGeneration is a number above every one that was given for the pod: above
// what the store has seen, and above what was reported, in case the store was lost.
func (a *Agent) nextGeneration(key store.Key, reported int64) (int64, error) {
	next, err := a.store.Next(key)
	if err != nil {
		return 0, fmt.Errorf("number the generation: %w", err)
	}
	return max(next, reported+1), nil
}

// epoch is the epoch that a pod runs in: that of the Migration that it claimed, or 0.
func (a *Agent) epoch(ctx context.Context, pod *corev1.Pod) (int64, error) {
	var list v1alpha1.MigrationList
	if err := a.cache.List(ctx, &list, inNamespace(pod.Namespace)); err != nil {
		return 0, fmt.Errorf("list migrations: %w", err)
	}
	for _, m := range list.Items {
		if m.Status.Claim != nil && m.Status.Claim.PodUID == pod.UID {
			return m.Spec.Epoch, nil
		}
	}
	return 0, nil
}
