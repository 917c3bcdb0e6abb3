package migrate

import (
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// TestHolds: the loss is that of the first suspicion, whatever it was held for since,
// and every reason counts from when it began to apply.
func TestHolds(t *testing.T) {
	start := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	report := func(reason v1alpha1.HeldReason, lostAt time.Time, why v1alpha1.MigrationReason, text string) decide.Action {
		return decide.Action{Kind: decide.ReportHeld, Node: "n1", Held: reason, LostAt: lostAt, Why: why, Reason: text}
	}
	h := newHolds()
	h.report(report(v1alpha1.HeldStormGuard, at(1), v1alpha1.MigrationNodePressure, "3 of 5"), at(4))
	h.report(report(v1alpha1.HeldStormGuard, at(2), v1alpha1.MigrationNodeLost, "2 of 5"), at(6))
	held, ok := h.of("n1")
	if !ok || !held.lostAt.Time.Equal(at(1)) || held.reason != v1alpha1.MigrationNodePressure || !held.Since.Time.Equal(at(4)) || held.Message != "2 of 5" {
		t.Errorf("%+v; want the first suspicion, since when it is held, and the newest message", held)
	}
	h.report(report(v1alpha1.HeldPaused, at(2), "", "paused"), at(8))
	if held, _ = h.of("n1"); held.Reason != v1alpha1.HeldPaused || !held.Since.Time.Equal(at(8)) || !held.lostAt.Time.Equal(at(1)) {
		t.Errorf("%+v; want the new reason since it applies", held)
	}
	h.report(decide.Action{Kind: decide.Secure, Node: "n1"}, at(9))
	if _, ok := h.of("n1"); !ok {
		t.Error("an action that is none of its business released the node")
	}
	h.report(decide.Action{Kind: decide.ReportReleased, Node: "n1"}, at(10))
	if _, ok := h.of("n1"); ok {
		t.Error("held after it was released")
	}
	h.report(report(v1alpha1.HeldCoolDown, time.Time{}, "", "it has just answered"), at(20))
	if held, _ = h.of("n1"); !held.lostAt.Time.Equal(at(20)) || held.reason != v1alpha1.MigrationNodeLost {
		t.Errorf("%+v; want it lost now and for no known reason, since nothing else is known", held)
	}
	if n := len(h.changed); n != 5 {
		t.Errorf("the controller was told %d times, want 5", n)
	}
}

// TestLives: a node has to live for a while, without a break, before its Migrations are
// withdrawn.
func TestLives(t *testing.T) {
	start := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	h := newHolds()
	for _, step := range []struct {
		at    time.Duration
		alive bool
		want  bool
	}{
		{0, true, false}, {withdrawAfter - time.Second, true, false}, {withdrawAfter, true, true},
		{withdrawAfter + time.Second, false, false}, {withdrawAfter + 2*time.Second, true, false},
		{2 * withdrawAfter, true, false}, {2*withdrawAfter + 2*time.Second, true, true},
	} {
		lives, look := h.lives("n1", step.alive, start.Add(step.at))
		if lives != step.want {
			t.Errorf("at %s: lives %t, want %t", step.at, lives, step.want)
		}
		if !lives && !look.After(start.Add(step.at)) {
			t.Errorf("at %s: looked at again at %s, which has passed", step.at, look.Sub(start))
		}
	}
}

// TestOnlyTheSameBootRanOn: a node that booted anew while nothing was done about it has
// started its pods anew, and nobody says that they ran on.
func TestOnlyTheSameBootRanOn(t *testing.T) {
	for noted, want := range map[string]v1alpha1.Result{"": v1alpha1.ResultWithdrawn, "boot-2": v1alpha1.ResultWithdrawn, "boot-1": v1alpha1.ResultColdStarted} {
		m, fence := &v1alpha1.Migration{}, &v1alpha1.Fence{}
		fence.Spec.BootID = "boot-2"
		if noted != "" {
			m.Annotations = map[string]string{annotationBoot: noted}
		}
		if v := livesOn(m, fence); v.Result != want {
			t.Errorf("held in boot %q: %+v, want %s", noted, v, want)
		}
	}
}
