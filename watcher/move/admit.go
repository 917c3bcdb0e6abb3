package move

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// lookWhileHeld is how often a move is looked at that has to wait for others.
const lookWhileHeld = time.Second

// admit decides about a move that is not accepted yet.
func admit(v *View) Step {
	m := v.Migration
	if why := asked(m); why != "" {
		return withdraw(v1alpha1.ReasonCanceled, why)
	}
	if why := notAllowed(v); why != "" {
		return withdraw(v1alpha1.ReasonNotAllowed, why)
	}
	reason, why := held(v)
	if deadline := Deadline(m); !v.Now.Before(deadline) {
		switch reason {
		case v1alpha1.HeldBudget:
			return withdraw(v1alpha1.ReasonBudget, why)
		case "":
			why = "nobody took it up"
		}
		return withdraw(v1alpha1.ReasonDeadlineExceeded, fmt.Sprintf("the move had not begun by its deadline: %s", why))
	}
	if reason == "" {
		return Step{Do: Accept}
	}
	return Step{Do: Hold, Held: reason, Message: why, Look: v.Now.Add(lookWhileHeld)}
}

// asked is why somebody asked for the move to be given up, empty when nobody did.
func asked(m *v1alpha1.Migration) string {
	why, ok := m.Annotations[v1alpha1.AnnotationCancel]
	if ok && why == "" {
		why = "it was asked for"
	}
	return why
}

// notAllowed is why the pod cannot be moved so, empty when it can.
func notAllowed(v *View) string {
	m, pod := v.Migration, v.Pod
	for i := range v.Others {
		if other := &v.Others[i]; concerns(other, m) && before(other, m) {
			return fmt.Sprintf("migration %s moves the pod already; wait for its end, or cancel it", other.Name)
		}
	}
	switch {
	case !is(pod, m):
		return fmt.Sprintf("pod %s with the UID %s does not exist any more", m.Spec.Pod.Name, m.LostPod())
	case pod.Spec.NodeName != m.Spec.SourceNode:
		return fmt.Sprintf("pod %s runs on node %q and not on %s, as spec.sourceNode says", pod.Name, pod.Spec.NodeName, m.Spec.SourceNode)
	case pod.DeletionTimestamp != nil:
		return fmt.Sprintf("pod %s is being deleted", pod.Name)
	case pod.Status.Phase != corev1.PodRunning:
		return fmt.Sprintf("pod %s is %s; only a running pod can be moved", pod.Name, pod.Status.Phase)
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && (owner.Kind == "DaemonSet" || owner.Kind == "Node") {
		return fmt.Sprintf("pod %s belongs to its node: its owner is %s %s", pod.Name, owner.Kind, owner.Name)
	}
	if id := v1alpha1.IdentityOf(pod); id != m.Spec.Pod {
		// Whoever asks for a move must not say whose next pod takes over the state.
		return fmt.Sprintf("the owner of pod %s is %q and not %q, as spec.pod says", pod.Name, id.OwnerKind+"/"+id.OwnerName, m.Spec.Pod.OwnerKind+"/"+m.Spec.Pod.OwnerName)
	}
	if why := strategyNotAllowed(v); why != "" {
		return why
	}
	return targetNotAllowed(v)
}

// concerns says whether another Migration moves the same pod, or to it.
func concerns(other, m *v1alpha1.Migration) bool {
	pod := m.LostPod()
	return other.Namespace == m.Namespace && other.Open() &&
		(other.LostPod() == pod || other.Status.Claim != nil && other.Status.Claim.PodUID == pod)
}

// before says whether another Migration of the same pod comes first.
func before(other, m *v1alpha1.Migration) bool {
	if !other.Planned() || other.Reached(v1alpha1.PhaseAccepted) {
		return true
	}
	if !other.CreationTimestamp.Equal(&m.CreationTimestamp) {
		return other.CreationTimestamp.Before(&m.CreationTimestamp)
	}
	return other.Spec.Epoch < m.Spec.Epoch
}

// strategyNotAllowed is why the pod cannot be moved by this strategy.
func strategyNotAllowed(v *View) string {
	pod, strategy := v.Pod, v.Migration.Spec.Strategy
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	switch {
	case err != nil:
		return fmt.Sprintf("pod %s: %s", pod.Name, err)
	case strategy == v1alpha1.StrategyReplace:
		return ""
	case !protection.Protected:
		return fmt.Sprintf("pod %s is not protected, so that it has no state to move; set its annotation %s to \"true\", or use strategy Replace", pod.Name, v1alpha1.AnnotationFailover)
	case strategy == v1alpha1.StrategyApplication:
		if protection.StateExport == nil || protection.StateImport == nil {
			return fmt.Sprintf("strategy Application needs the annotations %s and %s of pod %s; set them, or use another strategy",
				v1alpha1.AnnotationStateExport, v1alpha1.AnnotationStateImport, pod.Name)
		}
	}
	if protection.Connections == v1alpha1.ConnectionsKeep && strategy != v1alpha1.StrategyApplication {
		switch {
		case pod.Spec.HostNetwork:
			return fmt.Sprintf("pod %s has its node's address, which cannot move with its connections; set its annotation %s to \"close\"", pod.Name, v1alpha1.AnnotationConnections)
		case len(pod.Status.PodIPs) > 1:
			return fmt.Sprintf("pod %s has more than one address, and connections can be kept at a single one; set its annotation %s to \"close\"", pod.Name, v1alpha1.AnnotationConnections)
		}
	}
	if class := pod.Spec.RuntimeClassName; class == nil || *class != v1alpha1.RuntimeClassName {
		return fmt.Sprintf("pod %s was created while Lifeboat's admission did not answer, and cannot be checkpointed; delete it, so that its owner makes it anew", pod.Name)
	}
	if c := v.Checkpoint; Stateful(strategy) && c != nil && c.Spec.PodUID == pod.UID {
		if condition := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionCheckpointable); condition != nil && condition.Status == metav1.ConditionFalse {
			return fmt.Sprintf("pod %s cannot be checkpointed: %s", pod.Name, condition.Message)
		}
	}
	return ""
}

