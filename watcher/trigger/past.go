package trigger

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// maxTries is how often a pod's move is begun for one reason within triesWithin.
	maxTries    = 3
	triesWithin = time.Hour
	// tryAgain is how long after a move was asked for another one may be.
	tryAgain = 30 * time.Second
)

// past is what has become of the moves of a pod that is where it was.
type past struct {
	// open is a Migration by which the pod is leaving or arriving.
	open *v1alpha1.Migration
	// last is the newest of the tried ones, that were withdrawn or failed for the reason
	// within triesWithin.
	last  *v1alpha1.Migration
	tried int
	// refused is one of these that says that the pod cannot be moved, and canceled one
	// that somebody gave up.
	refused, canceled *v1alpha1.Migration
}

// pastOf looks a pod up in the Migrations.
func pastOf(pod *corev1.Pod, reason v1alpha1.MigrationReason, migrations []v1alpha1.Migration, now time.Time) past {
	var p past
	for i := range migrations {
		m := &migrations[i]
		switch {
		case m.Namespace != pod.Namespace:
		case m.Open() && (leaves(m, pod) || m.ClaimedBy(pod.UID)):
			p.open = m
		case !m.Planned() || m.Spec.Reason != reason || !leaves(m, pod) || now.Sub(m.CreationTimestamp.Time) > triesWithin:
		default:
			p.tried++
			if p.last == nil || m.CreationTimestamp.After(p.last.CreationTimestamp.Time) {
				p.last = m
			}
			switch m.Status.Reason {
			case v1alpha1.ReasonNotAllowed:
				p.refused = m
			case v1alpha1.ReasonCanceled:
				p.canceled = m
			}
		}
	}
	return p
}

// mayBegin says whether a move of the pod may be begun by itself. What somebody gave up
// is not begun again.
func (p past) mayBegin(now time.Time) bool {
	return p.open == nil && p.refused == nil && p.canceled == nil && p.tried < maxTries && p.wait(now) <= 0
}

// wait is how long the next try has to wait.
func (p past) wait(now time.Time) time.Duration {
	if p.last == nil {
		return 0
	}
	return p.last.CreationTimestamp.Add(tryAgain).Sub(now)
}

// leaves says whether the Migration takes the pod away.
func leaves(m *v1alpha1.Migration, pod *corev1.Pod) bool { return m.LostPod() == pod.UID }

// movable are the pods that can be moved.
func movable(pods []corev1.Pod) []*corev1.Pod {
	var all []*corev1.Pod
	for i := range pods {
		if p, err := v1alpha1.ParseAnnotations(pods[i].Annotations); err == nil && p.Protected && runs(&pods[i]) && admitted(&pods[i]) {
			all = append(all, &pods[i])
		}
	}
	return all
}

// runs says whether the pod runs, and is one that can be had elsewhere.
func runs(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && (owner == nil || owner.Kind != "DaemonSet" && owner.Kind != "Node")
}

// admitted says whether the pod came through Lifeboat's admission, and is checkpointed.
func admitted(pod *corev1.Pod) bool {
	return ptr.Deref(pod.Spec.RuntimeClassName, "") == v1alpha1.RuntimeClassName
}
