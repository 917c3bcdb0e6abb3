package main

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// successorsEnd: the pod that is to take a moved one's place is deleted by somebody, or is
// not admitted by its kubelet, as that one is being stopped, when it has been, and when it
// is gone. Each time the next pod of the owner takes over, and the last one has the state.
func successorsEnd(t *testing.T, c *cluster) {
	c.serve(t, "axed")
	old := c.makePod(t, "axed-1", ofDeployment("axed"), onNode("n4"), admitted)
	c.run(t, old)
	m := c.move(t, old, v1alpha1.Move{Strategy: v1alpha1.StrategyLive})
	next := c.succeed(t, m, old, "axed-2", "n3")
	c.park(t, m, next)
	c.reached(t, m, v1alpha1.PhaseParked)
	c.prepare(t, m)
	c.reached(t, m, v1alpha1.PhaseStopping)
	end := func(successor string, rejected bool) {
		t.Helper()
		if rejected {
			c.reject(t, next)
		} else if err := c.Delete(t.Context(), next, client.GracePeriodSeconds(30)); err != nil {
			t.Fatal(err) // its kubelet has yet to end it: that it is being deleted is enough
		}
		c.until(t, m, "nobody's", func(m *v1alpha1.Migration) bool { return m.Status.Claim == nil })
		if !m.Open() {
			t.Fatalf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
		}
		if !rejected {
			c.kill(t, next)
		}
		next = c.makePod(t, successor, ofDeployment("axed"), admitted)
		c.claimAndBind(t, m, next, "n2")
	}
	end("axed-3", false)
	end("axed-4", true)
	paused := c.stop(t, m)
	c.reached(t, m, v1alpha1.PhaseDeleted)
	end("axed-5", false)
	end("axed-6", true)
	c.restored(t, m, next, paused)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Created Scheduled Parked Prepared Stopping Stopped Deleted Restoring Ready")
	c.event(t, m.Name, "SuccessorEnded")

	set := c.makePod(t, "felled-0", ownedBy("StatefulSet", "felled"), onNode("n4"), admitted)
	c.run(t, set)
	m = c.move(t, set, v1alpha1.Move{Strategy: v1alpha1.StrategyWarm})
	c.reached(t, m, v1alpha1.PhaseStopping)
	paused = c.stop(t, m)
	c.gone(t, set)
	for _, node := range []string{"n3", "n2"} {
		next = c.makePod(t, "felled-0", ownedBy("StatefulSet", "felled"), admitted, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](0) })
		c.claimAndBind(t, m, next, node)
		if node == "n3" {
			if err := c.Delete(t.Context(), next); err != nil {
				t.Fatal(err)
			}
			c.until(t, m, "nobody's", func(m *v1alpha1.Migration) bool { return m.Status.Claim == nil })
		}
	}
	c.restored(t, m, next, paused)
	c.run(t, next)
	c.moved(t, m, v1alpha1.ResultRestored, "Accepted Stopping Stopped Deleted Created Scheduled Restoring Ready")
}

// reject is what a kubelet does that does not admit a pod.
func (c *cluster) reject(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "Pod was rejected: The node had condition: [DiskPressure]."}
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}
