package agent

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// isMoved says whether a pod was moved away from the node that it ran on. The cache
// may be some milliseconds behind: the next checkpoint shows.
func (a *Agent) isMoved(key store.Key) bool {
	var list v1alpha1.MigrationList
	if err := a.cache.List(context.Background(), &list, inNamespace(key.Namespace)); err != nil {
		a.log.Error("look whether a pod was moved", "pod", key.String(), "err", err)
		return false
	}
	return moved(list.Items, key.PodUID)
}

// stopCheckpoints ends the checkpoints of a pod that was moved away while this node
// did not hear of it. It is told once: the pod's history goes on elsewhere, and what
// this copy does is no part of it.
func (a *Agent) stopCheckpoints(pod *corev1.Pod, why string) {
	a.mu.Lock()
	told := a.movedPods[string(pod.UID)]
	a.movedPods[string(pod.UID)] = true
	a.mu.Unlock()
	if told {
		return
	}
	a.log.Warn("pod is not checkpointed any more: it was moved away", "pod", pod.Namespace+"/"+pod.Name, "reason", why)
	a.metrics.movedAway.WithLabelValues(pod.Namespace).Inc()
	a.recorder.Eventf(pod, corev1.EventTypeWarning, "LifeboatMoved",
		"The pod was moved away from node %s; what its copy here does is not checkpointed any more.", a.cfg.NodeName)
}

// isHere says whether a pod is on this node, as far as the cache knows.
func (a *Agent) isHere(podUID string) bool {
	var list corev1.PodList
	if err := a.cache.List(context.Background(), &list); err != nil {
		return true
	}
	for i := range list.Items {
		if string(list.Items[i].UID) == podUID {
			return true
		}
	}
	return false
}
