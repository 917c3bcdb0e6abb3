package agent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// takeRequest makes a pod due at once when somebody has asked for a generation since
// the last time, as the watcher does when the node may go soon. a.mu is held.
func (a *Agent) takeRequest(ctx context.Context, pod *corev1.Pod, state *podState, now time.Time) {
	checkpoint := &v1alpha1.Checkpoint{}
	if err := a.cache.Get(ctx, ctrlclient.ObjectKeyFromObject(pod), checkpoint); err != nil {
		return // it has none yet, and is due for its first generation
	}
	at := requestOf(checkpoint, pod.UID)
	if !at.After(state.requested) {
		return
	}
	state.requested = at
	if newest := state.summary.newest.Load(); newest == nil || newest.TakenAt.Before(at) {
		a.schedule.request(pod.UID, now)
	}
}

// requestOf is when the newest generation was asked for that is not answered yet,
// zero if none was. The moment is the asker's, and only ever compared with others of
// its kind: clocks differ.
func requestOf(checkpoint *v1alpha1.Checkpoint, pod types.UID) time.Time {
	if checkpoint.Spec.PodUID != pod {
		return time.Time{} // an earlier pod's
	}
	at, err := time.Parse(time.RFC3339Nano, checkpoint.Annotations[v1alpha1.AnnotationCheckpointRequested])
	if err != nil {
		return time.Time{}
	}
	at = at.Truncate(time.Microsecond) // as it is reported
	if answered := checkpoint.Status.Requested; answered != nil && !at.After(answered.Time) {
		return time.Time{}
	}
	return at
}
