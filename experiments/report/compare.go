package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// times says how one time relates to another in words: "3.2 times shorter than". Where the
// measurements of both overlap it does not call one of them shorter.
func times(a, b Spread) string {
	switch {
	case a.Max < b.Min:
		return fmt.Sprintf("%s times shorter than", ratio(b.Median, a.Median))
	case a.Min > b.Max:
		return fmt.Sprintf("%s times longer than", ratio(a.Median, b.Median))
	}
	return "not clearly different from"
}

// ratio writes how many times a is b.
func ratio(a, b float64) string {
	if b == 0 {
		return "countless"
	}
	return fmt.Sprintf("%.1f", a/b)
}

// aim is something that was aimed at.
type aim struct {
	Text, Verdict, Figure string
}

const (
	met         = "met"
	notMet      = "**not met**"
	notMeasured = "not measured"
)

func verdict(holds bool) string {
	if holds {
		return met
	}
	return notMet
}

// aims compares what was measured with what was aimed at.
func (d data) aims() []aim {
	deployment, set := Subject{matrix.Cart, matrix.Deployment}, Subject{matrix.Cart, matrix.StatefulSet}
	return []aim{
		d.shortAim("live move of a Deployment's pod, 512 MB, 200 writes a second: at most 300 ms at the median, and no write lost", deployment, 300),
		d.shortAim("the same of a StatefulSet's pod: at most 1000 ms at the median, and no write lost", set, 1000),
		d.stockAim(set),
		d.flatAim(set),
	}
}

func (d data) shortAim(text string, s Subject, most float64) aim {
	rows := d.cells[s.centre(matrix.Live)]
	spread := spreadOf(all(rows, downtime))
	if !spread.Measured() {
		return aim{text, notMeasured, fmt.Sprintf("%d of %d runs moved the pod", spread.N, len(rows))}
	}
	lost := sum(rows, func(r matrix.Row) int { return r.Lost })
	whole := spread.N == len(rows)
	return aim{text, verdict(spread.Median <= most && lost == 0 && whole),
		fmt.Sprintf("%s ms; %d of %d writes lost; %d of %d runs moved the pod", spread, lost, sum(rows, func(r matrix.Row) int { return r.Acked }), spread.N, len(rows))}
}

func (d data) stockAim(s Subject) aim {
	text := "live at least 5 times shorter than stock runc's checkpoint, copy and restore at 2 GB"
	live, stock := s.centre(matrix.Live), s.centre(matrix.Stock)
	live.MemoryMB, stock.MemoryMB = 2048, 2048
	ours, theirs := d.downtime(live), d.downtime(stock)
	if !ours.Measured() || !theirs.Measured() {
		return aim{text, notMeasured, fmt.Sprintf("live in %d runs, stock in %d", ours.N, theirs.N)}
	}
	return aim{text, verdict(theirs.Median >= 5*ours.Median), fmt.Sprintf("%s ms against %s ms: %s times", ours, theirs, ratio(theirs.Median, ours.Median))}
}

func (d data) flatAim(s Subject) aim {
	text := "downtime of live moves flat in the size of the memory, within 1.5 times"
	growth, known := d.growth(s, matrix.Live)
	if !known {
		return aim{text, notMeasured, "not every size was measured"}
	}
	return aim{text, verdict(growth.ratio <= 1.5), fmt.Sprintf("%.1f times from the shortest median to the longest, %s ms to %s ms", growth.ratio, number(growth.shortest), number(growth.longest))}
}

// growth is how downtime depends on the size of the memory.
type growth struct{ shortest, longest, ratio float64 }

// growth is known when every size was measured.
func (d data) growth(s Subject, strategy matrix.Strategy) (growth, bool) {
	var medians []float64
	for _, memory := range matrix.Memories {
		c := s.centre(strategy)
		c.MemoryMB = memory
		spread := d.downtime(c)
		if !spread.Measured() {
			return growth{}, false
		}
		medians = append(medians, spread.Median)
	}
	g := growth{shortest: slices.Min(medians), longest: slices.Max(medians)}
	g.ratio = g.longest / max(g.shortest, 1)
	return g, true
}

// contender is a strategy at a subject's centre.
type contender struct {
	strategy matrix.Strategy
	rows     []matrix.Row
	spread   Spread
}

// keeps says whether nothing was lost, of writes and of memory, and every run moved.
func (c contender) keeps() bool {
	return c.spread.N == len(c.rows) && sum(c.rows, func(r matrix.Row) int { return r.Lost + r.Repeated }) == 0 &&
		!slices.ContainsFunc(c.rows, func(r matrix.Row) bool { return r.WrongPages > 0 })
}

// ranking are a subject's strategies that moved it, that with the shortest downtime first.
// A failover is none of them: nobody chooses it.
func (d data) ranking(s Subject) []contender {
	var list []contender
	for _, strategy := range s.strategies() {
		rows := d.cells[s.centre(strategy)]
		if spread := spreadOf(all(rows, downtime)); spread.Measured() && strategy != matrix.Failover {
			list = append(list, contender{strategy, rows, spread})
		}
	}
	slices.SortStableFunc(list, func(a, b contender) int {
		switch {
		case a.spread.Median < b.spread.Median:
			return -1
		case a.spread.Median > b.spread.Median:
			return 1
		}
		return 0
	})
	return list
}

