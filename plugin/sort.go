package plugin

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kube-scheduler/framework"
)

// SortName is the name of the queue's plugin in a KubeSchedulerConfiguration.
const SortName = "LifeboatSort"

// LifeboatSort orders the scheduling queue by priority, then recoveries before
// other pods, then by time, which is PrioritySort but for the recoveries. It
// knows them from the plugin Lifeboat.
type LifeboatSort struct {
	waiting *waiting
}

var _ framework.QueueSortPlugin = (*LifeboatSort)(nil)

// Name is the plugin's name.
func (*LifeboatSort) Name() string { return SortName }

// Less says whether a comes before b.
func (s *LifeboatSort) Less(a, b framework.QueuedPodInfo) bool {
	podA, podB := a.GetPodInfo().GetPod(), b.GetPodInfo().GetPod()
	if x, y := priority(podA), priority(podB); x != y {
		return x > y
	}
	if x, y := s.waiting.get(podA).recovery, s.waiting.get(podB).recovery; x != y {
		return x
	}
	return a.GetTimestamp().Before(b.GetTimestamp())
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// A Factory makes a plugin of one profile.
type Factory = func(ctx context.Context, arguments runtime.Object, handle framework.Handle) (framework.Plugin, error)

// Factories returns what makes the plugins Lifeboat and LifeboatSort of one
// scheduler. The second knows the recoveries from the first.
func Factories() (place, sort Factory) {
	shared := newWaiting()
	place = func(ctx context.Context, arguments runtime.Object, handle framework.Handle) (framework.Plugin, error) {
		return newLifeboat(ctx, arguments, handle, shared)
	}
	sort = func(_ context.Context, arguments runtime.Object, _ framework.Handle) (framework.Plugin, error) {
		if arguments != nil {
			return nil, errors.New("plugin LifeboatSort takes no arguments; remove its entry from pluginConfig")
		}
		return &LifeboatSort{waiting: shared}, nil
	}
	return place, sort
}
