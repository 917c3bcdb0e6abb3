package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// drainTime bounds how long a stop waits until all memory of a pod that was itself just
// restored is filled in.
const drainTime = time.Minute

// stopForMove stops a pod for good, or goes on with that, and tells how it ended. It
// returns whether it has told.
func (a *Agent) stopForMove(ctx context.Context, seen *v1alpha1.Migration) (told bool) {
	log := a.log.With("pod", seen.Namespace+"/"+seen.Spec.Pod.Name, "migration", seen.Name)
	// The cache may not have heard yet that it was given up, or how an earlier stop ended.
	m := &v1alpha1.Migration{}
	if err := once(ctx, func(ctx context.Context) error { return a.api.Get(ctx, ctrlclient.ObjectKeyFromObject(seen), m) }); err != nil {
		log.Warn("read a planned move before its pod is stopped", "err", err)
		return false
	}
	note := a.noteOf(m)
	var status v1alpha1.SourceStatus
	var err error
	switch partOf(m, a.cfg.NodeName, note) {
	case partStop:
		status, err = a.stop(ctx, m)
	case partKill:
		status, err = a.finishKill(ctx, note)
	case partGiveUp:
		status.Hooks = a.freeHook(ctx, m)
		err = errors.New("the checkpointer was restarted while it stopped the pod, and has let it go on")
	default:
		return false
	}
	if errors.Is(err, errUnfinished) || err != nil && ctx.Err() != nil {
		log.Warn("a planned move is gone on with by the next checkpointer", "err", err)
		return false
	}
	if err != nil {
		log.Warn("pod is not stopped, and runs on", "err", err)
		status = v1alpha1.SourceStatus{Error: err.Error(), Reason: reasonOf(err), Hooks: status.Hooks, BytesSent: status.BytesSent}
	} else {
		log.Info("pod was stopped for good", "generation", status.Checkpoint.Generation, "still", status.StoppedAt.Sub(status.PausedAt.Time))
	}
	tell := a.tellStopped
	if err != nil {
		tell = a.tellSource
	}
	if !tell(ctx, m, status) {
		return false
	}
	if err != nil {
		a.confirmed.allow(string(m.Spec.Pod.UID))
		if err := a.stops.drop(string(m.Spec.Pod.UID)); err != nil {
			log.Error("forget a stop that failed", "err", err)
		}
		return true
	}
	a.engine.Forget(string(m.Spec.Pod.UID))
	if !m.Staged() {
		go a.copyLastLater(ctx, m, status.Checkpoint.Generation)
	}
	return true
}

// tellSource writes the source's part of a Migration's status, again and again until
// it is written or ctx ends. Only what is set is changed.
func (a *Agent) tellSource(ctx context.Context, m *v1alpha1.Migration, status v1alpha1.SourceStatus) bool {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"source": status}})
	if err != nil {
		a.log.Error("tell how a pod was stopped", "err", err)
		return false
	}
	for {
		target := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}}
		err := once(ctx, func(ctx context.Context) error {
			return a.api.Status().Patch(ctx, target, ctrlclient.RawPatch(types.MergePatchType, patch), ctrlclient.FieldOwner("lifeboat-checkpointer"))
		})
		if ctrlclient.IgnoreNotFound(err) == nil {
			return true
		}
		a.log.Warn("tell what was done for a planned move; trying again", "migration", m.Namespace+"/"+m.Name, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(tryAgain):
		}
	}
}

// tellStopped writes that the source has stopped the pod, as tellSource does, unless
// the Migration was closed meanwhile: then nobody asks any more.
func (a *Agent) tellStopped(ctx context.Context, m *v1alpha1.Migration, status v1alpha1.SourceStatus) bool {
	for {
		current := &v1alpha1.Migration{}
		err := once(ctx, func(ctx context.Context) error {
			if err := a.api.Get(ctx, ctrlclient.ObjectKeyFromObject(m), current); err != nil || current.UID != m.UID || !current.Open() {
				return err
			}
			before := current.DeepCopy()
			if current.Status.Source == nil {
				current.Status.Source = &v1alpha1.SourceStatus{}
			}
			source := current.Status.Source
			source.PausedAt, source.StoppedAt, source.Checkpoint = status.PausedAt, status.StoppedAt, status.Checkpoint
			source.BytesSent, source.Hooks, source.KeptAddress = status.BytesSent, status.Hooks, status.KeptAddress
			patch := ctrlclient.MergeFromWithOptions(before, ctrlclient.MergeFromWithOptimisticLock{})
			return a.api.Status().Patch(ctx, current, patch, ctrlclient.FieldOwner("lifeboat-checkpointer"))
		})
		switch {
		case ctrlclient.IgnoreNotFound(err) == nil:
			return true
		case apierrors.IsConflict(err):
			continue // the watcher has written at the same moment
		}
		a.log.Error("tell that a pod was stopped; trying again", "migration", m.Namespace+"/"+m.Name, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(tryAgain):
		}
	}
}

