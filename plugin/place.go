package plugin

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// readTimeout bounds all reads from the API server for one pod. The scheduler
// places one pod at a time, so every other pod waits for them.
const readTimeout = time.Second

const stateKey framework.StateKey = Name

// placement is what PreFilter has found out about a protected pod. Nothing
// changes it afterwards, so the scheduler's copies share it.
type placement struct {
	// migration is what the pod may claim, nil when it replaces no lost pod.
	migration *v1alpha1.Migration
	// source are the facts of the node that the lost pod ran on.
	source v1alpha1.NodeFacts
	// fences take precedence over the cache; a nil one says that the node has none.
	fences map[string]*v1alpha1.Fence
}

// Clone is what the scheduler's copies of its state hold.
func (pl *placement) Clone() framework.StateData { return pl }

// restores says whether the pod is to be restored from a checkpoint.
func (pl *placement) restores() bool {
	return pl.migration != nil && pl.migration.Status.Checkpoint != nil
}

// placementOf is what PreFilter found out in this scheduling cycle, nil for a
// pod that is not protected.
func placementOf(state framework.CycleState) *placement {
	data, err := state.Read(stateKey)
	if err != nil {
		return nil
	}
	pl, _ := data.(*placement)
	return pl
}

// PreFilter finds the Migration that the pod may claim. It reads from the API
// server where the cache has none, so that a pod never starts anew only because
// the cache is behind, and so an API server that does not answer delays the pod.
func (p *Lifeboat) PreFilter(ctx context.Context, state framework.CycleState, pod *corev1.Pod, _ []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	if !protected(pod) {
		return nil, framework.NewStatus(framework.Skip)
	}
	p.waiting.add(pod)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()

	m, err := p.find(ctx, pod)
	if err != nil {
		return nil, failed(pod, err)
	}
	if m != nil && !prepared(m) {
		return nil, unusable(fmt.Sprintf("migration %s is being prepared", m.Name))
	}
	pl := &placement{migration: m}
	if err := p.readFences(ctx, pl); err != nil {
		return nil, failed(pod, err)
	}
	state.Write(stateKey, pl)
	return nil, nil
}

// PreFilterExtensions returns nil: other pods on a node do not matter here.
func (p *Lifeboat) PreFilterExtensions() framework.PreFilterExtensions { return nil }

func (p *Lifeboat) find(ctx context.Context, pod *corev1.Pod) (*v1alpha1.Migration, error) {
	if cached, synced := p.cache.migrationsIn(pod.Namespace); synced {
		if m := p.matchFree(pod, cached); m != nil {
			return m, nil
		}
	}
	current, err := p.client.migrations(ctx, pod.Namespace)
	if err != nil {
		return nil, err
	}
	return p.matchFree(pod, current), nil
}

// matchFree leaves out the Migrations that other pods were given just now.
func (p *Lifeboat) matchFree(pod *corev1.Pod, migrations []*v1alpha1.Migration) *v1alpha1.Migration {
	return Match(pod, slices.DeleteFunc(slices.Clone(migrations), func(m *v1alpha1.Migration) bool {
		return !p.claims.free(m.UID, pod.UID)
	}))
}

// readFences reads all Fences where the cache is not filled yet, and always the
// lost node's: the cache may still show it as it was before the loss.
func (p *Lifeboat) readFences(ctx context.Context, pl *placement) error {
	var err error
	if !p.cache.fencesSynced() {
		if pl.fences, err = p.client.fences(ctx); err != nil {
			return err
		}
	}
	if pl.migration == nil {
		return nil
	}
	lost := pl.migration.Spec.SourceNode
	fence, err := p.client.fence(ctx, lost)
	if err != nil {
		return err
	}
	if fence != nil {
		pl.source = fence.Status.Facts
	}
	if pl.fences == nil {
		pl.fences = make(map[string]*v1alpha1.Fence, 1)
	}
	pl.fences[lost] = fence
	return nil
}

func (p *Lifeboat) fenceOf(pl *placement, node string) *v1alpha1.Fence {
	if fence, known := pl.fences[node]; known {
		return fence
	}
	return p.cache.fence(node)
}

// Filter keeps the pod off nodes that may not run it or cannot restore it.
func (p *Lifeboat) Filter(_ context.Context, state framework.CycleState, _ *corev1.Pod, nodeInfo framework.NodeInfo) *framework.Status {
	pl := placementOf(state)
	if pl == nil {
		return nil
	}
	fence := p.fenceOf(pl, nodeInfo.Node().Name)
	if reason := refused(pl, fence); reason != "" {
		return unusable(reason)
	}
	return nil
}

// refused says why a node with this Fence may not take the pod, "" when it may.
func refused(pl *placement, fence *v1alpha1.Fence) string {
	if fence != nil {
		switch fence.Spec.State {
		case v1alpha1.FenceLost:
			return "node is declared lost"
		case v1alpha1.FenceFenced:
			return "node is fenced"
		}
	}
	if !pl.restores() {
		return ""
	}
	if fence == nil {
		return "node has no fence record: no checkpointer has run there"
	}
	if reason := Compatible(pl.source, fence.Status.Facts); reason != "" {
		return "node cannot restore the pod: " + reason
	}
	return ""
}

// PreScore leaves the choice of a node to the other plugins where there is no
// checkpoint to restore.
func (p *Lifeboat) PreScore(_ context.Context, state framework.CycleState, _ *corev1.Pod, _ []framework.NodeInfo) *framework.Status {
	if pl := placementOf(state); pl == nil || !pl.restores() {
		return framework.NewStatus(framework.Skip)
	}
	return nil
}

// Score prefers the nodes that hold the checkpoint.
func (p *Lifeboat) Score(_ context.Context, state framework.CycleState, _ *corev1.Pod, nodeInfo framework.NodeInfo) (int64, *framework.Status) {
	pl := placementOf(state)
	if pl == nil || !pl.restores() {
		return framework.MinNodeScore, nil
	}
	return Score(pl.migration.Status.Checkpoint, nodeInfo.Node()), nil
}

// ScoreExtensions returns nil: scores are absolute.
func (p *Lifeboat) ScoreExtensions() framework.ScoreExtensions { return nil }
