package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/membership"
)

func TestAliveCheckpointers(t *testing.T) {
	member := func(name string, kind membership.Kind, state membership.State, address string) membership.Member {
		return membership.Member{Name: name, Kind: kind, State: state, Address: address}
	}
	got := aliveCheckpointers([]membership.Member{
		member("alive", membership.Checkpointer, membership.Alive, "10.0.0.1:7946"),
		member("suspect", membership.Checkpointer, membership.Suspect, "[fd00::2]:7946"),
		member("dead", membership.Checkpointer, membership.Dead, "10.0.0.3:7946"),
		member("left", membership.Checkpointer, membership.Left, "10.0.0.4:7946"),
		member("watcher", membership.Watcher, membership.Alive, "10.0.0.5:7946"),
	})
	if diff := cmp.Diff(map[string]string{"alive": "10.0.0.1", "suspect": "fd00::2"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMovedPodIsToldOnce: the old node says once that it stops, however often it tries.
func TestMovedPodIsToldOnce(t *testing.T) {
	w := newWorld(t, nil)
	events := record.NewFakeRecorder(10)
	w.recorder, w.movedPods = events, map[string]bool{}
	w.metrics = newMetrics(w.Agent)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0", UID: "old"}}
	for range 3 {
		w.stopCheckpoints(pod, "a holder said so")
	}
	if got := len(events.Events); got != 1 {
		t.Errorf("%d events", got)
	}
	if got := testutil.ToFloat64(w.metrics.movedAway.WithLabelValues("shop")); got != 1 {
		t.Errorf("counted %v", got)
	}
	if !w.movedPods["old"] {
		t.Error("the pod is checkpointed again")
	}
}
