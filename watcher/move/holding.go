package move

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/endpoints"
)

const (
	// aloneFor is how long Lifeboat's own EndpointSlices have to be the only ones with the
	// pod before they are changed. kube-proxy applies changes at most once a second. The
	// one that took the pod out of Kubernetes' slices may have had to wait for that long,
	// and the next one is to be applied at once.
	aloneFor = 2100 * time.Millisecond
	// appliedWithin is how long the nodes get to apply that change before the pod is
	// stopped. Who connects meanwhile waits, so it is short; who reaches the old pod on a
	// node that is later is cut off with everybody who is connected.
	appliedWithin = 150 * time.Millisecond
	// backFor is how long a pod has to be ready in Kubernetes' slices again before
	// Lifeboat's own are removed: until kube-proxy has applied that.
	backFor = 1100 * time.Millisecond
	// holdingTakes bounds the steps from the first own slice until the pod is to be
	// stopped. A move that needs longer goes on without.
	holdingTakes = 20 * time.Second
	// targetSays is how long after the successor was parked its node may take to say where
	// connections wait.
	targetSays = 2 * time.Second
	// holdAtMost is how long after Stopping connections are led to where they wait.
	holdAtMost = time.Minute
	// holdLonger is how long after its move a pod may take to be back in Kubernetes' slices.
	holdLonger = 30 * time.Second
	// lookAtSlices is how often slices are looked at: nothing tells that they have changed.
	lookAtSlices = 50 * time.Millisecond
)

// Holding is what is known of the connections that are to wait while a pod is stopped.
type Holding struct {
	// Ports are the pod's TCP ports to which Services lead now, as long as the pod's node
	// has not been asked to hold any.
	Ports []int32
	// Obstacle is why connections must not be held, empty where they may.
	Obstacle string
	// At is where the claim's node has them wait, nil where it says of none.
	At *v1alpha1.Holding
	// Shown is where Lifeboat's own slices lead.
	Shown endpoints.Shown
	// Old is how Kubernetes' slices show the moved pod, and New how they show its successor.
	Old, New endpoints.State
	// Since is since when it was seen that Old, New and Shown are as they are.
	Since time.Time
}

func holdingCondition(m *v1alpha1.Migration) *metav1.Condition {
	return meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionHoldingConnections)
}

// Holds says whether Lifeboat's own slices may exist for a Migration.
func Holds(m *v1alpha1.Migration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionHoldingConnections)
}

// MayHold says whether it matters for the next step of a move whether connections can wait:
// the old pod is to run until its successor is parked.
func MayHold(m *v1alpha1.Migration) bool {
	return m.Open() && m.Spec.Strategy == v1alpha1.StrategyLive && m.Released() && m.Reached(v1alpha1.PhaseAccepted) &&
		!m.Reached(v1alpha1.PhaseStopping) && m.Status.Reason == ""
}

// askToHold says whether the target is to be asked to hold connections: before it parks
// the successor, so that it needs no further time.
func askToHold(v *View) bool {
	return v.Holding != nil && v.Migration.PortsToHold() == nil && v.Holding.Obstacle == "" && len(v.Holding.Ports) > 0
}

// holdBeforeStop is what is next for the connections of a move whose pod could be stopped;
// false where that need not wait for them any more.
func holdBeforeStop(v *View) (Step, bool) {
	m, h := v.Migration, v.Holding
	condition := holdingCondition(m)
	if h == nil || len(m.PortsToHold()) == 0 || condition != nil && condition.Reason != v1alpha1.ReasonHolding {
		return Step{}, false
	}
	wait := func(look time.Time) (Step, bool) { return Step{Do: Wait, Look: look}, true }
	if h.Obstacle == "" && h.At == nil && condition == nil {
		if until := phaseAt(m, v1alpha1.PhaseParked).Add(targetSays); v.Now.Before(until) {
			return wait(until)
		}
	}
	if why := notHeld(v, condition); why != "" {
		return Step{Do: StopHolding, Message: why}, true
	}
	switch {
	case condition == nil:
		return Step{Do: BeginHolding}, true
	case h.Shown == endpoints.ShowsNothing:
		return Step{Do: ShowOld}, true
	case len(v.Selected) > 0:
		return Step{Do: LeaveServices}, true
	case h.Old != endpoints.Missing:
		return wait(v.Now.Add(lookAtSlices))
	case h.Shown == endpoints.ShowsOld && v.Now.Before(h.Since.Add(aloneFor)):
		return wait(v.Now.Add(lookAtSlices))
	case h.Shown != endpoints.ShowsNew:
		return Step{Do: ShowNew}, true
	case v.Now.Before(h.Since.Add(appliedWithin)):
		return wait(h.Since.Add(appliedWithin))
	}
	return Step{}, false
}

