package witness

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const workload = "test/ledger"

// epoch is when the histories begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// run is a copy that makes steps from one moment to another, after the given step.
func run(name, pod string, after Step, from, to time.Duration) Copy {
	c := Copy{Name: name, Pod: pod}
	for t := from; t < to; t += StepEvery {
		// The time makes the nonces of two copies differ.
		after = Next(workload, after.Number, after.Hash, uint64(t))
		after.At = at(t)
		c.Steps = append(c.Steps, after)
	}
	return c
}

func born(nonce uint64) Step { return Step{Hash: Birth(workload, nonce)} }

// before is the last step that a copy made before a moment.
func before(c Copy, moment time.Duration) Step {
	var last Step
	for _, s := range c.Steps {
		if s.At.Before(at(moment)) {
			last = s
		}
	}
	return last
}

func seenFrom(address string, c Copy, until time.Duration) []Seen {
	var all []Seen
	for _, s := range c.Steps {
		if s.At.Before(at(until)) {
			all = append(all, Seen{From: address, At: s.At, Step: s})
		}
	}
	return all
}

const s = time.Second

// lossAndRestore is a workload that works for 10 s, whose checkpoint was taken at 8 s,
// and which goes on elsewhere at 13 s.
func lossAndRestore() (History, Copy, Copy) {
	old := run("old", "uid-1", born(1), 0, 10*s)
	restored := run("restored", "uid-2", before(old, 8*s), 13*s, 20*s)
	return History{
		Workload: workload,
		Copies:   []Copy{restored, old},
		Seen:     slices.Concat(seenFrom("10.0.0.1", old, 10*s), seenFrom("10.0.0.2", restored, 20*s)),
		Moves: []Move{{
			Migration: "m1", Pod: "uid-1", Successor: "uid-2", Restored: true,
			TakenAt: at(8 * s), LostAt: at(9900 * time.Millisecond), RPO: 1900 * time.Millisecond,
		}},
		From: at(0), To: at(20 * s),
	}, old, restored
}

func TestLossThatKeepsTheRules(t *testing.T) {
	h, _, _ := lossAndRestore()
	v := Judge(h)
	if len(v.Violations) > 0 {
		t.Errorf("violations: %v", v.Violations)
	}
	if v.Copies != 2 || v.Continued != 1 || v.Overlap != 0 {
		t.Errorf("copies %d, continued %d, overlap %s", v.Copies, v.Continued, v.Overlap)
	}
	if want := 100; v.Lost != want || v.LostSeen != want {
		t.Errorf("lost %d, of them seen %d, want %d", v.Lost, v.LostSeen, want)
	}
	if g := v.Standstill; !g.From.Equal(at(9980*time.Millisecond)) || !g.To.Equal(at(13*s)) {
		t.Errorf("standstill %+v", g)
	}
	if v.Late != 80*time.Millisecond {
		t.Errorf("late by %s", v.Late)
	}
}

// TestStepToldTwice: a step was made just when the pod was told to stop for the checkpoint,
// and told only afterwards, by the old copy and by the restored one.
func TestStepToldTwice(t *testing.T) {
	h, old, _ := lossAndRestore()
	told := before(old, 8*s+StepEvery)
	restored := run("restored", "uid-2", told, 13*s, 20*s)
	restored.Steps = slices.Insert(restored.Steps, 0, told)
	h.Copies = []Copy{restored, old}
	h.Seen = slices.Concat(seenFrom("10.0.0.1", old, 10*s), seenFrom("10.0.0.2", restored, 20*s))
	h.Moves[0].TakenAt = told.At.Add(-StepEvery / 2)
	if v := Judge(h); len(v.Violations) > 0 || v.Overlap != 0 {
		t.Errorf("overlap %s, violations: %v", v.Overlap, v.Violations)
	}
}

