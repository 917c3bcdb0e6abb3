package witness

import (
	"fmt"
	"slices"
	"time"
)

// Rule is what a history must keep to.
type Rule string

// The rules.
const (
	// OneCopy: no two copies make a step in overlapping time.
	OneCopy Rule = "one copy at a time"
	// Unbroken: each step of a copy follows from the one before it.
	Unbroken Rule = "unbroken chain"
	// Continued: a copy goes on from a step that an earlier one made, or starts anew.
	Continued Rule = "goes on from a step that was made"
	// Kept: every step until the restored checkpoint was taken has come back.
	Kept Rule = "nothing older than the checkpoint is lost"
	// WithinRPO: no more is lost of the time until the loss than the reported RPO.
	WithinRPO Rule = "no more is lost than reported"
	// Honest: what Lifeboat reports is what happened.
	Honest Rule = "the report is true"
)

// Violation is a rule that a history breaks.
type Violation struct {
	Rule Rule
	// At is when.
	At time.Time
	// Message says what was found.
	Message string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s", v.Rule, v.Message) }

// Gap is an interval in which no copy made a step.
type Gap struct{ From, To time.Time }

// Length is how long the gap is.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// Verdict is what a history comes to.
type Verdict struct {
	// Violations are in order of time; none means that all rules were kept.
	Violations []Violation
	// Copies is how many copies made steps, and Continued how many of them went on
	// from an earlier one.
	Copies, Continued int
	// Overlap is how long an old copy ran at most after a newer one had begun.
	Overlap time.Duration
	// Standstill is the longest time without a step.
	Standstill Gap
	// Lost are the steps that were made and are not in the last copy's chain, and
	// LostSeen those of them that the witness had seen.
	Lost, LostSeen int
	// Late is how long after the moment at which the lost node was last known to be
	// alive the witness still saw it work. The reported RPO does not cover that.
	Late time.Duration
}

// Judge compares a workload's history with the rules. It neither waits nor reads anything.
func Judge(h History) Verdict {
	copies := h.merge()
	j := judge{history: h, copies: copies, made: map[Hash]place{}, seen: map[Hash]bool{}}
	for i, c := range j.copies {
		for n, s := range c.Steps {
			if _, found := j.made[s.Hash]; !found {
				j.made[s.Hash] = place{i, n}
			}
		}
	}
	for _, seen := range h.Seen {
		j.seen[seen.Step.Hash] = true
	}
	j.verdict.Copies = len(j.copies)
	for i := range j.copies {
		j.chain(i)
		j.overlap(i)
		j.origin(i)
	}
	j.unseenSuccessors()
	j.standstill()
	j.lost()
	slices.SortStableFunc(j.verdict.Violations, func(a, b Violation) int { return a.At.Compare(b.At) })
	return j.verdict
}

// place is where a step is: in which copy, and which one it is there.
type place struct{ copyOf, step int }

type judge struct {
	history History
	copies  []Copy // in the order in which they began
	made    map[Hash]place
	seen    map[Hash]bool
	verdict Verdict
}

func (j *judge) violated(rule Rule, at time.Time, format string, args ...any) {
	j.verdict.Violations = append(j.verdict.Violations, Violation{rule, at, fmt.Sprintf(format, args...)})
}

// chain checks a copy's own steps.
func (j *judge) chain(i int) {
	c := j.copies[i]
	for n := 1; n < len(c.Steps); n++ {
		before, step := c.Steps[n-1], c.Steps[n]
		// Where numbers are missing, lines of the log are: nothing is known of those.
		if step.Number == before.Number && step.Hash != before.Hash ||
			step.Number == before.Number+1 && step.Previous != before.Hash {
			j.violated(Unbroken, step.At, "%s made step %d twice, or changed its past", c.Name, step.Number)
		}
	}
}

// overlap checks that every earlier copy had stopped when this one began.
func (j *judge) overlap(i int) {
	c := j.copies[i]
	begin := j.history.begin(c)
	for _, earlier := range j.copies[:i] {
		n := slices.IndexFunc(earlier.Steps, func(s Step) bool { return !s.At.Before(begin) })
		if n < 0 {
			continue
		}
		// It may have stood still when the other one began.
		first, last := earlier.Steps[n], earlier.Steps[len(earlier.Steps)-1]
		both := last.At.Sub(first.At) + StepEvery
		j.verdict.Overlap = max(j.verdict.Overlap, both)
		j.violated(OneCopy, first.At, "%s ran for %s, from %s after %s had made its first step, and made the steps %d to %d",
			earlier.Name, both, first.At.Sub(begin), c.Name, first.Number, last.Number)
	}
}

// origin checks where a copy that is not the first came from, and what is reported of it.
func (j *judge) origin(i int) {
	c := j.copies[i]
	first := c.Steps[0]
	parent, continued := j.parent(i)
	if continued {
		j.verdict.Continued++
	}
	if i == 0 {
		return
	}
	if !continued && first.Number != 1 {
		j.violated(Continued, first.At, "%s goes on with step %d from one that nobody is known to have made", c.Name, first.Number)
		return
	}
	move, reported := j.move(c)
	switch {
	case !reported && continued:
		j.violated(Honest, first.At, "%s was restored at step %d, and no Migration says so", c.Name, first.Number)
	case !reported:
		j.violated(Honest, first.At, "%s started anew, and no Migration says so", c.Name)
	case move.Restored && !continued:
		j.violated(Honest, first.At, "Migration %s says that the pod was restored, and %s started anew", move.Migration, c.Name)
	case !move.Restored && continued:
		j.violated(Honest, first.At, "Migration %s says that the pod started anew, and %s goes on with step %d", move.Migration, c.Name, first.Number)
	case continued:
		j.tail(i, parent, move)
	}
}

// parent is the step that a copy goes on from.
func (j *judge) parent(i int) (place, bool) {
	first := j.copies[i].Steps[0]
	if p, found := j.made[first.Previous]; found && p.copyOf < i {
		return p, true
	}
	// Both copies may have told the step that was made last before the checkpoint.
	if p, found := j.made[first.Hash]; found && p.copyOf < i {
		return p, true
	}
	// From before its first step.
	for n, earlier := range j.copies[:i] {
		if first.Number == 1 && earlier.Steps[0].Previous == first.Previous {
			return place{n, 0}, true
		}
	}
	return place{}, false
}

// move is the Migration that brought a copy, if one did: a container that is started
// again in the same pod was not brought by the pod's Migration.
func (j *judge) move(c Copy) (Move, bool) {
	for _, m := range j.history.Moves {
		if c.Pod == "" || m.Successor != c.Pod {
			continue
		}
		first := slices.IndexFunc(j.copies, func(other Copy) bool { return other.Pod == c.Pod })
		return m, j.copies[first].Name == c.Name
	}
	return Move{}, false
}

// tail checks what a restored copy has lost of the steps before it.
func (j *judge) tail(i int, parent place, m Move) {
	c, from := j.copies[i], j.copies[parent.copyOf].Steps[parent.step]
	for _, s := range j.copies[parent.copyOf].Steps[parent.step+1:] {
		if s.Number >= c.Steps[0].Number && s.Hash != c.Steps[0].Hash && s.At.Before(m.TakenAt) {
			j.violated(Kept, s.At, "%s lacks step %d, made %s before the checkpoint that Migration %s says it came from",
				c.Name, s.Number, m.TakenAt.Sub(s.At), m.Migration)
			break
		}
	}
	last, lastSeen := from, from
	for _, lost := range j.copies[:i] {
		for _, s := range lost.Steps {
			if lost.Pod != m.Pod {
				continue
			}
			if !s.At.After(m.LostAt) && s.At.After(last.At) {
				last = s
			}
			if j.seen[s.Hash] && s.At.After(lastSeen.At) {
				lastSeen = s
			}
		}
	}
	if tail := last.At.Sub(from.At); tail > m.RPO+2*StepEvery {
		j.violated(WithinRPO, last.At, "%s goes on from step %d, %s before the loss, and Migration %s reports an RPO of %s",
			c.Name, from.Number, tail, m.Migration, m.RPO)
	}
	if late := lastSeen.At.Sub(m.LostAt); late > j.verdict.Late {
		j.verdict.Late = late
	}
}

// unseenSuccessors finds recoveries that are reported, and whose successor did nothing.
func (j *judge) unseenSuccessors() {
	for _, m := range j.history.Moves {
		if !slices.ContainsFunc(j.copies, func(c Copy) bool { return c.Pod == m.Successor }) {
			j.violated(Honest, j.history.To, "Migration %s says that pod %s runs, and it made no step", m.Migration, m.Successor)
		}
	}
}

// standstill finds the longest time without a step.
func (j *judge) standstill() {
	times := []time.Time{j.history.From, j.history.To}
	for _, c := range j.copies {
		for _, s := range c.Steps {
			if s.At.After(j.history.From) && s.At.Before(j.history.To) {
				times = append(times, s.At)
			}
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	for n := 1; n < len(times); n++ {
		if g := (Gap{times[n-1], times[n]}); g.Length() > j.verdict.Standstill.Length() {
			j.verdict.Standstill = g
		}
	}
}

// lost counts the steps that are not in the last copy's past.
func (j *judge) lost() {
	kept := map[Hash]bool{}
	if len(j.copies) > 0 {
		newest := len(j.copies) - 1
		end, found := place{newest, len(j.copies[newest].Steps) - 1}, true
		for found {
			for _, s := range j.copies[end.copyOf].Steps[:end.step+1] {
				kept[s.Hash] = true
			}
			end, found = j.parent(end.copyOf)
		}
	}
	counted := map[Hash]bool{}
	for _, c := range j.copies {
		for _, s := range c.Steps {
			if kept[s.Hash] || counted[s.Hash] {
				continue
			}
			counted[s.Hash] = true
			j.verdict.Lost++
			if j.seen[s.Hash] {
				j.verdict.LostSeen++
			}
		}
	}
}