// findings are the sentences about a subject.
func (d data) findings(s Subject) []string {
	ranking := d.ranking(s)
	if len(ranking) == 0 {
		return []string{"Nothing can be compared: no run at 512 MB of random bytes and 200 writes a second moved it."}
	}
	var said []string
	if len(ranking) == 1 {
		said = append(said, fmt.Sprintf("Only %s was measured: %s ms.", ranking[0].strategy, ranking[0].spread))
	} else {
		words := make([]string, len(ranking))
		for i, c := range ranking {
			words[i] = fmt.Sprintf("%s (%s ms)", c.strategy, number(c.spread.Median))
		}
		said = append(said, fmt.Sprintf("By the median of the downtime, shortest first: %s. That of %s is %s that of %s.",
			strings.Join(words, ", "), ranking[0].strategy, times(ranking[0].spread, ranking[1].spread), ranking[1].strategy))
	}
	said = append(said, choice(ranking))
	if sentence := d.againstRestart(ranking); sentence != "" {
		said = append(said, sentence)
	}
	for _, c := range ranking {
		said = append(said, d.limit(s, c))
	}
	if rows := d.cells[s.centre(matrix.Failover)]; len(rows) > 0 {
		said = append(said, d.limit(s, contender{strategy: matrix.Failover, rows: rows}))
	}
	return said
}

// readersAlone is by how many milliseconds writers must have waited longer than readers to
// be worth a word: less is chance, for their requests are made at other moments.
const readersAlone = 100

// choice says which strategy to take.
func choice(ranking []contender) string {
	i := slices.IndexFunc(ranking, contender.keeps)
	if i < 0 {
		return "No strategy kept everything in every run."
	}
	c := ranking[i]
	var passed []string
	for _, other := range ranking[:i] {
		passed = append(passed, fmt.Sprintf("%s (%s)", other.strategy, other.lacks()))
	}
	sentence := fmt.Sprintf("The one to take is **%s**: the shortest downtime of those that moved it in every run, lost no acknowledged write, repeated none, and kept all of its memory.", c.strategy)
	if held := spreadOf(all(c.rows, writesHeld)); held.Measured() && held.Min > c.spread.Max+readersAlone {
		sentence += fmt.Sprintf(" But writers waited %s ms: it answered reads alone.", held)
	}
	if len(passed) > 0 {
		sentence += " Shorter, but not that: " + strings.Join(passed, ", ") + "."
	}
	return sentence
}

// lacks says what speaks against a strategy.
func (c contender) lacks() string {
	var faults []string
	if c.spread.N < len(c.rows) {
		faults = append(faults, fmt.Sprintf("moved it in %d of %d runs", c.spread.N, len(c.rows)))
	}
	for _, f := range []struct {
		what  string
		count int
	}{
		{"writes lost", sum(c.rows, func(r matrix.Row) int { return r.Lost })},
		{"writes repeated", sum(c.rows, func(r matrix.Row) int { return r.Repeated })},
		{"pages of memory lost", sum(c.rows, func(r matrix.Row) int { return int(max(0, r.WrongPages)) })},
	} {
		if f.count > 0 {
			faults = append(faults, fmt.Sprintf("%d %s", f.count, f.what))
		}
	}
	return strings.Join(faults, ", ")
}

// againstRestart says whether a plain restart is better than every move by Lifeboat.
func (d data) againstRestart(ranking []contender) string {
	i := slices.IndexFunc(ranking, func(c contender) bool { return c.strategy == matrix.Restart })
	j := slices.IndexFunc(ranking, func(c contender) bool { return c.strategy != matrix.Restart && c.strategy != matrix.Stock })
	if i < 0 || j < 0 {
		return ""
	}
	restart, best := ranking[i], ranking[j]
	sentence := fmt.Sprintf("The downtime of a plain restart is %s that of %s", times(restart.spread, best.spread), best.strategy)
	switch {
	case restart.keeps() && restart.spread.Max < best.spread.Min:
		return sentence + ", and it lost nothing: here **a plain restart is better**."
	case restart.keeps():
		return sentence + "; it lost nothing either."
	}
	return sentence + "; it costs: " + restart.lacks() + "."
}

// limit says what a strategy's time goes into, and how it grows with the memory.
func (d data) limit(s Subject, c contender) string {
	list := steps(c.rows)
	sentence := fmt.Sprintf("%s: ", c.strategy)
	if len(list) > 0 {
		longest := slices.MaxFunc(list, func(a, b Step) int { return int(a.MS - b.MS) })
		total := 0.0
		for _, step := range list {
			total += step.MS
		}
		sentence += fmt.Sprintf("of %s ms until the new copy is there, %s ms are up to %s", number(total), number(longest.MS), longest.Name)
	} else {
		sentence += "no phases are known"
	}
	switch g, known := d.growth(s, c.strategy); {
	case !known:
		return sentence + "; how its downtime depends on the size of the memory was not measured."
	case g.ratio <= 1.5:
		return sentence + fmt.Sprintf("; its downtime does not depend on the size of the memory (%.1f times from the shortest median to the longest).", g.ratio)
	default:
		return sentence + fmt.Sprintf("; its downtime depends on the size of the memory: %.1f times from the shortest median to the longest.", g.ratio)
	}
}
