package witness

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Copy is one run of a workload's program: what the log of one container shows.
type Copy struct {
	// Name tells copies apart in a report, as "ledger-0 on n2".
	Name string
	// Pod is the pod's UID; empty for a copy of which the witness alone knows.
	Pod string
	// Steps are in the order in which they were made.
	Steps []Step
}

// Move is what Lifeboat reports of one recovery of a workload's pod.
type Move struct {
	// Migration names the report.
	Migration string
	// Pod and Successor are the UIDs of the pod that was lost and of the one that came.
	Pod, Successor string
	// Restored says that the successor came back from a checkpoint, and not that it
	// started anew.
	Restored bool
	// TakenAt is the moment of the state that came back.
	TakenAt time.Time
	// LostAt is the last moment at which the lost node was known to be alive.
	LostAt time.Time
	// RTO and RPO are as reported.
	RTO, RPO time.Duration
}

// History is everything that is known of a workload.
type History struct {
	// Workload is the stepper's name.
	Workload string
	// Copies are what logs show, in any order.
	Copies []Copy
	// Seen is what reached the witness.
	Seen []Seen
	// Moves are the recoveries that Lifeboat reports as done.
	Moves []Move
	// From and To bound the time in which the workload should take steps.
	From, To time.Time

	told map[Hash]int // in how many copies' logs each step is
}

// ParseLog reads the copies of a workload from the log of a container, one for each
// time that the program was started or restored in it. A log as kubelet keeps it has a
// time, a stream and a tag before each line.
func ParseLog(r io.Reader, workload string, copyOf Copy) ([]Copy, error) {
	var copies []Copy
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		_, line, found := strings.Cut(lines.Text(), "step ")
		if !found {
			continue
		}
		step, err := ParseStep("step " + line)
		if err != nil {
			// The power went while it was written.
			continue
		}
		if step.Workload != workload {
			return nil, fmt.Errorf("the log of %s has a step of %s", copyOf.Name, step.Workload)
		}
		last := len(copies) - 1
		if last < 0 || !follows(copies[last].Steps, step) {
			next := copyOf
			if last >= 0 {
				next.Name += fmt.Sprintf(", again (%d)", last+1)
			}
			copies = append(copies, next)
			last++
		}
		copies[last].Steps = append(copies[last].Steps, step)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the log of %s: %w", copyOf.Name, err)
	}
	return copies, nil
}

// follows says whether a step can be of the copy that made the others. A step that
// does not follow at once may still be: some lines may be missing between them.
func follows(steps []Step, next Step) bool {
	last := steps[len(steps)-1]
	return next.Previous == last.Hash || next.Number > last.Number+1
}

// merge gives each step that only the witness knows to the copy that made it, and
// returns the copies in the order in which they began.
func (h *History) merge() []Copy {
	copies := make([]Copy, len(h.Copies))
	owner := map[Hash]int{}
	h.told = map[Hash]int{}
	for i, c := range h.Copies {
		copies[i] = c
		copies[i].Steps = slices.Clone(c.Steps)
		for _, s := range c.Steps {
			owner[s.Hash] = i
			h.told[s.Hash]++
		}
	}
	// Which copies have spoken from an address, and which address only the witness knows.
	from := map[string][]int{}
	var unknown []Seen
	for _, seen := range h.Seen {
		i, found := owner[seen.Step.Hash]
		switch {
		case !found:
			unknown = append(unknown, seen)
		case !slices.Contains(from[seen.From], i):
			from[seen.From] = append(from[seen.From], i)
		}
	}
	for _, seen := range unknown {
		i := nearest(copies, from[seen.From], seen.Step)
		if i < 0 {
			i = len(copies)
			copies = append(copies, Copy{Name: "a copy at " + seen.From})
			from[seen.From] = append(from[seen.From], i)
		}
		copies[i].Steps = append(copies[i].Steps, seen.Step)
	}
	copies = slices.DeleteFunc(copies, func(c Copy) bool { return len(c.Steps) == 0 })
	for i := range copies {
		slices.SortStableFunc(copies[i].Steps, func(a, b Step) int { return cmp.Compare(a.Number, b.Number) })
	}
	slices.SortStableFunc(copies, func(a, b Copy) int { return h.begin(a).Compare(h.begin(b)) })
	return copies
}

// nearest is the copy, of some, whose steps are nearest to a step in time; -1 if none is.
func nearest(copies []Copy, some []int, step Step) int {
	best, distance := -1, time.Duration(0)
	for _, i := range some {
		steps := copies[i].Steps
		away := max(steps[0].At.Sub(step.At), step.At.Sub(steps[len(steps)-1].At), 0)
		if best < 0 || away < distance {
			best, distance = i, away
		}
	}
	return best
}

// begin is when a copy made the first step that is surely its own. The first one that
// a restored copy shows may have been made, but not yet told, when the checkpoint was
// taken; its time is then that of the old copy. That is known if the old copy has told it
// too: no two copies make the same step. If it has not, its time tells.
func (h *History) begin(c Copy) time.Time {
	first := c.Steps[0]
	if len(c.Steps) > 1 && (h.told[first.Hash] > 1 || slices.ContainsFunc(h.Moves, func(m Move) bool {
		return c.Pod != "" && m.Successor == c.Pod && m.Restored && !first.At.After(m.TakenAt)
	})) {
		return c.Steps[1].At
	}
	return first.At
}