// notHeld is why connections cannot wait, or not any more, empty where they can.
func notHeld(v *View, condition *metav1.Condition) string {
	m, h := v.Migration, v.Holding
	switch {
	case h.Obstacle != "":
		return h.Obstacle
	case h.At == nil:
		return "the node that the pod goes to does not hold connections"
	case condition != nil && v.Now.After(condition.LastTransitionTime.Add(holdingTakes)):
		return fmt.Sprintf("it was not possible within %s to lead them to where they wait", holdingTakes)
	case h.Shown == endpoints.ShowsNothing && h.Old != endpoints.Ready:
		return "the pod is not ready in the EndpointSlices of its Services"
	case !v1alpha1.PodReady(v.Pod):
		return "the pod is not Ready"
	}
	for _, port := range m.PortsToHold() {
		if h.At.At(port) == 0 {
			return fmt.Sprintf("the node that the pod goes to does not hold connections to port %d", port)
		}
	}
	return ""
}

// TendHolding is what is next for the connections of a move that has stopped its pod, is
// being given up, or has ended. It is apart from the move, which never waits for it.
// EndHolding comes for all that have begun to.
func TendHolding(v *View) Step {
	m, h := v.Migration, v.Holding
	if !Holds(m) || h == nil {
		return Step{Do: Wait}
	}
	condition := holdingCondition(m)
	end := func(reason, message string) Step { return Step{Do: EndHolding, Reason: reason, Message: message} }
	given := m.Status.Result == v1alpha1.ResultWithdrawn || m.Withdrawing()
	switch {
	case condition.Reason != v1alpha1.ReasonHolding:
		return end(condition.Reason, condition.Message)
	case given && (m.Status.Reason == v1alpha1.ReasonSourceLost || !is(v.Pod, m) || v.Pod.DeletionTimestamp != nil):
		return end(v1alpha1.ReasonNotHeld, "there is no pod that they could wait for")
	case given:
		return tendGivenUp(v)
	case m.Open() && !m.Reached(v1alpha1.PhaseStopping):
		return Step{Do: Wait} // it is part of the move
	case m.Status.Claim == nil || h.At == nil || v.TargetFenced || v.Successor == nil || v.Successor.DeletionTimestamp != nil,
		!m.Open() && m.Status.Result != v1alpha1.ResultRestored:
		return end(v1alpha1.ReasonNotHeld, "the pod did not come back where they wait")
	case m.Open() && v.Now.After(phaseAt(m, v1alpha1.PhaseStopping).Add(holdAtMost)), !m.Open() && v.Now.After(h.Since.Add(holdLonger)):
		return end(v1alpha1.ReasonNotHeld, "it took too long until the pod's own endpoints were ready")
	case h.Shown == endpoints.ShowsNothing && h.New == endpoints.Ready: // by a watcher that came no further
		return end(v1alpha1.ReasonReleased, "the pod's own endpoints are in use again")
	case h.Shown == endpoints.ShowsNothing:
		return end(v1alpha1.ReasonNotHeld, "somebody has removed the EndpointSlices")
	case h.Shown != endpoints.ShowsNew:
		return Step{Do: ShowNew, Look: v.Now.Add(lookAtSlices)} // they wait elsewhere by now
	case h.New != endpoints.Ready || v.Now.Before(h.Since.Add(backFor)):
		return Step{Do: Wait, Look: v.Now.Add(lookAtSlices)}
	}
	return end(v1alpha1.ReasonReleased, "the pod's own endpoints are in use again")
}

// tendGivenUp leads connections back to the pod that runs on.
func tendGivenUp(v *View) Step {
	m, h := v.Migration, v.Holding
	switch {
	case h.Shown == endpoints.ShowsNew || h.Shown == endpoints.ShowsMixed:
		return Step{Do: ShowOld, Look: v.Now.Add(lookAtSlices)}
	case h.Shown == endpoints.ShowsNothing, h.Old == endpoints.Unready, // its own endpoint says what holds
		!m.Open() && v.Now.After(h.Since.Add(holdLonger)):
		return Step{Do: EndHolding, Reason: v1alpha1.ReasonReleased, Message: "the pod runs on"}
	case m.Open() || h.Old != endpoints.Ready || v.Now.Before(h.Since.Add(backFor)):
		return Step{Do: Wait, Look: v.Now.Add(lookAtSlices)}
	}
	return Step{Do: EndHolding, Reason: v1alpha1.ReasonReleased, Message: "the pod runs on, and its own endpoint is in use again"}
}
