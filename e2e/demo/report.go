package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

// report writes what the loss did to the cart, in lines of at most 80 characters.
func report(out io.Writer, r *loss.Record) {
	fmt.Fprintf(out, "\nThe recovery, from %s to %s", r.Source, r.Target)
	if r.LeaderLost {
		fmt.Fprint(out, " (the leading watcher was on the lost node too)")
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "  since the cut\tstep took\t\n")
	last := time.Duration(0)
	for _, m := range r.Moments {
		since := m.At.Sub(r.CutAt)
		fmt.Fprintf(table, "  %s\t%s\t  %s\n", inSeconds(since), inSeconds(since-last), m.Name)
		last = since
	}
	table.Flush()

	status := r.Migration.Status
	fmt.Fprint(out, "\nThe figures\n")
	table = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "  RTO, by Lifeboat\t%s\tlast sign of life to successor ready\n", inSeconds(r.RTO()))
	fmt.Fprintf(table, "  RTO, by the shopper\t%s\tpower cut to first answer\n", inSeconds(r.ClientRTO()))
	fmt.Fprintf(table, "  RPO, by Lifeboat\t%s\tage of the state that came back\n", inSeconds(r.RPO()))
	fmt.Fprintf(table, "  Checkpoint pause\t%s\thow long the cart stood still for one\n", milliseconds(r.Checkpoint.Status.PauseSeconds))
	fmt.Fprintf(table, "  Checkpoint size\t%s\t%s of it new to the store\n", size(r.Checkpoint.Status.Bytes), size(r.Checkpoint.Status.NewBytes))
	fmt.Fprintf(table, "  Result\t%s\t%s\n", status.Result, status.Reason)
	if status.Restore != nil {
		for _, c := range status.Restore.Containers {
			fmt.Fprintf(table, "  Container %s\t%s\tgeneration %d in %s\n", c.Name, c.Result, status.Restore.Generation, milliseconds(c.Seconds))
		}
	}
	table.Flush()

	writes := r.Writes()
	lost := writes.InWindow + len(writes.Older)
	fmt.Fprint(out, "\nThe cart\n")
	table = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "  \tbefore\tafter\t\n")
	fmt.Fprintf(table, "  Process born as\t%s\t%s\t%s\n", short(r.Before.Birth), short(r.After.Birth), same(r.Before.Birth, r.After.Birth))
	fmt.Fprintf(table, "  Process counted\t%d ticks\t%d ticks\t\n", r.Before.Ticks, r.After.Ticks)
	fmt.Fprintf(table, "  Carts at rest, checksum\t%s\t%s\t%s\n", short(r.SeededBefore()), short(r.SeededAfter()), same(r.SeededBefore(), r.SeededAfter()))
	fmt.Fprintf(table, "  Shopper's items, acked\t%d\t%d\t%d lost\n", writes.Acked, writes.Restored, lost)
	table.Flush()
	if writes.InWindow > 0 {
		fmt.Fprintf(out, "  %d items were acknowledged after the checkpoint and died with the node:\n  that is the RPO. A shorter interval loses fewer.\n", writes.InWindow)
	}
	if len(writes.Older) > 0 {
		fmt.Fprintf(out, "  %d items are missing that are older than the checkpoint.\n", len(writes.Older))
	}
	if r.Verdict() == nil {
		fmt.Fprintf(out, "\nThe cart outlived its node.\n")
	} else {
		fmt.Fprintf(out, "\nThe cart did not outlive its node.\n")
	}
}

func same(before, after string) string {
	if before == after {
		return "the same"
	}
	return "DIFFERENT"
}

func short(s string) string { return s[:min(12, len(s))] }

func inSeconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func milliseconds(seconds float64) string { return fmt.Sprintf("%.0f ms", seconds*1000) }

// size writes bytes for people.
func size(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%.0f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
