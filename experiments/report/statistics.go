// Package report makes of the table of runs what people read: tables, plots, and a
// comparison whose figures and words both come from the data.
package report

import (
	"fmt"
	"math"
	"slices"

	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// Spread is what a measure came to over some runs. Of none, all but N are NaN.
type Spread struct {
	N                int
	Median, Min, Max float64
}

// spreadOf returns the spread of what is known. The median of an even number is the mean of
// the two in the middle.
func spreadOf(measures []float64) Spread {
	known := slices.DeleteFunc(slices.Clone(measures), func(m float64) bool { return !matrix.Known(m) })
	n := len(known)
	if n == 0 {
		return Spread{Median: math.NaN(), Min: math.NaN(), Max: math.NaN()}
	}
	slices.Sort(known)
	return Spread{N: n, Median: (known[(n-1)/2] + known[n/2]) / 2, Min: known[0], Max: known[n-1]}
}

// Measured says whether there was anything to measure.
func (s Spread) Measured() bool { return s.N > 0 }

// String writes a median, and from where to where it goes: "120 (98 to 150)".
func (s Spread) String() string {
	switch {
	case !s.Measured():
		return "–"
	case s.Min == s.Max:
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", number(s.Median), number(s.Min), number(s.Max))
}

// number writes a measure without digits that mean nothing.
func number(x float64) string {
	switch {
	case !matrix.Known(x):
		return "–"
	case x == math.Trunc(x) || math.Abs(x) >= 10:
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.1f", x)
}

// downtime of a run that succeeded; NaN of another: that an application was away for 5 ms
// because nothing moved is no measurement of a move.
func downtime(r matrix.Row) float64 {
	if !r.Succeeded() {
		return math.NaN()
	}
	return r.DowntimeMS
}

// writesHeld is for how long a run that succeeded kept every writer waiting.
func writesHeld(r matrix.Row) float64 {
	if !r.Succeeded() {
		return math.NaN()
	}
	return r.WritesMS
}

// all is a measure of all rows.
func all(rows []matrix.Row, measure func(matrix.Row) float64) []float64 {
	measures := make([]float64, len(rows))
	for i, r := range rows {
		measures[i] = measure(r)
	}
	return measures
}

// sum is a count over all rows.
func sum(rows []matrix.Row, count func(matrix.Row) int) int {
	total := 0
	for _, r := range rows {
		total += count(r)
	}
	return total
}

// Step is how long one phase took, at the median.
type Step struct {
	Name string
	MS   float64
}

// steps are the phases of some runs in their order, each with its time since the one
// before.
func steps(rows []matrix.Row) []Step {
	var names []string
	took, reached := map[string][]float64{}, map[string][]float64{}
	for _, r := range rows {
		last := 0.0
		for _, p := range r.Phases {
			if took[p.Name] == nil {
				names = append(names, p.Name)
			}
			took[p.Name] = append(took[p.Name], math.Max(0, p.AfterMS-last))
			reached[p.Name] = append(reached[p.Name], p.AfterMS)
			last = math.Max(last, p.AfterMS)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int {
		left, right := spreadOf(reached[a]).Median, spreadOf(reached[b]).Median
		switch {
		case left < right:
			return -1
		case left > right:
			return 1
		}
		return 0
	})
	list := make([]Step, len(names))
	for i, name := range names {
		list[i] = Step{name, spreadOf(took[name]).Median}
	}
	return list
}
