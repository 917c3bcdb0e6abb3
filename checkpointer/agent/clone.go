package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// A clone is a pod that starts from another pod's checkpoint, beside it. What cannot be
// restored does not start: a clone that started anew would look like what was asked for.

// isClone says whether a pod was made as a clone.
func isClone(pod *corev1.Pod) bool { return pod != nil && pod.Labels[v1alpha1.LabelClone] != "" }

// notYetCloned says why a container of a clone that has claimed no open Migration must not
// start anew, or "": it has been restored, and is started again as any other is. Whole is
// whether the pod has generations of its own: none is taken before all memory is there.
func notYetCloned(migrations []v1alpha1.Migration, pod *corev1.Pod, container string, whole bool) string {
	if !isClone(pod) {
		return ""
	}
	for i := range migrations {
		m := &migrations[i]
		switch {
		case !m.ClonedBy(pod):
		case m.Status.Result == v1alpha1.ResultRestored && m.ClaimedBy(pod.UID):
			return ""
		case m.Open():
			return fmt.Sprintf("its pod is a clone, and has not claimed migration %s for this node", m.Name)
		default:
			return fmt.Sprintf("its pod is a clone, and migration %s was closed as %s", m.Name, m.Status.Result)
		}
	}
	if whole {
		return "" // somebody has removed the record since
	}
	return fmt.Sprintf("its pod is a clone of which no migration with the UID %s tells that it was restored; container %s does not start anew", pod.Labels[v1alpha1.LabelClone], container)
}

// hasGenerations says whether the node's store has generations of a pod itself.
func (a *Agent) hasGenerations(pod *corev1.Pod) bool {
	if !isClone(pod) || a.store == nil {
		return false
	}
	own, err := a.store.List(keyOf(pod))
	if err != nil {
		a.log.Warn("list a clone's own generations", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	return len(own) > 0
}

// notRestored is the answer to a container that could not be restored: of a clone it does
// not start at all.
func notRestored(m *v1alpha1.Migration, why *refusal) (client.CreateResponse, v1alpha1.Result) {
	if m.Clones() {
		return client.CreateResponse{Refuse: fmt.Sprintf("its pod is a clone, and could not be restored (%s): %s", why.reason, why.message)}, v1alpha1.ResultFailed
	}
	return client.CreateResponse{Reason: why.reason}, v1alpha1.ResultColdStarted
}

// fail notes why a container is not restored, and answers what follows. r.mu is held.
func (a *Agent) fail(ctx context.Context, r *restore, req client.CreateRequest, why *refusal) client.CreateResponse {
	resp, result := notRestored(r.migration, why)
	a.log.Warn("container is not restored", "pod", req.Namespace+"/"+req.PodName, "container", req.Name, "result", result, "reason", why.reason, "message", why.message)
	a.finish(ctx, req.PodUID, r, v1alpha1.ContainerRestore{Name: req.Name, Result: result, Reason: why.reason, Message: why.message})
	return resp
}
