package agent

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// prepareRounds is how many generations are taken at most before a pod counts as
	// prepared: one that writes faster than that never gets small ones.
	prepareRounds = 3
	// littleLeft, in bytes that a generation adds to the store, is so little that the
	// pause does not get shorter with less.
	littleLeft = 8 << 20
	// freshEvery is the time between the generations of a pod that is prepared and not
	// yet stopped, so that what is left stays small.
	freshEvery = 2 * time.Second
	// prepareTries is how often a generation that fails is tried again.
	prepareTries = 3
)

// prepared says whether enough generations were taken, from how many bytes each of
// them added: what the next one adds will not be much less.
func prepared(added []int64) bool {
	n := len(added)
	switch {
	case n == 0:
		return false
	case added[n-1] <= littleLeft || n >= prepareRounds:
		return true
	}
	return n > 1 && added[n-1] >= added[n-2] // it does not shrink any more
}

// prepareMove takes and copies generations of a pod that is about to move live, until
// it is to be stopped, or not to be moved any more. It returns whether it has told
// that the pod cannot be prepared.
func (a *Agent) prepareMove(ctx context.Context, m *v1alpha1.Migration) (told bool) {
	log := a.log.With("pod", m.Namespace+"/"+m.Spec.Pod.Name, "migration", m.Name)
	ctx, cancel := a.whilePreparing(ctx, m)
	defer cancel()
	source := v1alpha1.SourceStatus{}
	if m.Status.Source != nil {
		source = *m.Status.Source.DeepCopy()
	}
	var added []int64
	failures := 0
	for ctx.Err() == nil {
		bytes, generation, sent, err := a.round(ctx, m)
		source.BytesSent += sent
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			failures++
			log.Warn("pod is not prepared for its move", "err", err)
			if failures >= prepareTries && source.PreparedAt == nil {
				return a.tellSource(ctx, m, v1alpha1.SourceStatus{Error: fmt.Sprintf("the pod could not be prepared: %v", err), Reason: reasonOf(err), BytesSent: source.BytesSent})
			}
		default:
			failures = 0
			added = append(added, bytes)
			log.Info("pod was checkpointed for its move", "generation", generation, "added", bytes, "sent", sent)
			if source.PreparedAt != nil || prepared(added) {
				now := metav1.NewMicroTime(time.Now())
				if source.PreparedAt == nil {
					source.PreparedAt = &now
				}
				source.PreparedGeneration = generation
				if !a.tellSource(ctx, m, source) {
					return false
				}
			}
		}
		if err == nil && source.PreparedAt == nil {
			continue // the next round at once
		}
		select {
		case <-ctx.Done():
		case <-time.After(freshEvery):
		}
	}
	return false
}

// whilePreparing returns a context that ends when a Migration is not to be prepared any
// more.
func (a *Agent) whilePreparing(ctx context.Context, m *v1alpha1.Migration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for {
			changed := a.changes.wait()
			current := a.cachedMigration(ctx, m)
			if current == nil || partOf(current, a.cfg.NodeName, a.noteOf(current)) != partPrepare {
				cancel(errMoving)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// round takes one generation of a pod, copies it, and reports it as the schedule's
// turns do.
func (a *Agent) round(ctx context.Context, m *v1alpha1.Migration) (added, generation, sent int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	state, err := a.movable(ctx, m)
	if err != nil {
		return 0, 0, 0, err
	}
	if _, err := a.keeping(ctx, m, state); err != nil {
		return 0, 0, 0, err
	}
	a.interrupt(state)
	state.turn.Lock()
	defer state.turn.Unlock()
	if err := a.awaitDrained(ctx, state.pod); err != nil {
		return 0, 0, 0, err
	}
	sealed, pause, err := a.takeNext(ctx, state)
	if err != nil {
		return 0, 0, 0, err
	}
	if current := a.cachedMigration(ctx, m); current != nil {
		m = current // it may have been claimed meanwhile
	}
	holders, sent, err := a.replicate(ctx, keyOf(state.pod), sealed.Number, state.protection.Replicas, a.preferred(m, state))
	if err != nil {
		return 0, 0, sent, err
	}
	if ctx.Err() != nil {
		return 0, 0, sent, context.Cause(ctx)
	}
	a.metrics.observe(state.pod, sealed, pause)
	if refuse(state.pod, state.protection) == nil { // else it is for this move alone
		a.protected(ctx, state, sealed, append([]string{a.cfg.NodeName}, holders...), pause)
	}
	return sealed.NewBytes, sealed.Number, sent, nil
}
