package plugin

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// EventsToRegister names the scheduler's own events that may let a rejected pod
// be placed. Changed Migrations and Fences bring pods back by migrationChanged
// and fenceChanged, and finished reads by readDone.
func (p *Lifeboat) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		{
			Event: framework.ClusterEvent{
				Resource:   framework.Node,
				ActionType: framework.Add | framework.UpdateNodeAllocatable | framework.UpdateNodeCondition,
			},
			QueueingHintFn: p.nodeHint,
		},
		{
			Event:          framework.ClusterEvent{Resource: framework.Pod, ActionType: framework.Delete | framework.UpdatePodScaleDown},
			QueueingHintFn: p.podHint,
		},
	}, nil
}

// nodeHint lets a pod be tried again when a node has come, or has changed, that
// the plugin would let it onto.
func (p *Lifeboat) nodeHint(_ klog.Logger, pod *corev1.Pod, before, after any) (framework.QueueingHint, error) {
	is, ok := after.(*corev1.Node)
	if !ok {
		return framework.Queue, fmt.Errorf("hint for a changed node: got a %T", after)
	}
	pl := p.waiting.get(pod).placement
	if pl == nil {
		return framework.QueueSkip, nil // it is held, and no node changes that
	}
	known := p.records.node(is.Name)
	if refused(pl, is, known) != "" || pl.restores() && is.Status.Allocatable.Memory().Value() < pl.bytes() {
		return framework.QueueSkip, nil
	}
	was, ok := before.(*corev1.Node)
	if ok && was != nil && refused(pl, was, known) == "" && was.Status.Allocatable.Memory().Cmp(*is.Status.Allocatable.Memory()) >= 0 {
		return framework.QueueSkip, nil // it did not refuse the pod before, either
	}
	return framework.Queue, nil
}

// podHint lets a pod be tried again when memory that it may have waited for has
// become free.
func (p *Lifeboat) podHint(_ klog.Logger, pod *corev1.Pod, before, after any) (framework.QueueingHint, error) {
	gone, ok := before.(*corev1.Pod)
	if !ok {
		return framework.Queue, fmt.Errorf("hint for a deleted pod: got a %T", before)
	}
	pl := p.waiting.get(pod).placement
	if pl == nil || !pl.restores() {
		return framework.QueueSkip, nil
	}
	if gone.UID == pod.UID {
		return framework.QueueSkip, nil // its own requests are not what it waits for
	}
	name := gone.Spec.NodeName
	if name == "" || refusedByFence(pl, p.records.node(name)) != "" {
		return framework.QueueSkip, nil
	}
	return framework.Queue, nil
}

// migrationChanged takes over what the watch tells, and brings back the waiting
// pods that may be placed by it.
func (p *Lifeboat) migrationChanged(before, after *v1alpha1.Migration) {
	if before != nil && (after == nil || after.UID != before.UID) {
		p.records.dropMigration(before)
		p.claims.forget(before.UID)
		p.activate(before.Namespace, func(pod *corev1.Pod, _ waitingPod) bool { return before.SucceededBy(pod) })
		before = nil
	}
	if after == nil {
		return
	}
	p.records.putMigration(after, time.Now())
	if !after.Open() || after.Status.Claim != nil {
		p.claims.forget(after.UID)
	}
	p.activate(after.Namespace, func(pod *corev1.Pod, w waitingPod) bool {
		// What it was to get from a pod that is deleted is not to be had any more, or is.
		freed := w.held && before != nil && takesBack(pod, before) && !takesBack(pod, after)
		return freed || migrationHint(pod, before, after)
	})
}

// migrationHint says whether the change of a Migration may let the pod be placed,
// or placed better: it can claim one now, what it was to claim is prepared or has
// another checkpoint, or is closed, or another pod's.
func migrationHint(pod *corev1.Pod, before, after *v1alpha1.Migration) bool {
	if !after.SucceededBy(pod) {
		return false
	}
	is := claimable(pod, after)
	if was := before != nil && claimable(pod, before); is != was {
		return true
	}
	return is && (before == nil || prepared(after) != prepared(before) || checkpointOf(after) != checkpointOf(before))
}

// checkpointOf is the generation that a Migration restores, 0 for none.
func checkpointOf(m *v1alpha1.Migration) int64 {
	if m.Status.Checkpoint == nil {
		return 0
	}
	return m.Status.Checkpoint.Generation
}

// fenceChanged takes over what the watch tells, and brings back the waiting pods
// that the node refused before and does not any more.
func (p *Lifeboat) fenceChanged(before, after *v1alpha1.Fence) {
	switch {
	case after != nil:
		p.records.putFence(after.Name, after)
	case before != nil:
		p.records.putFence(before.Name, nil)
	}
	was, is := nodeOf(before), nodeOf(after)
	p.activate(allNamespaces, func(_ *corev1.Pod, w waitingPod) bool { return p.fenceHint(w.placement, was, is) })
}

// fenceHint says whether the change of a node's Fence may let the pod be placed
// there. Without a placement the pod is held, and no Fence changes that.
func (p *Lifeboat) fenceHint(pl *placement, was, is *node) bool {
	if pl == nil || !p.admits(pl, is) {
		return false
	}
	return !p.admits(pl, was) || was == nil != (is == nil) || is != nil && !slices.Equal(was.facts.RuntimeHandlers, is.facts.RuntimeHandlers)
}

// admits says whether nothing in a node's Fence speaks against the pod.
func (p *Lifeboat) admits(pl *placement, known *node) bool {
	if refusedByFence(pl, known) != "" {
		return false
	}
	return !pl.restores() || known == nil || p.room.givesNow(pl.bytes(), known.fence.Name, known)
}
