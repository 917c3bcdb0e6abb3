package trigger

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// pressureFor is how long a node must have been short of something, by a signal
	// that is no burst itself, for a pod to be moved away.
	pressureFor = 30 * time.Second
	// coolDown is how long after a move the node's next one begins at the earliest: what
	// the first has done shows in the kubelet's conditions only after a while.
	coolDown = 2 * time.Minute
	// relievedFor is how long the node whose pods are moved comes before the others.
	relievedFor = 10 * time.Minute
	// settled is how long a pod that was moved because of pressure stays where it is.
	settled = 30 * time.Minute
)

// relieve moves one pod, the least important first, off one node that is short of
// something. There is never more than one such move in the cluster: where would the pods
// of a second node go? Nor is there any when more than half of the nodes are short.
func (m *Machine) relieve(now time.Time, view View) []Move {
	running, strained := 0, 0
	var short []Node
	for _, node := range view.Nodes {
		if !node.Runs {
			continue
		}
		running++
		if has(node, v1alpha1.MigrationNodePressure) {
			strained++
			if m.emptiedBy(node) == "" {
				short = append(short, node)
			}
		}
	}
	if strained*2 > running {
		return nil
	}
	last := map[string]time.Time{}
	for i := range view.Migrations {
		mig := &view.Migrations[i]
		if !mig.Planned() || mig.Spec.Reason != v1alpha1.MigrationNodePressure {
			continue
		}
		if mig.Open() {
			return nil
		}
		if at := lastStep(mig); at.After(last[mig.Spec.SourceNode]) {
			last[mig.Spec.SourceNode] = at
		}
	}
	relieved := func(node Node) bool { return now.Sub(last[node.Name]) < relievedFor }
	slices.SortFunc(short, func(a, b Node) int {
		switch {
		case relieved(a) != relieved(b):
			return map[bool]int{true: -1, false: 1}[relieved(a)]
		default:
			return cmp.Or(m.pressed[a.Name].Compare(m.pressed[b.Name]), cmp.Compare(a.Name, b.Name))
		}
	})
	for _, node := range short {
		pod := leastImportant(now, node, view.Migrations)
		switch {
		case pod == nil:
		case now.Sub(m.pressed[node.Name]) < pressureFor, now.Sub(last[node.Name]) < coolDown:
			if relieved(node) {
				return nil // the others wait until this one is done
			}
		default:
			return []Move{{Pod: pod, Ask: v1alpha1.Move{Reason: v1alpha1.MigrationNodePressure},
				Because: fmt.Sprintf("node %s is short of something: %s", node.Name, messageOf(node, v1alpha1.MigrationNodePressure))}}
		}
	}
	return nil
}

// leastImportant is the pod of the lowest priority that may be moved off the node, and of
// several the youngest, which has the least to lose; nil if there is none.
func leastImportant(now time.Time, node Node, migrations []v1alpha1.Migration) *corev1.Pod {
	var pods []*corev1.Pod
	for _, pod := range movable(node.Pods) {
		if pastOf(pod, v1alpha1.MigrationNodePressure, migrations, now).mayBegin(now) && !cameOfPressure(pod, migrations, now) {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		return nil
	}
	return slices.MinFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(priority(a), priority(b)), b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// cameOfPressure says whether the pod was moved here a while ago for that reason: it is
// not sent round the cluster.
func cameOfPressure(pod *corev1.Pod, migrations []v1alpha1.Migration, now time.Time) bool {
	return slices.ContainsFunc(migrations, func(m v1alpha1.Migration) bool {
		return m.Spec.Reason == v1alpha1.MigrationNodePressure && m.Planned() && m.ClaimedBy(pod.UID) && now.Sub(lastStep(&m)) < settled
	})
}

// lastStep is when something of a Migration was last done, as far as it tells.
func lastStep(m *v1alpha1.Migration) time.Time {
	at := m.CreationTimestamp.Time
	for _, p := range m.Status.Phases {
		if p.At.After(at) {
			at = p.At.Time
		}
	}
	return at
}
