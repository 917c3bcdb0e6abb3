package plugin

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// waiting remembers the protected pods that have no node yet, so that a changed
// Migration or Fence can bring them back to the scheduler. It is safe for
// concurrent use.
type waiting struct {
	mu   sync.Mutex
	pods map[types.UID]types.NamespacedName
}

func newWaiting() *waiting {
	return &waiting{pods: make(map[types.UID]types.NamespacedName)}
}

func (w *waiting) add(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[pod.UID] = types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

func (w *waiting) remove(pod types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, pod)
}

// list returns those that still wait and that the condition holds for, keyed as
// the scheduler's Activate wants them. It forgets pods that are gone or bound.
func (w *waiting) list(lister corelisters.PodLister, condition func(*corev1.Pod) bool) map[string]*corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	pods := make(map[string]*corev1.Pod)
	for uid, name := range w.pods {
		pod, err := lister.Pods(name.Namespace).Get(name.Name)
		if err != nil || pod.UID != uid || pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
			delete(w.pods, uid)
			continue
		}
		if condition(pod) {
			pods[name.String()] = pod
		}
	}
	return pods
}
