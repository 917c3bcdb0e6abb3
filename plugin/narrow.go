package plugin

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kube-scheduler/framework"
)

// mostCandidates is how many nodes the scheduler looks at whatever
// percentageOfNodesToScore says.
const mostCandidates = 100

// narrow returns the nodes that are expected to restore the pod first, no more
// than the scheduler looks at in any case. In a large cluster it looks at a part of
// the nodes only, and might miss those that hold the checkpoint. narrow returns nil
// where there is nothing to choose, or where an attempt with a choice has failed.
func (p *Lifeboat) narrow(pod *corev1.Pod, pl *placement, nodes []framework.NodeInfo) sets.Set[string] {
	if !pl.restores() || len(nodes) <= mostCandidates || p.waiting.get(pod).wide {
		return nil
	}
	type candidate struct {
		name string
		time time.Duration
		free int64
	}
	candidates := make([]candidate, 0, len(nodes))
	for _, info := range nodes {
		if p.refuses(pl, info) == nil {
			candidates = append(candidates, candidate{
				info.Node().Name, p.predict(pl, info), info.GetAllocatable().GetMemory() - info.GetRequested().GetMemory(),
			})
		}
	}
	if len(candidates) == 0 {
		return nil // so that each node says why
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(b.free, a.free), cmp.Compare(a.name, b.name))
	})
	names := sets.New[string]()
	for _, c := range candidates[:min(len(candidates), mostCandidates)] {
		names.Insert(c.name)
	}
	return names
}

// PostFilter lets a pod that no chosen node could take be tried on all nodes next.
// It stops other plugins from evicting pods for it before that.
func (p *Lifeboat) PostFilter(_ context.Context, state framework.CycleState, pod *corev1.Pod, _ framework.NodeToStatusReader) (*framework.PostFilterResult, *framework.Status) {
	if pl := placementOf(state); pl == nil || !pl.narrowed {
		return nil, framework.NewStatus(framework.Unschedulable)
	}
	p.waiting.widen(pod)
	p.handle.Activate(p.logger, map[string]*corev1.Pod{pod.Namespace + "/" + pod.Name: pod})
	return nil, unusable("all nodes are tried next")
}
