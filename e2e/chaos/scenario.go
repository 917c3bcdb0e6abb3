package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/witness"
)

// A scenario is one thing that goes wrong while two steppers run, one that belongs to a
// StatefulSet and one that belongs to a Deployment.
type scenario struct {
	// name is what --only takes.
	name string
	// about says what goes wrong.
	about string
	// short scenarios are run by the tests too.
	short bool
	// apart has the steppers on two nodes, and not on the same one.
	apart bool
	// replicas is how many other nodes hold each checkpoint; 0 means one.
	replicas int
	// want is what must come of it, beside that the judge's rules are kept.
	want outcome
	// fault does what goes wrong, and waits for what comes of it. What it leaves undone
	// is undone by what it has passed to stage.undo.
	fault func(ctx context.Context, s *stage) error
}

// anyNumber of recoveries may come of a scenario.
const anyNumber = -1

// outcome is what must come of a scenario.
type outcome struct {
	// moved is how many pods are recovered; none of them may start anew.
	moved int
	// standstill bounds the longest time without a step; 0 does not.
	standstill time.Duration
	// held is the reason that must be given, meanwhile, for not recovering.
	held v1alpha1.HeldReason
	// replaced says that a pod that was to take another's place may be lost itself, and the
	// first of its two Migrations fail for that.
	replaced bool
	// overlap is how long an old copy may run beside a new one: the limit that is
	// documented for a machine that stands still as a whole.
	overlap time.Duration
}

// result is what came of a scenario.
type result struct {
	scenario scenario
	took     time.Duration
	verdicts []witness.Verdict // one for each stepper
	moves    []witness.Move
	held     map[v1alpha1.HeldReason]bool
	failed   []failure // closed Migrations that brought nothing back
	notes    []string
	err      error // the scenario did not come to its end
	logs     []string
}

// failure is a Migration that brought nothing back.
type failure struct{ migration, reason, message string }

// faults is what is wrong with a result: nothing if the scenario passed.
func (r *result) faults() []string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if r.err != nil {
		fault("%v", r.err)
	}
	for _, v := range r.verdicts {
		for _, violation := range v.Violations {
			if violation.Rule == witness.OneCopy && v.Overlap <= r.scenario.want.overlap {
				continue
			}
			fault("%s", violation)
		}
	}
	want := r.scenario.want
	if want.moved != anyNumber && len(r.moves) != want.moved {
		fault("%d pods were recovered, want %d", len(r.moves), want.moved)
	}
	for _, move := range r.moves {
		if !move.Restored {
			fault("Migration %s: the pod started anew", move.Migration)
		}
	}
	for _, f := range r.failed {
		if !want.replaced || f.reason != v1alpha1.ReasonPodReplaced {
			fault("Migration %s failed: %s: %s", f.migration, f.reason, f.message)
		}
	}
	if g := r.standstill(); want.standstill > 0 && g > want.standstill {
		fault("no step was made for %.1f s, at most %.1f s are allowed", g.Seconds(), want.standstill.Seconds())
	}
	if want.held != "" && !r.held[want.held] {
		fault("no Migration says that the recovery is held because of %s", want.held)
	}
	return faults
}

func (r *result) standstill() time.Duration {
	var longest time.Duration
	for _, v := range r.verdicts {
		longest = max(longest, v.Standstill.Length())
	}
	return longest
}

func (r *result) overlap() time.Duration {
	var longest time.Duration
	for _, v := range r.verdicts {
		longest = max(longest, v.Overlap)
	}
	return longest
}

func (r *result) rto() time.Duration {
	var longest time.Duration
	for _, m := range r.moves {
		longest = max(longest, m.RTO)
	}
	return longest
}

func (r *result) lost() (made, seen int) {
	for _, v := range r.verdicts {
		made, seen = made+v.Lost, seen+v.LostSeen
	}
	return made, seen
}

// row is the result as a row of the table.
func (r *result) row() row {
	made, seen := r.lost()
	lost := "0"
	if made > 0 {
		lost = fmt.Sprintf("%d (%d)", made, seen)
	}
	rto := "–"
	if len(r.moves) > 0 {
		rto = seconds(r.rto())
	}
	verdict := "passed"
	notes := r.notes
	if faults := r.faults(); len(faults) > 0 {
		verdict = "FAILED"
		notes = append(faults[:1:1], notes...)
	}
	return row{
		r.scenario.name, r.scenario.about, verdict, fmt.Sprint(len(r.moves)), rto, seconds(r.standstill()),
		lost, overlapText(r.overlap()), strings.Join(notes, "; "),
	}
}

func overlapText(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	return seconds(d)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