// targetNotAllowed is why the pod cannot go to the node that was asked for.
func targetNotAllowed(v *View) string {
	target, node := v.Migration.Spec.TargetNode, v.Target
	switch {
	case target == "":
		return ""
	case target == v.Migration.Spec.SourceNode:
		return fmt.Sprintf("the pod runs on node %s already", target)
	case v.Pod.Spec.SchedulerName != v1alpha1.SchedulerName:
		return fmt.Sprintf("pod %s is placed by %s, which does not know to which node it is to go; leave the node out", v.Pod.Name, v.Pod.Spec.SchedulerName)
	case v.Migration.Spec.Strategy == v1alpha1.StrategyReplace:
		return "strategy Replace leaves the node to the scheduler; leave it out"
	case node == nil:
		return fmt.Sprintf("node %s does not exist", target)
	case node.Spec.Unschedulable:
		return fmt.Sprintf("node %s is cordoned", target)
	case !nodeReady(node):
		return fmt.Sprintf("node %s is not Ready", target)
	case !v.TargetUsable:
		return fmt.Sprintf("node %s may not run protected pods: it has no Fence that says Running", target)
	}
	return ""
}

func nodeReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// held is why the move has to wait, empty when it has not. Pods of a node that is
// taken away do not wait for each other, or for a budget: they would be lost.
func held(v *View) (v1alpha1.HeldReason, string) {
	m := v.Migration
	urgent := m.Spec.Reason == v1alpha1.MigrationSpotInterruption
	var all, source, target int
	for i := range v.Others {
		other := &v.Others[i]
		if !other.Planned() || other.Clones() || !takesPlace(other, m) {
			continue
		}
		owner := m.Spec.Pod.OwnerUID
		if !urgent && owner != "" && other.Spec.Pod.OwnerUID == owner && other.Reached(v1alpha1.PhaseAccepted) {
			return v1alpha1.HeldSameOwner, fmt.Sprintf("migration %s moves another pod of %s %s; they are moved one after the other",
				other.Name, m.Spec.Pod.OwnerKind, m.Spec.Pod.OwnerName)
		}
		all++
		if touches(other, m.Spec.SourceNode) {
			source++
		}
		if m.Spec.TargetNode != "" && touches(other, m.Spec.TargetNode) {
			target++
		}
	}
	for _, budget := range v.Budgets {
		if !urgent && budget.Allowed <= 0 {
			return v1alpha1.HeldBudget, fmt.Sprintf("PodDisruptionBudget %s does not allow to disrupt the pod just now", budget.Name)
		}
	}
	const text = "%d pods are being moved %s, which is as many as may at a time"
	switch {
	case all >= v.Limits.Cluster:
		return v1alpha1.HeldMoveLimit, fmt.Sprintf(text, all, "in the cluster")
	case source >= v.Limits.PerNode:
		return v1alpha1.HeldMoveLimit, fmt.Sprintf(text, source, "from or to node "+m.Spec.SourceNode)
	case target >= v.Limits.PerNode:
		return v1alpha1.HeldMoveLimit, fmt.Sprintf(text, target, "from or to node "+m.Spec.TargetNode)
	}
	return "", ""
}

// takesPlace says whether another move counts against the limits: it is under way, or
// it was asked for earlier and waits for nothing but the limits.
func takesPlace(other, m *v1alpha1.Migration) bool {
	if other.Reached(v1alpha1.PhaseAccepted) {
		return true
	}
	waits := other.Status.Held == nil || other.Status.Held.Reason == v1alpha1.HeldMoveLimit
	return waits && !other.Withdrawing() && !concerns(other, m) && other.CreationTimestamp.Before(&m.CreationTimestamp)
}

func touches(m *v1alpha1.Migration, node string) bool {
	return m.Spec.SourceNode == node || m.Spec.TargetNode == node || m.Status.Claim != nil && m.Status.Claim.NodeName == node
}
