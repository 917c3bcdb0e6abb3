package v1alpha1

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMigrationName(t *testing.T) {
	long := strings.Repeat("a", 250) + ".-b"
	for _, tc := range []struct {
		pod   string
		epoch int64
		want  string
	}{
		{"cart-0", 1, "cart-0-1"},
		{long, 12, strings.Repeat("a", 250) + "-12"},
	} {
		got := MigrationName(tc.pod, tc.epoch)
		if got != tc.want || len(got) > 253 {
			t.Errorf("name = %s of %d characters, want %s", got, len(got), fmt.Sprint(tc.want))
		}
	}
}

func TestNewMove(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cart-0", Namespace: "shop", UID: "u"}}
	pod.Spec.NodeName = "n1"
	known := []Migration{{}, {}}
	known[0].Spec = MigrationSpec{Pod: PodIdentity{Name: "cart-0"}, Epoch: 3}
	known[1].Spec, known[1].Status.Claim = MigrationSpec{Pod: PodIdentity{Name: "other"}, Epoch: 7}, &Claim{PodUID: "u"}
	checkpoint := &Checkpoint{Status: CheckpointStatus{Epoch: 5}}
	if got := NextEpoch(pod, checkpoint, known[:1]); got != 6 {
		t.Errorf("epoch %d, want one more than the checkpoint's", got)
	}
	if got := NextEpoch(pod, nil, known); got != 8 {
		t.Errorf("epoch %d, want one more than that of the Migration that the pod claimed", got)
	}
	for name, tc := range map[string]struct {
		annotations map[string]string
		move        Move
		want        Strategy
		deadline    int32
	}{
		"not protected": {nil, Move{}, StrategyReplace, 600},
		"protected":     {map[string]string{AnnotationFailover: "true"}, Move{Deadline: time.Minute}, StrategyLive, 60},
		"annotation":    {map[string]string{AnnotationFailover: "true", AnnotationStrategy: "warm"}, Move{}, StrategyWarm, 600},
		"asked for":     {map[string]string{AnnotationFailover: "true", AnnotationStrategy: "warm"}, Move{Strategy: StrategyCold, Deadline: time.Millisecond}, StrategyCold, 1},
	} {
		pod.Annotations = tc.annotations
		m := NewMove(pod, tc.move, 8, time.Now())
		if m.Spec.Strategy != tc.want || m.Spec.DeadlineSeconds != tc.deadline || m.Name != "cart-0-8" || m.Spec.SourceNode != "n1" || m.Spec.Epoch != 8 {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// TestNextRequest: a request whose asker's clock was ahead is not in the way of the next.
func TestNextRequest(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 1999, time.UTC)
	for before, want := range map[string]time.Time{
		"":                               now.Truncate(time.Microsecond),
		"no moment":                      now.Truncate(time.Microsecond),
		"2026-05-31T00:00:00Z":           now.Truncate(time.Microsecond),
		"2026-06-01T01:00:00.000000500Z": time.Date(2026, 6, 1, 1, 0, 0, 1000, time.UTC),
	} {
		c := &Checkpoint{}
		c.Annotations = map[string]string{AnnotationCheckpointRequested: before}
		if got := c.NextRequest(now); !got.Equal(want) {
			t.Errorf("after %q: %s, want %s", before, got, want)
		}
	}
}

// TestBeganAt: whoever asks for a move may have a clock that is wrong.
func TestBeganAt(t *testing.T) {
	created := time.Date(2026, 3, 1, 12, 0, 5, 0, time.UTC)
	for name, tc := range map[string]struct {
		strategy    Strategy
		asked, want time.Duration // after creation
	}{
		"it agrees":                 {StrategyLive, 400 * time.Millisecond, 400 * time.Millisecond},
		"it is ahead":               {StrategyLive, time.Hour, 0},
		"it is behind":              {StrategyLive, -time.Minute, 0},
		"a failover began before":   {StrategyFailover, -3 * time.Second, -3 * time.Second},
		"it was asked just before":  {StrategyLive, -time.Millisecond, 0},
		"the last moment that fits": {StrategyLive, time.Second - time.Microsecond, time.Second - time.Microsecond},
	} {
		m := &Migration{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)},
			Spec: MigrationSpec{Strategy: tc.strategy, LostAt: metav1.NewMicroTime(created.Add(tc.asked))}}
		if got := m.BeganAt(); !got.Equal(created.Add(tc.want)) {
			t.Errorf("%s: it began at %s", name, got)
		}
	}
	m := &Migration{Spec: MigrationSpec{Strategy: StrategyLive, LostAt: metav1.NewMicroTime(created)}}
	if !m.BeganAt().Equal(created) {
		t.Error("one that is not created yet has no time of the server's")
	}
}
