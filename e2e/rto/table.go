package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

// spread is what a measure came to over all losses.
type spread struct{ median, fastest, slowest time.Duration }

// spreadOf returns the spread of at least one measurement. The median of an even
// number is the mean of the two in the middle.
func spreadOf(measured []time.Duration) spread {
	sorted := slices.Sorted(slices.Values(measured))
	n := len(sorted)
	return spread{
		median:  (sorted[(n-1)/2] + sorted[n/2]) / 2,
		fastest: sorted[0],
		slowest: sorted[n-1],
	}
}

// table writes each step's time since the cut, then the figures of the whole.
func table(out io.Writer, records []*loss.Record) error {
	leaders := 0
	for _, r := range records {
		if r.LeaderLost {
			leaders++
		}
	}
	fmt.Fprintf(out, "%d losses, the leading watcher's node among them %d times; seconds\n\n", len(records), leaders)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "median\tmin\tmax\t\n")
	row := func(name string, measure func(*loss.Record) (time.Duration, bool)) {
		var measured []time.Duration
		for _, r := range records {
			if d, known := measure(r); known {
				measured = append(measured, d)
			}
		}
		if len(measured) == 0 {
			return
		}
		if len(measured) < len(records) {
			name += fmt.Sprintf(" (%d of %d)", len(measured), len(records))
		}
		s := spreadOf(measured)
		fmt.Fprintf(w, "%.2f\t%.2f\t%.2f\t  %s\n", s.median.Seconds(), s.fastest.Seconds(), s.slowest.Seconds(), name)
	}
	for _, moment := range loss.Moments {
		row("cut to: "+moment, func(r *loss.Record) (time.Duration, bool) { return r.Since(moment) })
	}
	always := func(measure func(*loss.Record) time.Duration) func(*loss.Record) (time.Duration, bool) {
		return func(r *loss.Record) (time.Duration, bool) { return measure(r), true }
	}
	row("RTO, by Lifeboat", always((*loss.Record).RTO))
	row("RTO, by the shopper", always((*loss.Record).ClientRTO))
	row("RPO, by Lifeboat", always((*loss.Record).RPO))
	row("checkpoint pause", always(func(r *loss.Record) time.Duration {
		return time.Duration(r.Checkpoint.Status.PauseSeconds * float64(time.Second))
	}))
	return w.Flush()
}
