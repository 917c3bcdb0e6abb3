package agent

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

const (
	// lastTries is how often the last generation of a pod that was moved on purpose is
	// tried to be had before an older one is taken, and lastEvery the time in between.
	// The pod's state of the moment is worth some waiting.
	lastTries = 10
	lastEvery = time.Second
)

// search finds generations to restore, the best first.
type search struct {
	find func(ctx context.Context) []candidate
	// again is the generation that was tried before and is tried once more; 0 for none.
	again int64
}

// searches are the ways to find what is to be restored, one after the other. Pod is the
// one that is restored, nil where that is not known.
func (a *Agent) searches(r *restore, pod *corev1.Pod) []search {
	keeps := pod != nil && keepsVolumes(pod)
	source := r.migration.Status.Source
	if !r.migration.Planned() || source == nil || source.Checkpoint == nil {
		if keeps {
			return nil
		}
		return []search{{find: func(ctx context.Context) []candidate { return asked(r.migration, a.candidates(ctx, r.key)) }}}
	}
	last := source.Checkpoint
	first := func(ctx context.Context) []candidate { return []candidate{a.lastGeneration(ctx, r.key, r.migration)} }
	again := func(ctx context.Context) []candidate {
		select {
		case <-ctx.Done():
		case <-time.After(lastEvery):
		}
		return slices.DeleteFunc(a.candidates(ctx, r.key), func(c candidate) bool { return c.generation.Number != last.Generation })
	}
	older := func(ctx context.Context) []candidate {
		return slices.DeleteFunc(a.candidates(ctx, r.key), func(c candidate) bool { return c.generation.Number >= last.Generation })
	}
	all := append([]search{{find: first}}, slices.Repeat([]search{{find: again, again: last.Generation}}, lastTries)...)
	if keeps {
		return all // none but the last one is of the same moment as the volume
	}
	return append(all, search{find: older})
}

// asked are those of the candidates that may be restored: of a clone the one generation
// that was asked for, if one was.
func asked(m *v1alpha1.Migration, all []candidate) []candidate {
	if !m.Clones() || m.Spec.Clone.Generation == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(c candidate) bool { return c.generation.Number != m.Spec.Clone.Generation })
}

// keepsVolumes says whether a pod has a volume that its memory must not be older than.
func keepsVolumes(pod *corev1.Pod) bool {
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	return (err != nil || protection.Volumes == v1alpha1.VolumesProtect) && preflight.LastingVolume(pod) != ""
}

// lastGeneration is what the source has told that it has. Nobody is asked for it: the
// pod stands still.
func (a *Agent) lastGeneration(ctx context.Context, key store.Key, m *v1alpha1.Migration) candidate {
	last := m.Status.Source.Checkpoint
	c := candidate{generation: store.Generation{Number: last.Generation}, local: a.store.Complete(ctx, key, last.Generation) == nil}
	var others []transfer.Holder
	for _, holder := range a.holders(ctx) {
		switch {
		case holder.Name() == m.Spec.SourceNode:
			c.holders = []transfer.Holder{near{holder, a.store}, holder}
		case slices.Contains(last.Holders, holder.Name()):
			others = append(others, holder)
		}
	}
	c.holders = append(c.holders, others...)
	return c
}

// prepareTime is how long bringing a generation into place may take.
func (r *restore) prepareTime(now time.Time) time.Duration {
	if r.answerBy.IsZero() {
		return prepareTimeout
	}
	return min(prepareTimeout, r.answerBy.Sub(now))
}
