package plugin

import (
	"context"
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
// and prefers the node that is expected to have it restored first.
type Lifeboat struct {
	handle  framework.Handle
	pods    corelisters.PodLister
	args    *Args
	model   Model
	client  *client
	watches watches
	records *records
	reads   *reads
	claims  *claims
	room    *room
	waiting *waiting
	logger  klog.Logger
}

var (
	_ framework.PreEnqueuePlugin  = (*Lifeboat)(nil)
	_ framework.PreFilterPlugin   = (*Lifeboat)(nil)
	_ framework.FilterPlugin      = (*Lifeboat)(nil)
	_ framework.PostFilterPlugin  = (*Lifeboat)(nil)
	_ framework.PreScorePlugin    = (*Lifeboat)(nil)
	_ framework.ScorePlugin       = (*Lifeboat)(nil)
	_ framework.ScoreExtensions   = (*Lifeboat)(nil)
	_ framework.ReservePlugin     = (*Lifeboat)(nil)
	_ framework.PreBindPlugin     = (*Lifeboat)(nil)
	_ framework.EnqueueExtensions = (*Lifeboat)(nil)
	_ framework.SignPlugin        = (*Lifeboat)(nil)
)

// newLifeboat starts the plugin; its informers run until ctx ends. Lifeboat's
// custom resource definitions may be installed later. The arguments are Args.
func newLifeboat(ctx context.Context, arguments runtime.Object, handle framework.Handle, shared *waiting) (*Lifeboat, error) {
	args, err := ParseArgs(arguments)
	if err != nil {
		return nil, err
	}
	client, err := newClient(handle.KubeConfig())
	if err != nil {
		return nil, err
	}
	p := &Lifeboat{
		handle:  handle,
		pods:    handle.SharedInformerFactory().Core().V1().Pods().Lister(),
		args:    args,
		model:   args.model(),
		client:  client,
		records: newRecords(),
		claims:  newClaims(),
		room:    newRoom(),
		waiting: shared,
		logger:  klog.FromContext(ctx).WithValues("plugin", Name),
	}
	p.reads = newReads(ctx, p.read, p.readDone)
	if p.watches, err = watch(ctx, client, p); err != nil {
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
