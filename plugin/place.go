package plugin

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const stateKey framework.StateKey = Name

// placement is what PreFilter has found out about a protected pod. Nothing
// changes it afterwards, so the scheduler's copies share it.
type placement struct {
	// at is when it was found out.
	at time.Time
	// migration is what the pod may claim, nil when it replaces no lost pod.
	migration *v1alpha1.Migration
	// source are the facts of the node that the lost pod ran on, and domain its
	// failure domain, "" where that is not known.
	source facts
	domain string
	// only is the one node that a planned move may go to, and avoid the one that it leaves;
	// "" for none.
	only, avoid string
	// handler is what the pod needs of a node's container runtime, "" for nothing.
	handler string
	// images are those of the pod's container images that some node has.
	images []image
	// nodes is how many nodes there are, and narrowed that not all are tried.
	nodes    int
	narrowed bool
}

// Clone is what the scheduler's copies of its state hold.
func (pl *placement) Clone() framework.StateData { return pl }

// restores says whether the pod is to be restored from a checkpoint. Of a planned move
// there may be none yet: it is taken when the pod is stopped.
func (pl *placement) restores() bool {
	switch m := pl.migration; {
	case m == nil, m.Spec.Strategy == v1alpha1.StrategyApplication:
		return false
	default:
		return m.Status.Checkpoint != nil || m.Planned() && !m.Reached(v1alpha1.PhaseStopped)
	}
}

// bytes is how much memory a restore needs, as far as that is known.
func (pl *placement) bytes() int64 {
	if !pl.restores() || pl.migration.Status.Checkpoint == nil {
		return 0
	}
	return pl.migration.Status.Checkpoint.Bytes
}

// holds says whether a node is known to hold the checkpoint.
func (pl *placement) holds(node string) bool {
	held := pl.migration.Status.Checkpoint
	return held != nil && slices.Contains(held.Holders, node)
}

// choose notes where a planned move may go. Until the pod is stopped it can stay where it
// is, so that nowhere else will do; after that it has to run again, and wide says that it
// has been tried so. It returns whether there is a choice that may yet be given up.
func (pl *placement) choose(wide bool) (narrowed bool) {
	m := pl.migration
	if m == nil || !m.Planned() {
		return false
	}
	if m.Clones() {
		pl.only = m.Spec.TargetNode // the other pod's node is as good as any
		return false
	}
	stopped := m.SourceStopped()
	if stopped && wide {
		return false
	}
	pl.only, pl.avoid = m.Spec.TargetNode, m.Spec.SourceNode
	return stopped
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

// PreFilter finds the Migration that the pod may claim. It never waits for the
// API server: where something has to be read first, the pod is rejected until it
// was. Of many nodes it chooses those that are worth trying for a restore.
func (p *Lifeboat) PreFilter(_ context.Context, state framework.CycleState, pod *corev1.Pod, nodes []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	if !protected(pod) {
		return nil, framework.NewStatus(framework.Skip)
	}
	m, held := p.prepare(pod)
	if held != nil {
		p.waiting.hold(pod)
		return nil, unusable(held.why)
	}
	pl := &placement{at: time.Now(), migration: m, handler: handlerOf(pod), nodes: len(nodes)}
	if m != nil {
		if source := p.records.node(m.Spec.SourceNode); source != nil {
			pl.source = source.facts
		}
		pl.domain = p.domainOf(m.Spec.SourceNode)
		pl.images = p.somewhere(imagesOf(pod), pl, nodes)
	}
	chosen := pl.choose(p.waiting.get(pod).wide)
	names := p.narrow(pod, pl, nodes)
	pl.narrowed = names != nil || chosen
	p.waiting.tried(pod, pl)
	state.Write(stateKey, pl)
	if names != nil {
		return &framework.PreFilterResult{NodeNames: names}, nil
	}
	return nil, nil
}

// domainOf is the failure domain of a node, "" when it has none or is gone.
func (p *Lifeboat) domainOf(name string) string {
	if *p.args.DomainLabel == "" {
		return ""
	}
	info, err := p.handle.SnapshotSharedLister().NodeInfos().Get(name)
	if err != nil || info.Node() == nil {
		return ""
	}
	return info.Node().Labels[*p.args.DomainLabel]
}

// PreFilterExtensions returns nil: Filter looks at a node's pods by what they
// request, which the scheduler keeps account of itself.
func (p *Lifeboat) PreFilterExtensions() framework.PreFilterExtensions { return nil }

// Filter keeps the pod off nodes that may not run it or cannot restore it.
func (p *Lifeboat) Filter(_ context.Context, state framework.CycleState, _ *corev1.Pod, info framework.NodeInfo) *framework.Status {
	pl := placementOf(state)
	if pl == nil {
		return nil
	}
	return p.refuses(pl, info)
}

// refuses is why a node cannot take the pod, nil when it can.
func (p *Lifeboat) refuses(pl *placement, info framework.NodeInfo) *framework.Status {
	object := info.Node()
	known := p.records.node(object.Name)
	if reason := refused(pl, object, known); reason != "" {
		return unusable(reason)
	}
	if !pl.restores() {
		return nil
	}
	if !p.room.givesNow(pl.bytes(), object.Name, known) {
		return unusable(noRoom(pl.bytes()))
	}
	if !unpromised(pl.bytes(), info) {
		return framework.NewStatus(framework.Unschedulable, noRoom(pl.bytes()))
	}
	return nil
}
