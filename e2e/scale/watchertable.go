package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// watcherTable is what was measured, for people.
func watcherTable(run *watcherRun) string {
	var t strings.Builder
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&t, "  %-48s%s\n", what, fmt.Sprintf(format, args...))
	}
	total := 0
	for _, n := range run.requests {
		total += n
	}
	fmt.Fprintf(&t, "%d nodes, %d protected pods; the cluster writes %.0f Leases, %.0f Checkpoints and %.0f loads a second\n",
		run.nodes, run.nodes*run.podsPerNode, run.leases, run.reports, run.loads)
	row("started, leading, and all nodes known after", "%.1f s", run.ready.Seconds())
	fmt.Fprintf(&t, "idle for %s\n", run.took.Round(time.Second))
	row("resident memory, at its peak since the start", "%s, %s", mebibytes(run.memory.resident), mebibytes(run.memory.peak))
	row("processor time a minute", "%.2f s", run.processor.Seconds()*60/run.took.Seconds())
	row("requests to the API server a second", "%.2f", float64(total)/run.took.Seconds())
	for _, line := range listed(run.requests) {
		row("", "%s", line)
	}
	r := run.recovery
	fmt.Fprintf(&t, "one node lost, %d pods; from the moment at which its record said Fenced\n", run.podsPerNode)
	row("its Lease ended so long before it was Lost", "%.1f s", r.lost.Sub(r.silent).Seconds())
	row("it was Lost so long before it was Fenced", "%.2f s", r.fenced.Sub(r.lost).Seconds())
	row("each pod had its Migration after", "%.0f ms", r.recorded.Sub(r.fenced).Seconds()*1000)
	row("each Migration said what is held after", "%.0f ms", r.prepared.Sub(r.fenced).Seconds()*1000)
	row("the last pod was gone after", "%.0f ms", r.deleted.Sub(r.fenced).Seconds()*1000)
	row("questions to checkpointers, what they hold", "%d", r.asked)
	total = 0
	for _, n := range r.requests {
		total += n
	}
	row("requests to the API server", "%d", total)
	for _, line := range listed(r.requests) {
		row("", "%s", line)
	}
	row("resident memory afterwards, at its peak", "%s, %s", mebibytes(run.after.resident), mebibytes(run.after.peak))
	return t.String()
}

// listed are requests by what they ask for, the most frequent first.
func listed(requests map[string]int) []string {
	var lines []string
	for _, what := range slices.SortedFunc(maps.Keys(requests), func(a, b string) int {
		return cmp.Or(cmp.Compare(requests[b], requests[a]), cmp.Compare(a, b))
	}) {
		lines = append(lines, fmt.Sprintf("%5d  %s", requests[what], what))
	}
	return lines
}
