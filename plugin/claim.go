package plugin

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// claimTimeout bounds the writing of a claim; the pod is then tried again.
	claimTimeout = 5 * time.Second

	// EventClaimed is the reason of the event on a pod that has claimed a Migration.
	EventClaimed = "LifeboatClaimed"
	// EventClaimFailed is the reason of the event on a pod whose claim could not be written.
	EventClaimFailed = "LifeboatClaimFailed"
)

// Reserve gives the Migration to the pod, within this scheduler.
func (p *Lifeboat) Reserve(_ context.Context, state framework.CycleState, pod *corev1.Pod, node string) *framework.Status {
	pl := placementOf(state)
	if pl == nil {
		return nil
	}
	if pl.migration != nil && !p.claims.reserve(pl.migration.UID, pod.UID) {
		return failed(pod, fmt.Errorf("migration %s was given to another pod just now", pl.migration.Name))
	}
	p.waiting.remove(pod)
	if pl.restores() {
		p.room.take(node, pod.UID, pl.bytes(), time.Now())
		p.predictChosen(state, pl, node)
	}
	return nil
}

// predictChosen makes the prediction that the scheduler does not ask for when
// only one node can take the pod.
func (p *Lifeboat) predictChosen(state framework.CycleState, pl *placement, node string) {
	if _, err := state.Read(predictionKey); err == nil {
		return
	}
	info, err := p.handle.SnapshotSharedLister().NodeInfos().Get(node)
	if err != nil || info.Node() == nil {
		return
	}
	only := nodeTime{node, p.predict(pl, info)}
	state.Write(predictionKey, &predictions{times: []nodeTime{only}, nodes: pl.nodes, able: 1, narrowed: pl.narrowed})
}

// Unreserve returns the Migration. A claim that was written already stays: it is
// this pod's when the scheduler tries it again.
func (p *Lifeboat) Unreserve(_ context.Context, _ framework.CycleState, pod *corev1.Pod, node string) {
	p.claims.release(pod.UID)
	p.room.giveBack(node, pod.UID)
}

// PreBindPreFlight says whether there is a claim to write.
func (p *Lifeboat) PreBindPreFlight(_ context.Context, state framework.CycleState, _ *corev1.Pod, _ string) *framework.Status {
	if pl := placementOf(state); pl == nil || pl.migration == nil {
		return framework.NewStatus(framework.Skip)
	}
	return nil
}

// PreBind writes the claim, so that the node's checkpointer finds it before the
// node can start the pod. A Migration that was closed or claimed by another pod
// in the meantime fails the binding, and the pod is placed anew.
func (p *Lifeboat) PreBind(ctx context.Context, state framework.CycleState, pod *corev1.Pod, node string) *framework.Status {
	pl := placementOf(state)
	if pl == nil || pl.migration == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	m, err := p.writeClaim(ctx, pl.migration, pod, node)
	if err != nil {
		p.handle.EventRecorder().Eventf(pod, nil, corev1.EventTypeWarning, EventClaimFailed, "Claiming",
			"Not bound to node %s, and placed anew: %v", node, err)
		return failed(pod, err)
	}
	p.handle.EventRecorder().Eventf(pod, nil, corev1.EventTypeNormal, EventClaimed, "Claiming", "%s", claimMessage(m, node, predictionsOf(state)))
	return nil
}

// predictionsOf are the times that were predicted in this scheduling cycle, nil
// when none were.
func predictionsOf(state framework.CycleState) *predictions {
	data, err := state.Read(predictionKey)
	if err != nil {
		return nil
	}
	ps, _ := data.(*predictions)
	return ps
}

// writeClaim claims the Migration as it was seen; where it has changed since, it
// looks again and claims it only if the pod still may. It returns the Migration
// that it claimed.
func (p *Lifeboat) writeClaim(ctx context.Context, seen *v1alpha1.Migration, pod *corev1.Pod, node string) (*v1alpha1.Migration, error) {
	for {
		if !claimable(pod, seen) {
			return nil, fmt.Errorf("migration %s can no longer be claimed: %s", seen.Name, whyNot(seen))
		}
		err := p.client.claim(ctx, seen, v1alpha1.Claim{
			PodName: pod.Name, PodUID: pod.UID, NodeName: node, At: metav1.NowMicro(),
		})
		if err == nil {
			return seen, nil
		}
		if !apierrors.IsConflict(err) {
			return nil, err
		}
		if seen, err = p.client.migration(ctx, seen); err != nil {
			return nil, err
		}
	}
}

func whyNot(m *v1alpha1.Migration) string {
	switch {
	case !m.Open():
		return fmt.Sprintf("it was closed as %s", m.Status.Result)
	case m.Status.Claim != nil:
		return fmt.Sprintf("pod %s has claimed it", m.Status.Claim.PodName)
	case m.Withdrawing():
		return fmt.Sprintf("it is being withdrawn (%s)", m.Status.Reason)
	default:
		return "it is being deleted"
	}
}

func claimMessage(m *v1alpha1.Migration, node string, ps *predictions) string {
	how := "lost with"
	if m.Planned() {
		how = "moved off"
	}
	lost := fmt.Sprintf("Takes the place of pod %s, %s node %s (migration %s)", m.Spec.Pod.Name, how, m.Spec.SourceNode, m.Name)
	held := m.Status.Checkpoint
	if m.Clones() {
		lost = fmt.Sprintf("Starts as a clone of pod %s, which runs on (migration %s)", m.Spec.Clone.Pod.Name, m.Name)
	}
	switch {
	case m.Planned() && m.Spec.Strategy == v1alpha1.StrategyApplication:
		return fmt.Sprintf("%s: starts on node %s, and takes the state over there", lost, node)
	case m.Planned() && !m.Clones() && !m.SourceStopped():
		return fmt.Sprintf("%s: to be restored on node %s when that is stopped", lost, node)
	case held == nil:
		return fmt.Sprintf("%s: starts anew on node %s, because no node holds a checkpoint", lost, node)
	}
	text := fmt.Sprintf("%s: to be restored on node %s from generation %d", lost, node, held.Generation)
	if !slices.Contains(held.Holders, node) {
		text += ", which other nodes hold,"
	}
	if ps == nil {
		return text
	}
	return text + ps.sentence(node)
}
