package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// least is the share of the first variant's throughput that the plugin is to leave.
const least = 0.9

// group are the runs of one variant at one size.
type group struct {
	size    size
	variant variant
	runs    []schedulerRun
}

func grouped(runs []schedulerRun) []group {
	var groups []group
	for _, run := range runs {
		i := slices.IndexFunc(groups, func(g group) bool { return g.size == run.size && g.variant == run.variant })
		if i < 0 {
			i, groups = len(groups), append(groups, group{size: run.size, variant: run.variant})
		}
		groups[i].runs = append(groups[i].runs, run)
	}
	return groups
}

func of[T any](runs []schedulerRun, value func(schedulerRun) T) []T {
	values := make([]T, len(runs))
	for i, run := range runs {
		values[i] = value(run)
	}
	return values
}

func perSecond(r schedulerRun) float64 { return r.perSecond }

// ratio is the median, over the rounds, of how a group's throughput compares with the
// first variant's in the same round; false without that.
func (g group) ratio(groups []group) (float64, bool) {
	i := slices.IndexFunc(groups, func(b group) bool { return b.size == g.size && b.variant == variants[0] })
	if i < 0 || g.variant == variants[0] {
		return 0, false
	}
	var ratios []float64
	for round := range min(len(g.runs), len(groups[i].runs)) {
		ratios = append(ratios, g.runs[round].perSecond/groups[i].runs[round].perSecond)
	}
	return median(ratios), len(ratios) > 0
}

// schedulerTable is what was measured, for people.
func schedulerTable(runs []schedulerRun) string {
	var t strings.Builder
	groups := grouped(runs)
	for i, g := range groups {
		if i == 0 || groups[i-1].size != g.size {
			if i > 0 {
				fmt.Fprintln(&t)
			}
			fmt.Fprintf(&t, "%d nodes, medians of %d runs     pods    pods/s   least    most   ratio  processor   cycle  latency, ms   requests\n", g.size.nodes, len(g.runs))
			fmt.Fprintf(&t, "%-34s%6s%10s%8s%8s%8s%11s%8s%7s%7s%9s\n", "", "", "", "", "", "", "ms a pod", "ms", "p50", "p99", "a pod")
		}
		ratio := "-"
		if r, ok := g.ratio(groups); ok {
			ratio = fmt.Sprintf("%.2f", r)
		}
		var latencies []time.Duration
		total := 0
		for _, run := range g.runs {
			latencies = append(latencies, run.latencies...)
			for _, n := range run.requests {
				total += n
			}
		}
		speeds := of(g.runs, perSecond)
		fmt.Fprintf(&t, "%-34s%6d%10.0f%8.0f%8.0f%8s%11s%8s%7s%7s%9.2f\n", g.variant.name, g.runs[0].placed,
			median(speeds), slices.Min(speeds), slices.Max(speeds), ratio,
			milliseconds(median(of(g.runs, func(r schedulerRun) time.Duration { return r.processor }))),
			milliseconds(median(of(g.runs, func(r schedulerRun) time.Duration { return r.cycle }))),
			milliseconds(quantile(latencies, 0.5)), milliseconds(quantile(latencies, 0.99)),
			float64(total)/float64(len(g.runs)*g.runs[0].placed))
	}
	fmt.Fprintln(&t, "\nrequests a pod:")
	for _, g := range groups {
		fmt.Fprintf(&t, "%d nodes, %s: %s\n", g.size.nodes, g.variant.name, mostRequested(g))
	}
	fmt.Fprintln(&t)
	for _, g := range groups {
		if line := schedulerNotes(g, groups); line != "" {
			fmt.Fprintln(&t, line)
		}
	}
	return t.String()
}

// schedulerNotes says what the table has no column for.
func schedulerNotes(g group, groups []group) string {
	where := fmt.Sprintf("%d nodes, %s: ", g.size.nodes, g.variant.name)
	if g.variant.successors {
		placed, toHolders := 0, 0
		for _, run := range g.runs {
			placed, toHolders = placed+run.placed, toHolders+run.toHolders
		}
		return fmt.Sprintf("%s%d of %d came to a node that holds their checkpoint", where, toHolders, placed)
	}
	ratio, ok := g.ratio(groups)
	if !ok {
		return ""
	}
	verdict := "met"
	if ratio < least {
		verdict = "NOT MET"
	}
	return fmt.Sprintf("aim: %sat least %.2f of the throughput without the plugin: %s: %.2f", where, least, verdict, ratio)
}

// mostRequested are the requests of some runs for each pod, the most frequent first.
func mostRequested(g group) string {
	sum, pods := map[string]int{}, 0
	for _, run := range g.runs {
		pods += run.placed
		for what, n := range run.requests {
			sum[what] += n
		}
	}
	var parts []string
	for _, what := range slices.SortedFunc(maps.Keys(sum), func(a, b string) int { return sum[b] - sum[a] }) {
		if each := float64(sum[what]) / float64(pods); each >= 0.01 {
			parts = append(parts, fmt.Sprintf("%s %.2f", what, each))
		}
	}
	return strings.Join(parts, ", ")
}
