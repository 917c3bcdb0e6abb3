package plugin

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// allNamespaces stands for no namespace in particular.
const allNamespaces = ""

// waiting remembers the protected pods that have no node yet, so that a changed
// Migration or Fence can bring them back to the scheduler. It is safe for
// concurrent use.
type waiting struct {
	mu   sync.RWMutex
	pods map[string]map[types.UID]waitingPod // by namespace
}

type waitingPod struct {
	name string
	// seen is when the plugin first saw the pod.
	seen time.Time
	// placement is what was found out about the pod when it was last tried; nil
	// while it was not, or is held.
	placement *placement
	// held says that the pod has to wait before it can be tried.
	held bool
	// wide says that the chosen nodes could not take the pod.
	wide bool
	// recovery says that the pod takes a lost one's place.
	recovery bool
	// told is what the pod's last event said of why it is held.
	told string
}

func newWaiting() *waiting {
	return &waiting{pods: map[string]map[types.UID]waitingPod{}}
}

// add returns when the pod was first seen.
func (w *waiting) add(pod *corev1.Pod) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known, ok := w.pods[pod.Namespace][pod.UID]; ok {
		return known.seen
	}
	now := time.Now()
	put(w.pods, pod.Namespace, pod.UID, waitingPod{name: pod.Name, seen: now})
	return now
}

// tried notes what was found out about a pod.
func (w *waiting) tried(pod *corev1.Pod, pl *placement) {
	w.change(pod, func(known *waitingPod) { known.placement, known.held = pl, false })
}

// hold notes that a pod has to wait, and letGo that it has not, before it can be tried.
func (w *waiting) hold(pod *corev1.Pod) {
	w.change(pod, func(known *waitingPod) { known.placement, known.held = nil, true })
}

func (w *waiting) letGo(pod *corev1.Pod) {
	w.change(pod, func(known *waitingPod) { known.held = false })
}

// widen notes that the chosen nodes could not take the pod.
func (w *waiting) widen(pod *corev1.Pod) {
	w.change(pod, func(known *waitingPod) { known.wide = true })
}

// recovers notes that the pod takes a lost one's place. It is noted before the
// pod enters the scheduling queue, so that its place there does not change.
func (w *waiting) recovers(pod *corev1.Pod) {
	w.change(pod, func(known *waitingPod) { known.recovery = true })
}

// tell says whether the pod is to be told why it is held: whether that is
// something else than it was told last.
func (w *waiting) tell(pod *corev1.Pod, why string) (news bool) {
	w.change(pod, func(known *waitingPod) {
		news = known.told != why
		known.told = why
	})
	return news
}

func (w *waiting) change(pod *corev1.Pod, change func(*waitingPod)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known, ok := w.pods[pod.Namespace][pod.UID]; ok {
		change(&known)
		w.pods[pod.Namespace][pod.UID] = known
	}
}

// get is what is known of a pod that waits; nothing when it does not.
func (w *waiting) get(pod *corev1.Pod) waitingPod {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.pods[pod.Namespace][pod.UID]
}

func (w *waiting) remove(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	drop(w.pods, pod.Namespace, pod.UID)
}

// list returns those of a namespace, or of all, that still wait and that the
// condition holds for, keyed as the scheduler's Activate wants them. It forgets
// pods that are gone or bound.
func (w *waiting) list(lister corelisters.PodLister, namespace string, condition func(*corev1.Pod, waitingPod) bool) map[string]*corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	pods := make(map[string]*corev1.Pod)
	for in, waiting := range w.pods {
		if namespace != allNamespaces && namespace != in {
			continue
		}
		for uid, known := range waiting {
			pod, err := lister.Pods(in).Get(known.name)
			if err != nil || pod.UID != uid || pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
				drop(w.pods, in, uid)
				continue
			}
			if condition(pod, known) {
				pods[in+"/"+known.name] = pod
			}
		}
	}
	return pods
}