// stop stops a pod for good. After an error it runs on.
func (a *Agent) stop(ctx context.Context, m *v1alpha1.Migration) (v1alpha1.SourceStatus, error) {
	uid := string(m.Spec.Pod.UID)
	state, err := a.movable(ctx, m)
	if err != nil {
		return v1alpha1.SourceStatus{}, err
	}
	a.interrupt(state)
	state.turn.Lock()
	defer state.turn.Unlock()
	var sentBefore int64
	if m.Status.Source != nil {
		sentBefore = m.Status.Source.BytesSent
	}
	kept, err := a.keeping(ctx, m, state)
	if err != nil {
		return v1alpha1.SourceStatus{}, err
	}
	note := stopNote{Migration: ctrlclient.ObjectKeyFromObject(m), PodUID: uid, Kept: kept}
	calls := &hookCalls{}
	s := stopper{
		log: a.log.With("pod", m.Namespace+"/"+m.Spec.Pod.Name, "migration", m.Name),
		begin: func() error {
			if err := a.beginStop(ctx, m); err != nil {
				return err
			}
			return a.stops.write(note)
		},
		hook: func(ctx context.Context) error {
			return a.callHook(ctx, state.pod, hookPreCheckpoint, state.protection.PreCheckpoint, calls)
		},
		take: func(ctx context.Context) (v1alpha1.HeldCheckpoint, held, error) {
			return a.takeLast(ctx, state, m.Spec.Strategy == v1alpha1.StrategyCold, kept)
		},
		commit: func(status v1alpha1.SourceStatus, pod held) error {
			if err := a.confirmed.withhold(uid); err != nil {
				return fmt.Errorf("take back that the pod is this node's: %w", err)
			}
			status.Hooks = calls.results
			status.BytesSent += sentBefore
			if kept != nil {
				if err := a.lend(kept, m); err != nil {
					return err
				}
				status.KeptAddress = kept.Address.String()
			}
			committed := note
			committed.Committed, committed.Cgroups, committed.Source = true, pod.Cgroups(), status
			return a.stops.write(committed)
		},
		retract: func() error {
			a.confirmed.allow(uid)
			if err := a.stops.write(note); err != nil || kept == nil {
				return err
			}
			return a.takeBack(kept)
		},
		undo: func(ctx context.Context) {
			// What the one hook has held the other lets go on.
			if calls.called(hookPreCheckpoint) {
				_ = a.callHook(ctx, state.pod, hookPostRestore, state.protection.PostRestore, calls)
			}
		},
	}
	key := keyOf(state.pod)
	if m.Staged() {
		key = stateKey(m)
		s.take = func(ctx context.Context) (v1alpha1.HeldCheckpoint, held, error) {
			return a.takeState(ctx, m, state, calls)
		}
	}
	if m.Spec.Strategy != v1alpha1.StrategyLive {
		s.copyAway = func(ctx context.Context, generation int64) ([]string, int64, error) {
			return a.replicate(ctx, key, generation, state.protection.Replicas, a.preferred(m, state))
		}
	}
	status, err := s.stop(ctx)
	status.Hooks = calls.results
	status.BytesSent += sentBefore
	if err == nil && kept != nil {
		status.KeptAddress = kept.Address.String()
	}
	return status, err
}

// finishKill ends what an earlier checkpointer was about to end.
func (a *Agent) finishKill(ctx context.Context, note *stopNote) (v1alpha1.SourceStatus, error) {
	status := note.Source
	for {
		attempt, cancel := context.WithTimeout(ctx, killTime)
		err := a.engine.KillAll(attempt, note.Cgroups)
		cancel()
		if err == nil {
			break
		}
		a.log.Error("end the processes of a pod that is moved; trying again", "err", err)
		select {
		case <-ctx.Done():
			return status, fmt.Errorf("%w: %w", errUnfinished, err)
		case <-time.After(tryAgain):
		}
	}
	stoppedAt := metav1.NewMicroTime(time.Now())
	status.StoppedAt = &stoppedAt
	return status, nil
}

