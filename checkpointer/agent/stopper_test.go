package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// playedPod is a pod that is stopped in a play: each step can fail, and what was done
// is taken down.
type playedPod struct {
	t *testing.T
	// fails are the steps that fail, and how often; -1 is always.
	fails map[string]int
	steps []string
	// The pod, and its note on the disk.
	frozen, killed, noted, committed bool
	wasCommitted                     bool
}

func (p *playedPod) step(name string) error {
	p.steps = append(p.steps, name)
	if p.fails[name] != 0 {
		p.fails[name]--
		return fmt.Errorf("%s fails", name)
	}
	return nil
}

func (p *playedPod) Still() error {
	if !p.frozen {
		p.t.Error("asked for a pod that runs")
	}
	return p.step(fmt.Sprintf("still, committed=%t", p.committed))
}

func (p *playedPod) Kill(context.Context) error {
	if !p.committed || !p.frozen {
		p.t.Error("killed without a note, or while it runs: after a crash nobody knows")
	}
	err := p.step("kill")
	p.killed = err == nil
	return err
}

func (p *playedPod) Release(context.Context) error {
	if p.committed {
		p.t.Error("let go though the note says that it is killed: after a crash it would be")
	}
	err := p.step("release")
	p.frozen = err != nil
	return err
}

func (p *playedPod) Cgroups() []string { return []string{"/pod/main"} }

func (p *playedPod) stopper(strategy v1alpha1.Strategy) stopper {
	s := stopper{
		log:   slog.New(slog.NewTextHandler(p.t.Output(), nil)),
		begin: func() error { err := p.step("begin"); p.noted = err == nil; return err },
		hook:  func(context.Context) error { return p.step("hook") },
		take: func(context.Context) (v1alpha1.HeldCheckpoint, held, error) {
			if !p.noted {
				p.t.Error("frozen without a note: after a crash nobody says what became of it")
			}
			if err := p.step("take"); err != nil {
				return v1alpha1.HeldCheckpoint{}, nil, err
			}
			p.frozen = true
			return v1alpha1.HeldCheckpoint{Generation: 7, TakenAt: metav1.NewMicroTime(time.Now()), Holders: []string{"here"}}, p, nil
		},
		commit: func(_ v1alpha1.SourceStatus, h held) error {
			err := p.step("commit")
			p.committed, p.wasCommitted = true, true // also where it says that it failed
			return err
		},
		retract: func() error {
			err := p.step("retract")
			p.committed = p.committed && err != nil
			return err
		},
		undo: func(context.Context) { _ = p.step("undo") },
	}
	if strategy != v1alpha1.StrategyLive {
		s.copyAway = func(context.Context, int64) ([]string, int64, error) { return []string{"there"}, 100, p.step("copy") }
	}
	return s
}

// TestStop: whichever step fails, the pod runs on, or it was killed and that is told;
// and if the power goes in between, the note on the disk says the same.
func TestStop(t *testing.T) {
	for name, tc := range map[string]struct {
		strategy v1alpha1.Strategy
		fails    map[string]int
		killed   bool
		undone   bool
	}{
		"all goes well":                            {strategy: v1alpha1.StrategyCold, killed: true},
		"all goes well, without a copy":            {strategy: v1alpha1.StrategyLive, killed: true},
		"the disk is full":                         {fails: map[string]int{"begin": 1}},
		"the hook fails":                           {fails: map[string]int{"hook": 1}},
		"CRIU fails":                               {fails: map[string]int{"take": 1}, undone: true},
		"no other node takes a copy":               {fails: map[string]int{"copy": 1}, undone: true},
		"it was thawed":                            {fails: map[string]int{"still, committed=false": 1}, undone: true},
		"it was thawed while it was noted":         {fails: map[string]int{"still, committed=true": 1}, undone: true},
		"the note fails":                           {fails: map[string]int{"commit": 1}, undone: true},
		"the note fails, and cannot be undone":     {fails: map[string]int{"commit": 1, "retract": 3}, undone: true},
		"it cannot be thawed at once":              {fails: map[string]int{"copy": 1, "release": 3}, undone: true},
		"it cannot be killed at once":              {fails: map[string]int{"kill": 3}, killed: true},
		"it cannot be killed at once, and no copy": {strategy: v1alpha1.StrategyLive, fails: map[string]int{"kill": 3, "copy": -1}, killed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &playedPod{t: t, fails: tc.fails}
				status, err := p.stopper(tc.strategy).stop(t.Context())
				t.Log(strings.Join(p.steps, "; "), err)
				if (err == nil) != tc.killed || p.killed != tc.killed || (status.StoppedAt != nil) != tc.killed {
					t.Errorf("killed: %t, told: %v, %v", p.killed, status.StoppedAt, err)
				}
				if p.killed != p.committed || p.frozen && !p.killed {
					t.Errorf("it is left so: %+v", p)
				}
				if slices.Contains(p.steps, "undo") != tc.undone {
					t.Errorf("its hook is undone: %t", !tc.undone)
				}
				if tc.killed && (status.PausedAt == nil || status.Checkpoint.Generation != 7) {
					t.Errorf("told: %+v", status)
				}
				if tc.strategy == v1alpha1.StrategyCold && (len(status.Checkpoint.Holders) != 2 || status.BytesSent != 100) {
					t.Errorf("told: %+v", status)
				}
			})
		})
	}
}

// TestStopThatIsInterrupted: the checkpointer is told to end while nothing succeeds.
func TestStopThatIsInterrupted(t *testing.T) {
	for step, committed := range map[string]bool{"kill": true, "retract": true} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &playedPod{t: t, fails: map[string]int{step: -1}}
				if step == "retract" {
					p.fails["commit"] = 1
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				status, err := p.stopper(v1alpha1.StrategyLive).stop(ctx)
				if !errors.Is(err, errUnfinished) || status.StoppedAt != nil {
					t.Errorf("it is told that it ended: %v, %v", status.StoppedAt, err)
				}
				if !p.frozen || p.committed != committed {
					t.Errorf("the next checkpointer finds it so: %+v", p)
				}
			})
		})
	}
}

// TestNotes: what one checkpointer writes the next one reads, but for what the power
// cut short.
func TestNotes(t *testing.T) {
	folder := t.TempDir()
	s, err := openStops(folder)
	if err != nil {
		t.Fatal(err)
	}
	note := stopNote{PodUID: "u1", Source: v1alpha1.SourceStatus{BytesSent: 3}}
	if err := errors.Join(s.write(note), s.write(stopNote{PodUID: "u2"})); err != nil {
		t.Fatal(err)
	}
	note.Committed = true
	if err := errors.Join(s.write(note), s.drop("u2"), s.drop("u3")); err != nil {
		t.Fatal(err)
	}
	again, err := openStops(folder)
	if err != nil || !again.committed("u1") || again.of("u1").Source.BytesSent != 3 || again.of("u2") != nil || len(again.all()) != 1 {
		t.Errorf("%+v, %v", again, err)
	}
}
