package plugin

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Name is the plugin's name in a KubeSchedulerConfiguration.
const Name = "Lifeboat"

// Lifeboat places protected pods. For a pod that takes the place of a lost one
// it claims the Migration, keeps off nodes that cannot restore the checkpoint,
// and prefers those that hold it.
type Lifeboat struct {
	handle  framework.Handle
	pods    corelisters.PodLister
	client  *client
	cache   *cache
	claims  *claims
	waiting *waiting
	logger  klog.Logger
}

var (
	_ framework.PreFilterPlugin   = (*Lifeboat)(nil)
	_ framework.FilterPlugin      = (*Lifeboat)(nil)
	_ framework.PreScorePlugin    = (*Lifeboat)(nil)
	_ framework.ScorePlugin       = (*Lifeboat)(nil)
	_ framework.ReservePlugin     = (*Lifeboat)(nil)
	_ framework.PreBindPlugin     = (*Lifeboat)(nil)
	_ framework.EnqueueExtensions = (*Lifeboat)(nil)
	_ framework.SignPlugin        = (*Lifeboat)(nil)
)

// New starts the plugin; its informers run until ctx ends. Lifeboat's custom
// resource definitions may be installed later. It takes no arguments.
func New(ctx context.Context, arguments runtime.Object, handle framework.Handle) (framework.Plugin, error) {
	if arguments != nil {
		return nil, errors.New("plugin Lifeboat takes no arguments; remove its entry from pluginConfig")
	}
	client, err := newClient(handle.KubeConfig())
	if err != nil {
		return nil, err
	}
	p := &Lifeboat{
		handle:  handle,
		pods:    handle.SharedInformerFactory().Core().V1().Pods().Lister(),
		client:  client,
		claims:  newClaims(),
		waiting: newWaiting(),
		logger:  klog.FromContext(ctx).WithValues("plugin", Name),
	}
	if p.cache, err = newCache(ctx, client, p); err != nil {
		return nil, err
	}
	return p, nil
}

// Name is the plugin's name.
func (p *Lifeboat) Name() string { return Name }

// protected says whether the pod is the plugin's concern. A pod whose
// annotations are wrong is not: it runs unprotected.
func protected(pod *corev1.Pod) bool {
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	return err == nil && protection.Protected
}

// EventsToRegister names the scheduler's own events that may let a rejected pod
// be placed. Changed Migrations and Fences bring pods back by migrationChanged
// and fenceChanged.
func (p *Lifeboat) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		{Event: framework.ClusterEvent{Resource: framework.Node, ActionType: framework.Add}},
	}, nil
}

// migrationChanged brings back the waiting pods that may take the moved pod's place.
func (p *Lifeboat) migrationChanged(before, after *v1alpha1.Migration) {
	m := after
	if m == nil {
		m = before
	}
	if m == nil {
		return
	}
	if after == nil || !after.Open() || after.Status.Claim != nil {
		p.claims.forget(m.UID)
	}
	p.activate(func(pod *corev1.Pod) bool { return succeeds(pod, m) })
}

// fenceChanged brings back every waiting pod when a node's admission changes.
func (p *Lifeboat) fenceChanged(before, after *v1alpha1.Fence) {
	if sameForPlacement(before, after) {
		return
	}
	p.activate(func(*corev1.Pod) bool { return true })
}

func (p *Lifeboat) activate(condition func(*corev1.Pod) bool) {
	if pods := p.waiting.list(p.pods, condition); len(pods) > 0 {
		p.handle.Activate(p.logger, pods)
	}
}

// SignPod keeps protected pods out of the scheduler's batches: where one may go
// depends on its Migration, not on its spec. It says nothing about other pods.
func (p *Lifeboat) SignPod(_ context.Context, pod *corev1.Pod) ([]framework.SignFragment, *framework.Status) {
	if protected(pod) {
		return nil, framework.NewStatus(framework.Unschedulable, "protected pods are placed one by one")
	}
	return nil, nil
}

// unusable is the status of a node that no eviction of other pods would make usable.
func unusable(reason string) *framework.Status {
	return framework.NewStatus(framework.UnschedulableAndUnresolvable, reason)
}

// failed is the status of a pod that is to be tried again.
func failed(pod *corev1.Pod, err error) *framework.Status {
	return framework.AsStatus(fmt.Errorf("place protected pod %s/%s: %w", pod.Namespace, pod.Name, err))
}