// movable returns what the agent knows of a pod that is to be moved, or says why it
// cannot be checkpointed for that. A volume that outlives the pod is no obstacle: it
// stands still together with the memory.
func (a *Agent) movable(ctx context.Context, m *v1alpha1.Migration) (podState, error) {
	pod := a.podHere(ctx, m.Namespace, m.Spec.Pod.Name, m.Spec.Pod.UID)
	if pod == nil || pod.DeletionTimestamp != nil || terminal(pod) {
		return podState{}, fmt.Errorf("pod %s/%s does not run on node %s any more", m.Namespace, m.Spec.Pod.Name, a.cfg.NodeName)
	}
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err == nil && !protection.Protected {
		return podState{}, fmt.Errorf("the pod is not protected: only with annotation %s: \"true\" can its state be moved", v1alpha1.AnnotationFailover)
	}
	bearsVolumes := protection
	bearsVolumes.Volumes = v1alpha1.VolumesIgnore
	if why := refuse(pod, bearsVolumes); why != nil {
		return podState{}, errors.New(why.message)
	}
	if err := a.refreshPods(ctx); err != nil {
		return podState{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	state := a.pods[string(pod.UID)]
	if state == nil {
		return podState{}, errors.New("the pod was moved away before: what its copy here does is no part of its history")
	}
	return *state, nil
}

// interrupt ends a turn of the schedule that is under way.
func (a *Agent) interrupt(state podState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if state.turn.interrupt != nil {
		state.turn.interrupt(errMoving)
	}
}

// preferred are the nodes that a copy is best made to: where the pod goes, and where
// most of it is already.
func (a *Agent) preferred(m *v1alpha1.Migration, state podState) []string {
	var nodes []string
	if claim := m.Status.Claim; claim != nil {
		nodes = append(nodes, claim.NodeName)
	}
	if m.Spec.TargetNode != "" && (len(nodes) == 0 || nodes[0] != m.Spec.TargetNode) {
		nodes = append(nodes, m.Spec.TargetNode)
	}
	for _, node := range state.summary.status.Holders {
		if node != a.cfg.NodeName && (len(nodes) == 0 || node != nodes[0]) {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// takeLast takes a pod's last generation, and leaves the pod frozen.
func (a *Agent) takeLast(ctx context.Context, state podState, whole bool, kept *keptConnections) (v1alpha1.HeldCheckpoint, held, error) {
	last, pod, err := a.takeLastOnce(ctx, state, whole, kept)
	if errors.Is(err, store.ErrNoBase) {
		last, pod, err = a.takeLastOnce(ctx, state, true, kept)
	}
	return last, pod, err
}

func (a *Agent) takeLastOnce(ctx context.Context, state podState, whole bool, kept *keptConnections) (last v1alpha1.HeldCheckpoint, pod held, err error) {
	if err := a.awaitDrained(ctx, state.pod); err != nil {
		return last, nil, err
	}
	g, dir, err := a.begin(ctx, state)
	if err != nil {
		return last, nil, err
	}
	defer os.RemoveAll(filepath.Dir(dir))
	target, err := a.runtime.target(ctx, a.host, state.pod)
	if err != nil {
		return last, nil, err
	}
	if kept != nil {
		target.Silence = kept.silence
		defer func() {
			if err != nil {
				err = errors.Join(err, kept.speak(ctx))
			}
		}()
	}
	a.dumping.Lock()
	dump, hold, err := a.engine.CheckpointAndHold(ctx, target, dir, whole)
	a.dumping.Unlock()
	state.summary.found(dump, err)
	if err != nil {
		return last, nil, err
	}
	sealed, err := a.seal(ctx, state.pod, dump, dir, g)
	if err != nil {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		return last, nil, errors.Join(err, hold.Release(release))
	}
	return v1alpha1.HeldCheckpoint{
		Generation: sealed.Number, TakenAt: metav1.NewMicroTime(sealed.TakenAt), Bytes: sealed.Bytes, Holders: []string{a.cfg.NodeName},
	}, kept.held(hold), nil
}

// awaitDrained waits until all memory of a pod is there: what is missing would be
// missing in the dump.
func (a *Agent) awaitDrained(ctx context.Context, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeoutCause(ctx, drainTime, errors.New("memory of the pod's own restore is still being filled in"))
	defer cancel()
	for a.draining(string(pod.UID)) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// restoredBy bounds how long the copies of the last generation wait for the restore. It
// is well below what lastTries take, so that a target which cannot reach the source has it
// from another node, and not an older one.
const restoredBy = lastTries * lastEvery / 2

// copyLastLater copies the last generation to where it is to be beside the move's own
// copies, after the pod runs again: until then its pages are wanted elsewhere. A live move
// has none of its own. It does not matter to the move whether that succeeds.
func (a *Agent) copyLastLater(ctx context.Context, m *v1alpha1.Migration, generation int64) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	open := a.awaitRestored(ctx, m)
	key := store.Key{Namespace: m.Namespace, PodUID: string(m.Spec.Pod.UID)}
	if open && m.Spec.Strategy == v1alpha1.StrategyLive { // holders take nothing of a move that is closed
		holders, sent, err := a.replicate(ctx, key, generation, v1alpha1.DefaultReplicas, nil)
		a.log.Info("last generation of a moved pod was copied", "pod", m.Namespace+"/"+m.Spec.Pod.Name, "generation", generation, "holders", holders, "bytes", sent, "err", err)
	}
	if a.bucket != nil {
		a.bucket.follow(context.WithoutCancel(ctx), key, generation, a.cfg.Retain)
	}
}

// awaitRestored waits until a container of the moved pod has come back elsewhere, or the
// move is closed, but no longer than restoredBy. It returns whether the move is open.
func (a *Agent) awaitRestored(ctx context.Context, m *v1alpha1.Migration) (open bool) {
	ctx, cancel := context.WithTimeout(ctx, restoredBy)
	defer cancel()
	for {
		changed := a.changes.wait()
		current := a.cachedMigration(ctx, m)
		if current == nil || !current.Open() {
			return false
		}
		if r := current.Status.Restore; r != nil && len(r.Containers) > 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return true
		case <-changed:
		}
	}
}
