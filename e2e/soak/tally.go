package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// tally is what was seen of Lifeboat and the pods while the load lasted.
type tally struct {
	// Declared, refuted and fenced count what became of the nodes' fence records.
	declared, refuted, fenced int
	// notReady counts the nodes that Kubernetes itself took for lost.
	notReady int
	// migrations are all that there were, by name: what came of each.
	migrations map[string]outcome
	// restarts are the containers that started anew, or pods that others replaced.
	restarts []string
	// leads counts the watchers that ended themselves because they could not renew
	// their Lease in time, and started anew. The other one goes on meanwhile.
	leads int
	// frozen is how long a fencer froze each pod at most, by its name.
	frozen map[string]time.Duration
	// froze and kills count what the fencers did to pods; refutations is the fencers'
	// own count.
	froze, kills, refutations float64
	// standstill is the longest time between two answers of a pod, by its name.
	standstill map[string]time.Duration
	// answers counts the answers of each pod while the load lasted.
	answers map[string]int
	// changed says which pods' processes are not those of the beginning, and why.
	changed []string

	fences map[string]v1alpha1.FenceSpec
	pods   map[types.UID]*podCount
}

// podCount is what a pod was when it was last seen.
type podCount struct {
	name     string
	restarts map[string]int32 // by container
	seen     bool
}

// outcome is what came of a Migration.
type outcome string

const (
	held      outcome = "held"      // it only says why nothing is done about a node that looks lost
	withdrawn outcome = "withdrawn" // it was held, and the node lives
	begun     outcome = "begun"     // the pod's node was fenced
)

// migration notes what has come of a Migration. One that was begun stays so.
func (t *tally) migration(m *v1alpha1.Migration) {
	name := m.Namespace + "/" + m.Name
	switch {
	case t.migrations[name] == begun || m.Reached(v1alpha1.PhaseFenced):
		t.migrations[name] = begun
	case m.Open():
		t.migrations[name] = held
	case m.Status.Result == v1alpha1.ResultWithdrawn:
		t.migrations[name] = withdrawn
	default:
		t.migrations[name] = begun
	}
}

// came counts the Migrations of which that came.
func (t *tally) came(of outcome) (count int) {
	for _, outcome := range t.migrations {
		if outcome == of {
			count++
		}
	}
	return count
}

func newTally() *tally {
	return &tally{
		migrations: map[string]outcome{}, standstill: map[string]time.Duration{}, answers: map[string]int{},
		fences: map[string]v1alpha1.FenceSpec{}, pods: map[types.UID]*podCount{},
	}
}

// fence counts what has become of a fence record since it was last seen, and says
// whether its node has just been declared lost. What happened in between counts too.
func (t *tally) fence(node string, now v1alpha1.FenceSpec) (declared bool) {
	before, known := t.fences[node]
	t.fences[node] = now
	if !known {
		before = v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, Epoch: now.Epoch}
		if now.State == v1alpha1.FenceFenced {
			before.Epoch--
		}
	}
	wasLost := before.State == v1alpha1.FenceLost
	switch {
	case now.Epoch > before.Epoch:
		t.fenced += int(now.Epoch - before.Epoch)
		declared = !wasLost
	case now.State == v1alpha1.FenceLost:
		declared = !wasLost
	case wasLost && now.State == v1alpha1.FenceRunning:
		t.refuted++
	}
	if declared {
		t.declared++
	}
	return declared
}

// podsAre counts the containers that have started anew since the pods were last seen,
// and the pods that are no longer the same.
func (t *tally) podsAre(pods []corev1.Pod) {
	first := len(t.pods) == 0
	for _, known := range t.pods {
		known.seen = false
	}
	for _, pod := range pods {
		name := pod.Namespace + "/" + pod.Name
		known := t.pods[pod.UID]
		if known == nil {
			if !first {
				t.restarts = append(t.restarts, name+" is a new pod")
			}
			known = &podCount{name: name, restarts: map[string]int32{}}
			t.pods[pod.UID] = known
		}
		known.seen = true
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			before, counted := known.restarts[status.Name]
			known.restarts[status.Name] = status.RestartCount
			if !counted || status.RestartCount <= before {
				continue
			}
			if lostLead(&pod, status) {
				t.leads += int(status.RestartCount - before)
			} else {
				t.restarts = append(t.restarts, fmt.Sprintf("%s: container %s started anew%s", name, status.Name, whyEnded(status)))
			}
		}
	}
	for uid, known := range t.pods {
		if !known.seen {
			t.restarts = append(t.restarts, known.name+" is gone")
			delete(t.pods, uid)
		}
	}
}

// lostLead says whether a container is a watcher that has ended itself, as one does that
// does not know any more whether it leads.
func lostLead(pod *corev1.Pod, status corev1.ContainerStatus) bool {
	ended := status.LastTerminationState.Terminated
	return pod.Namespace == v1alpha1.SystemNamespace && status.Name == "watcher" && ended != nil && ended.ExitCode == 1
}

func whyEnded(status corev1.ContainerStatus) string {
	if ended := status.LastTerminationState.Terminated; ended != nil {
		return fmt.Sprintf(" after %s with code %d", ended.Reason, ended.ExitCode)
	}
	return ""
}

// stood notes a standstill of a pod.
func (t *tally) stood(pod string, length time.Duration) {
	t.standstill[pod] = max(t.standstill[pod], length)
}

// verdict returns everything that speaks against Lifeboat: nil when the load made it
// neither move nor hurt a pod. No pod may have been frozen for longer than limit.
func (t *tally) verdict(limit time.Duration) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if t.fenced > 0 {
		fault("%d declarations of a node that was alive went as far as Fenced", t.fenced)
	}
	if n := t.came(begun); n > 0 {
		fault("%d Migrations were begun though no node was lost", n)
	}
	if n := t.came(held); n > 0 {
		fault("%d Migrations are still held though every node lives", n)
	}
	for _, restart := range t.restarts {
		fault("%s", restart)
	}
	if t.kills > 0 {
		fault("%.0f pods were killed by a fencer", t.kills)
	}
	for pod, length := range t.frozen {
		if length > limit {
			fault("pod %s was frozen for %.2f s, and %s are allowed", pod, length.Seconds(), limit)
		}
	}
	if t.froze > 0 && len(t.frozen) == 0 {
		fault("%.0f freezes were counted, and how long they took was not found in the fencers' logs", t.froze)
	}
	for pod, answers := range t.answers {
		if answers == 0 {
			fault("the %s never answered under load, so nothing was measured of it", pod)
		}
	}
	for _, changed := range t.changed {
		fault("%s", changed)
	}
	return errors.Join(faults...)
}
