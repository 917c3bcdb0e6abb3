package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// stats count what happened in histories.
type stats struct {
	Histories, Events uint64
	Simulated         int64
	Flavours          [flavours]int
	Faults            [faultKinds]int

	Declarations, Refutations, Fencings, Returns int
	Proofs                                       map[v1alpha1.FenceProof]int
	Polls, Extensions, Promises, Unguarded       int
	Freezes, Thaws, Kills, Starts, Recoveries    int
	// Refusals are by reason.
	Refusals map[v1alpha1.HeldReason]int
	// Beyond counts fenced nodes that ran old copies because of stalls or drift
	// beyond the terms, Overlaps moments at which a pod then ran twice.
	Beyond, Overlaps int
	LongestBeyond    int64
}

func newStats() stats {
	return stats{Proofs: map[v1alpha1.FenceProof]int{}, Refusals: map[v1alpha1.HeldReason]int{}}
}

func (s *stats) add(o *stats) {
	s.Histories += o.Histories
	s.Events += o.Events
	s.Simulated += o.Simulated
	for i, n := range o.Flavours {
		s.Flavours[i] += n
	}
	for i, n := range o.Faults {
		s.Faults[i] += n
	}
	for _, c := range []struct{ to, from *int }{
		{&s.Declarations, &o.Declarations}, {&s.Refutations, &o.Refutations}, {&s.Fencings, &o.Fencings}, {&s.Returns, &o.Returns},
		{&s.Polls, &o.Polls}, {&s.Extensions, &o.Extensions}, {&s.Promises, &o.Promises}, {&s.Unguarded, &o.Unguarded},
		{&s.Freezes, &o.Freezes}, {&s.Thaws, &o.Thaws}, {&s.Kills, &o.Kills}, {&s.Starts, &o.Starts}, {&s.Recoveries, &o.Recoveries},
		{&s.Beyond, &o.Beyond}, {&s.Overlaps, &o.Overlaps},
	} {
		*c.to += *c.from
	}
	for k, n := range o.Proofs {
		s.Proofs[k] += n
	}
	for k, n := range o.Refusals {
		s.Refusals[k] += n
	}
	s.LongestBeyond = max(s.LongestBeyond, o.LongestBeyond)
}

// print writes the summary.
func (s *stats) print(out io.Writer) {
	fmt.Fprintf(out, "histories            %d\n", s.Histories)
	for i, n := range s.Flavours {
		fmt.Fprintf(out, "  %-18s %d\n", flavourNames[i], n)
	}
	fmt.Fprintf(out, "simulated time       %s, %d events\n", time.Duration(s.Simulated).Round(time.Second), s.Events)
	fmt.Fprintln(out, "faults")
	for i, n := range s.Faults {
		fmt.Fprintf(out, "  %-34s %d\n", faultNames[i], n)
	}
	fmt.Fprintf(out, "declarations         %d; %d ended as Running, %d as Fenced; %d nodes came back\n", s.Declarations, s.Refutations, s.Fencings, s.Returns)
	for _, k := range slices.Sorted(maps.Keys(s.Proofs)) {
		fmt.Fprintf(out, "  proof %-12s %d\n", k, s.Proofs[k])
	}
	fmt.Fprintf(out, "pods recovered       %d\n", s.Recoveries)
	fmt.Fprintf(out, "containers           %d started, %d killed\n", s.Starts, s.Kills)
	fmt.Fprintf(out, "nodes frozen         %d, thawed %d\n", s.Freezes, s.Thaws)
	fmt.Fprintf(out, "polls of peers       %d, %d extended a permission; %d promises\n", s.Polls, s.Extensions, s.Promises)
	fmt.Fprintf(out, "withdrawn            %d, because the fencer was silent\n", s.Unguarded)
	fmt.Fprintln(out, "refusals")
	for _, k := range slices.Sorted(maps.Keys(s.Refusals)) {
		fmt.Fprintf(out, "  %-18s %d\n", k, s.Refusals[k])
	}
	fmt.Fprintf(out, "beyond the terms     %d nodes ran old copies, for %s at most; pods ran twice at %d moments\n",
		s.Beyond, time.Duration(s.LongestBeyond), s.Overlaps)
}
