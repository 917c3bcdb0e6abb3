package trigger

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestRestraint: whatever happens to a cluster, with all triggers on, no pod is moved that
// is being moved, that somebody has called back, or too often; and pressure moves one pod
// at a time.
func TestRestraint(t *testing.T) {
	begun := map[v1alpha1.MigrationReason]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(io.Discard)
		if err := w.switchOn([]string{"spot", "cordons", "pressure"}); err != nil {
			t.Fatal(err)
		}
		names := []string{"n1", "n2", "n3"}
		command := func(args ...string) {
			if err := w.do(args); err != nil {
				t.Fatal(err)
			}
		}
		command(append([]string{"nodes"}, names...)...)
		pods := rapid.IntRange(1, 5).Draw(t, "pods")
		for i := range pods {
			command("pod", fmt.Sprintf("p-%d", i), "on", rapid.SampledFrom(names).Draw(t, "node"), fmt.Sprintf("priority=%d", i%3))
		}
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			node := rapid.SampledFrom(names).Draw(t, "node")
			reason := string(rapid.SampledFrom([]v1alpha1.MigrationReason{v1alpha1.MigrationNodePressure, v1alpha1.MigrationSpotInterruption, v1alpha1.MigrationNodeDrained}).Draw(t, "reason"))
			open := fmt.Sprintf("p-%d", rapid.IntRange(0, pods-1).Draw(t, "pod"))
			if w.open(open) == nil {
				open = ""
			}
			switch what := rapid.SampledFrom([]string{"signal", "quiet", "leader", "pause", "resume", "withdraw", "arrive", "wait", "wait"}).Draw(t, "what"); {
			case what == "signal":
				command("quiet", node, reason)
				command("signal", node, reason, rapid.SampledFrom([]string{"0s", "30s", "2m"}).Draw(t, "notice"), "seen")
			case what == "quiet":
				command("quiet", node, reason)
			case what == "withdraw" && open != "":
				command("closes", open, "Withdrawn", rapid.SampledFrom([]string{v1alpha1.ReasonSourceFailed, v1alpha1.ReasonCanceled, v1alpha1.ReasonNotAllowed}).Draw(t, "why"))
			case what == "arrive" && open != "":
				command("arrives", open, "on", node)
				command("closes", open, "Restored")
			case what == "leader", what == "pause", what == "resume":
				command(what, "work")
			}
			for range rapid.IntRange(1, 45).Draw(t, "seconds") {
				before := len(w.migrations)
				w.until(w.now.Add(tick))
				for i := before; i < len(w.migrations); i++ {
					begun[w.migrations[i].Spec.Reason]++
					if why := w.wrong(i); why != "" {
						t.Fatalf("at %s migration %s (%s): %s", w.passed(), w.migrations[i].Name, w.migrations[i].Spec.Reason, why)
					}
				}
			}
		}
	})
	for _, reason := range []v1alpha1.MigrationReason{v1alpha1.MigrationNodePressure, v1alpha1.MigrationSpotInterruption, v1alpha1.MigrationNodeDrained} {
		if begun[reason] == 0 {
			t.Errorf("nothing was ever moved because of %s", reason)
		}
	}
}

// wrong is why a Migration should not have been recorded, given those before it.
func (w *world) wrong(i int) string {
	m := &w.migrations[i]
	if w.paused != "" {
		return "recoveries are paused"
	}
	pressure := m.Spec.Reason == v1alpha1.MigrationNodePressure
	tries := 0
	for _, other := range slices.Backward(w.migrations[:i]) {
		sincePod, same := m.CreationTimestamp.Sub(other.CreationTimestamp.Time), other.Spec.Pod.UID == m.Spec.Pod.UID
		switch {
		case same && other.Open():
			return "the pod is being moved"
		case pressure && other.Open() && other.Spec.Reason == m.Spec.Reason:
			return "another pod is being moved because of pressure"
		case pressure && other.Spec.Reason == m.Spec.Reason && other.Spec.SourceNode == m.Spec.SourceNode && sincePod < coolDown:
			return "the node cools down"
		case pressure && other.Spec.Reason == m.Spec.Reason && other.Status.Claim != nil && other.Status.Claim.PodUID == m.Spec.Pod.UID && sincePod < settled:
			return "the pod came because of pressure"
		case !same || other.Spec.Reason != m.Spec.Reason || sincePod > time.Hour:
		case other.Status.Reason == v1alpha1.ReasonCanceled || other.Status.Reason == v1alpha1.ReasonNotAllowed:
			return "the move was called back, or is not allowed"
		case sincePod < tryAgain:
			return "it is tried again too soon"
		default:
			if tries++; tries == maxTries {
				return "it was tried often enough"
			}
		}
	}
	return ""
}