func TestViolations(t *testing.T) {
	for name, test := range map[string]struct {
		make func() History
		want Rule
		text string
	}{
		"a copy that was cut off runs on beside the restored one": {func() History {
			h, _, restored := lossAndRestore()
			old := run("old", "uid-1", born(1), 0, 13500*time.Millisecond)
			h.Copies = []Copy{old, restored} // the witness knows nothing of it
			return h
		}, OneCopy, "ran for 500ms"},
		"a copy whose log is gone was heard beside the restored one": {func() History {
			h, old, restored := lossAndRestore()
			ghost := run("ghost", "", before(old, 10*s), 14*s, 15*s)
			h.Seen = append(h.Seen, seenFrom("10.0.0.9", ghost, 20*s)...)
			h.Copies = []Copy{old, restored}
			return h
		}, OneCopy, "at 10.0.0.9"},
		"a restored copy from nowhere": {func() History {
			h, old, _ := lossAndRestore()
			stranger := run("restored", "uid-2", Step{Number: 399, Hash: "feed"}, 13*s, 20*s)
			h.Copies, h.Seen = []Copy{old, stranger}, seenFrom("10.0.0.1", old, 10*s)
			return h
		}, Continued, "step 400"},
		"an older state came back than the one that is reported": {func() History {
			h, old, _ := lossAndRestore()
			h.Copies = []Copy{old, run("restored", "uid-2", before(old, 6*s), 13*s, 20*s)}
			h.Seen = nil
			return h
		}, Kept, "lacks step 301"},
		"an RPO that is too small": {func() History {
			h, _, _ := lossAndRestore()
			h.Moves[0].RPO = s
			return h
		}, WithinRPO, "RPO of 1s"},
		"a cold start that is reported as a restore": {func() History {
			h, old, _ := lossAndRestore()
			h.Copies = []Copy{old, run("restored", "uid-2", born(2), 13*s, 20*s)}
			h.Seen = nil
			return h
		}, Honest, "started anew"},
		"a restore that is reported as a cold start": {func() History {
			h, _, _ := lossAndRestore()
			h.Moves[0].Restored = false
			return h
		}, Honest, "goes on with step 401"},
		"a cold start that nobody reports": {func() History {
			h, old, _ := lossAndRestore()
			h.Copies = []Copy{old, run("anew", "uid-2", born(2), 13*s, 20*s)}
			h.Seen, h.Moves = nil, nil
			return h
		}, Honest, "no Migration says so"},
		"a container that was started again in the restored pod": {func() History {
			h, _, _ := lossAndRestore()
			h.Copies = append(h.Copies, run("restored, again", "uid-2", born(3), 20*s, 21*s))
			return h
		}, Honest, "restored, again started anew"},
		"a successor that is reported and does nothing": {func() History {
			h, old, _ := lossAndRestore()
			h.Copies, h.Seen = []Copy{old}, nil
			return h
		}, Honest, "made no step"},
		"a past that changed": {func() History {
			h, old, _ := lossAndRestore()
			other := run("", "", before(old, 5*s), 5*s+time.Millisecond, 10*s)
			i := len(allBefore(old, 5*s))
			h.Copies[1].Steps = append(slices.Clone(old.Steps[:i+1]), other.Steps[1:]...)
			h.Seen = nil
			return h
		}, Unbroken, "changed its past"},
	} {
		t.Run(name, func(t *testing.T) {
			v := Judge(test.make())
			if !slices.ContainsFunc(v.Violations, func(v Violation) bool {
				return v.Rule == test.want && strings.Contains(v.Message, test.text)
			}) {
				t.Errorf("violations %v, want one of %q that says %q", v.Violations, test.want, test.text)
			}
		})
	}
}

// allBefore are the steps that a copy made before a moment.
func allBefore(c Copy, moment time.Duration) []Step {
	return c.Steps[:slices.IndexFunc(c.Steps, func(s Step) bool { return !s.At.Before(at(moment)) })]
}

// A copy that was cut off and stopped in time is known by its log alone.
func TestCutOffCopyThatStoppedInTime(t *testing.T) {
	h, _, _ := lossAndRestore()
	old := run("old", "uid-1", born(1), 0, 12500*time.Millisecond)
	h.Copies[1] = old
	v := Judge(h)
	if len(v.Violations) > 0 {
		t.Errorf("violations: %v", v.Violations)
	}
	if v.Lost != 225 || v.LostSeen != 100 {
		t.Errorf("lost %d, of them seen %d", v.Lost, v.LostSeen)
	}
}

// The step that was made but not told when the checkpoint was taken is told by both
// copies, with the time of the old one.
func TestStepThatBothCopiesTell(t *testing.T) {
	h, old, _ := lossAndRestore()
	step := before(old, 8*s)
	restored := run("restored", "uid-2", step, 13*s, 20*s)
	restored.Steps = append([]Step{step}, restored.Steps...)
	h.Copies = []Copy{restored, old}
	h.Seen = append(seenFrom("10.0.0.1", old, 10*s), seenFrom("10.0.0.2", restored, 20*s)...)
	if v := Judge(h); len(v.Violations) > 0 || v.Continued != 1 || v.Lost != 100 {
		t.Errorf("violations %v, continued %d, lost %d", v.Violations, v.Continued, v.Lost)
	}
}

// A log can lack lines where whoever reads it did not keep up.
func TestLinesThatTheLogLacks(t *testing.T) {
	h, old, _ := lossAndRestore()
	h.Copies[1].Steps = slices.Concat(old.Steps[:100], old.Steps[200:])
	if v := Judge(h); len(v.Violations) > 0 || v.Standstill.Length() != 3020*time.Millisecond {
		t.Errorf("with the witness: violations %v, standstill %s", v.Violations, v.Standstill.Length())
	}
	h.Seen = nil
	if v := Judge(h); len(v.Violations) > 0 {
		t.Errorf("without: violations %v", v.Violations)
	}
}

func TestParseLog(t *testing.T) {
	first := run("", "", born(1), 0, s)
	second := run("", "", born(2), 2*s, 3*s)
	var log strings.Builder
	for _, step := range slices.Concat(first.Steps, second.Steps) {
		log.WriteString("2026-01-01T00:00:00.000000000Z stdout F " + step.String() + "\n")
	}
	whole := log.String()
	copies, err := ParseLog(strings.NewReader(whole[:len(whole)-30]), workload, Copy{Name: "c", Pod: "uid"})
	if err != nil {
		t.Fatal(err)
	}
	if len(copies) != 2 || len(copies[0].Steps) != 50 || len(copies[1].Steps) != 49 || copies[1].Name != "c, again (1)" || copies[1].Pod != "uid" {
		t.Errorf("%d copies: %+v", len(copies), copies)
	}
	if copies[0].Steps[7] != first.Steps[7].local() {
		t.Errorf("got %v, want %v", copies[0].Steps[7], first.Steps[7])
	}
	if _, err := ParseStep(strings.Replace(first.Steps[3].String(), " 4 ", " 5 ", 1)); err == nil {
		t.Error("a step with another number was read")
	}
}

// local has the step's time in the zone in which logs are read.
func (s Step) local() Step {
	s.At = s.At.Local()
	return s
}
