package plugin

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// EventHeld is the reason of the event on a pod that is held back for a while.
const EventHeld = "LifeboatHeld"

// hold is why a pod has to wait before it can be placed.
type hold struct {
	why string
	// brief says that it is a matter of milliseconds, which nobody has to be told of.
	brief bool
}

// PreEnqueue holds a pod back while its Migration is being prepared, or looked
// for, instead of having a scheduling cycle fail. It also finds out whether the
// pod is a recovery, which LifeboatSort puts first.
func (p *Lifeboat) PreEnqueue(_ context.Context, pod *corev1.Pod) *framework.Status {
	if !protected(pod) {
		return nil
	}
	m, held := p.prepare(pod)
	if m != nil {
		p.waiting.recovers(pod)
	}
	if held == nil {
		p.waiting.letGo(pod)
		return nil
	}
	p.waiting.hold(pod)
	if !*p.args.HoldPods {
		return nil
	}
	if !held.brief && p.waiting.tell(pod, held.why) {
		p.handle.EventRecorder().Eventf(pod, nil, corev1.EventTypeNormal, EventHeld, "Holding", "Held back: %s", held.why)
	}
	return unusable(held.why)
}

// prepare finds the Migration that the pod may claim, nil when it replaces no
// lost pod, and says why the pod has to wait, if it has to. It never waits itself.
//
// A pod must not start anew only because the watch is behind. The successor of a
// lost pod is created after the Migration was recorded and the lost pod's node
// fenced. So a read that began after the pod was seen shows the Migration, and one
// that began after the Migration was seen shows the node as it is: what the
// watch does not prove is read, once for all pods that wait for it.
func (p *Lifeboat) prepare(pod *corev1.Pod) (*v1alpha1.Migration, *hold) {
	seen := p.waiting.add(pod)
	m := p.matchFree(pod)
	if m == nil {
		read, err := p.reads.since(subject{migrationsOf, pod.Namespace}, seen)
		if !read {
			return nil, reading("the Migrations of namespace "+pod.Namespace, err)
		}
		m = p.matchFree(pod)
	}
	if m == nil && pod.Labels[v1alpha1.LabelClone] != "" {
		return nil, &hold{why: "it is a clone, and starts by the migration that it was made for or not at all: that is closed, or gone; delete the pod"}
	}
	if m == nil {
		if freed := p.toBeFreed(pod); freed != nil {
			return nil, &hold{why: fmt.Sprintf("pod %s, which was to take over by migration %s, failed or is deleted, and its claim is to be taken from it", freed.Status.Claim.PodName, freed.Name)}
		}
	}
	if m != nil && !prepared(m) {
		return m, &hold{why: fmt.Sprintf("migration %s is being prepared", m.Name)}
	}
	if !p.watches.fencesTold() {
		if read, err := p.reads.since(subject{kind: allFences}, seen); !read {
			return m, reading("the Fences", err)
		}
	}
	if m == nil || m.Planned() {
		return m, nil
	}
	source := p.records.node(m.Spec.SourceNode)
	if source == nil || source.fence.Spec.State == v1alpha1.FenceRunning {
		// It was fenced when the Migration was recorded. Is it back, or is the watch behind?
		if read, err := p.reads.since(subject{fenceOf, m.Spec.SourceNode}, p.records.seen(m)); !read {
			return m, reading("the Fence of node "+m.Spec.SourceNode, err)
		}
	}
	return m, nil
}

func reading(what string, err error) *hold {
	if err != nil {
		return &hold{why: fmt.Sprintf("waiting for the API server: %s cannot be read: %v", what, err)}
	}
	return &hold{why: "reading " + what, brief: true}
}

// toBeFreed is a Migration that the pod may claim as soon as the claim is taken from a pod
// that is deleted or failed, nil where there is none. An owner makes the pod after it has
// deleted that one, or seen it ended, so that the watch has told so of that one before.
func (p *Lifeboat) toBeFreed(pod *corev1.Pod) *v1alpha1.Migration {
	for _, m := range p.records.open(pod) {
		if !takesBack(pod, m) {
			continue
		}
		claimant, err := p.pods.Pods(m.Namespace).Get(m.Status.Claim.PodName)
		if err != nil || claimant.UID != m.Status.Claim.PodUID || claimant.DeletionTimestamp != nil || claimant.Status.Phase == corev1.PodFailed {
			return m
		}
	}
	return nil
}

// matchFree leaves out the Migrations that other pods were given just now.
func (p *Lifeboat) matchFree(pod *corev1.Pod) *v1alpha1.Migration {
	return Match(pod, slices.DeleteFunc(p.records.open(pod), func(m *v1alpha1.Migration) bool {
		return !p.claims.free(m.UID, pod.UID)
	}))
}

// read reads a subject and takes over what it is.
func (p *Lifeboat) read(ctx context.Context, s subject) error {
	switch s.kind {
	case migrationsOf:
		return p.client.readMigrations(ctx, s.name, p.records)
	case fenceOf:
		return p.client.readFence(ctx, s.name, p.records)
	default:
		return p.client.readFences(ctx, p.records)
	}
}

// readDone brings back the pods that may have waited for a read.
func (p *Lifeboat) readDone(s subject) {
	namespace := allNamespaces
	if s.kind == migrationsOf {
		namespace = s.name
	}
	p.activate(namespace, func(pod *corev1.Pod, w waitingPod) bool {
		if !w.held {
			return false // it did not wait for this
		}
		return s.kind != fenceOf || slices.ContainsFunc(p.records.open(pod), func(m *v1alpha1.Migration) bool {
			return m.Spec.SourceNode == s.name
		})
	})
}

func (p *Lifeboat) activate(namespace string, condition func(*corev1.Pod, waitingPod) bool) {
	if pods := p.waiting.list(p.pods, namespace, condition); len(pods) > 0 {
		p.handle.Activate(p.logger, pods)
	}
}
