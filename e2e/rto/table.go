package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

// results are everything that a run has measured.
type results struct {
	trials      []*trial
	monitor     cluster.NodeMonitor
	falseLosses int
}

// tables writes what the losses did to the cart with Lifeboat, and to the one without.
func (r results) tables(out io.Writer) error {
	leaders := 0
	for _, t := range r.trials {
		if t.LeaderLost {
			leaders++
		}
	}
	fmt.Fprintf(out, "The cart with Lifeboat: %d losses, the leading watcher's node among them %d times. In seconds; p95 is the\n"+
		"smallest time that 95 %% of the losses do not exceed (of 20: the 19th).\n\n", len(r.trials), leaders)
	if err := r.steps(out); err != nil {
		return err
	}
	r.aims(out)
	if err := r.figures(out); err != nil {
		return err
	}
	return r.stock(out)
}

// steps writes how long each step took, and when it came.
func (r results) steps(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "step:\t\tsince the cut:\t\t\t\t\nmedian\tp95\tmedian\tp95\tmin\tmax\t\n")
	for _, name := range moments {
		var steps, since []time.Duration
		for _, t := range r.trials {
			if step, at, known := stepOf(t.Record, name); known {
				steps, since = append(steps, step), append(since, at)
			}
		}
		if len(since) == 0 {
			continue
		}
		step, at := spreadOf(steps), spreadOf(since)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t  %s\n", s(step.median), s(step.p95), s(at.median), s(at.p95), s(at.fastest), s(at.slowest),
			name+r.share(len(since)))
	}
	return w.Flush()
}

// stepOf is the time since the moment before, and since the cut.
func stepOf(r *loss.Record, name string) (step, since time.Duration, known bool) {
	if since, known = r.Since(name); !known {
		return 0, 0, false
	}
	before := time.Duration(0)
	for _, m := range r.Moments {
		if m.Name == name {
			break
		}
		before = max(before, m.At.Sub(r.CutAt))
	}
	return since - before, since, true
}

// aims writes whether the times are those that were aimed at.
func (r results) aims(out io.Writer) {
	at := spreadOf(all(r.trials, func(t *trial) time.Duration { return t.ClientRTO() }))
	fmt.Fprintf(out, "\naims, power cut to first answer: median at most %s s: %s (%s s); p95 at most %s s: %s (%s s)\n\n",
		s(aimMedian), verdict(at.median, aimMedian), s(at.median), s(aimP95), verdict(at.p95, aimP95), s(at.p95))
}

// figures writes the figures of the whole.
func (r results) figures(out io.Writer) error {
	rows := newRows(out)
	rows.add("RTO, by Lifeboat: last sign of life to successor ready", all(r.trials, func(t *trial) time.Duration { return t.RTO() }))
	rows.add("RTO, by the shopper: power cut to first answer", all(r.trials, func(t *trial) time.Duration { return t.ClientRTO() }))
	rows.add("RPO, by Lifeboat", all(r.trials, func(t *trial) time.Duration { return t.RPO() }))
	rows.add("checkpoint pause", all(r.trials, func(t *trial) time.Duration {
		return time.Duration(t.Checkpoint.Status.PauseSeconds * float64(time.Second))
	}))
	if err := rows.w.Flush(); err != nil {
		return err
	}
	acked, lost := 0, 0
	for _, t := range r.trials {
		writes := t.Writes()
		acked, lost = acked+writes.Acked, lost+writes.Acked-writes.Restored
	}
	fmt.Fprintf(out, "\nIts memory came back %d of %d times; of %d acknowledged items %d were younger than the checkpoint and are lost.\n",
		len(r.trials), len(r.trials), acked, lost)
	return nil
}

// stock writes what happened to the cart without Lifeboat.
func (r results) stock(out io.Writer) error {
	var lost []*trial
	alone, same, acked, kept, ticks := 0, 0, 0, 0, int64(0)
	var shortest, longest time.Duration
	for _, t := range r.trials {
		if t.stock == nil {
			continue
		}
		lost = append(lost, t)
		alone += count(t.stock.alone())
		same += count(t.stock.sameProcess())
		acked, kept, ticks = acked+t.stock.acked, kept+t.stock.kept, ticks+t.stock.ticks
		off := t.stock.powerOn.Sub(t.CutAt)
		shortest, longest = min(cmp.Or(shortest, off), off), max(longest, off)
	}
	if len(lost) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\nThe same StatefulSet without Lifeboat, on the same nodes, lost by the same cuts, on stock Kubernetes as fast as it goes:\n"+
		"node-monitor-period %s, node-monitor-grace-period %s, nodeStatusUpdateFrequency %s, nodeLeaseDurationSeconds %.0f,\n"+
		"tolerationSeconds 0. In seconds.\n\n", r.monitor.Every, r.monitor.Grace, r.monitor.Status, r.monitor.Lease.Seconds())
	rows := newRows(out)
	moment := func(name string, from, to func(*trial) time.Time) {
		var measured []time.Duration
		for _, t := range lost {
			if !from(t).IsZero() && !to(t).IsZero() {
				measured = append(measured, to(t).Sub(from(t)))
			}
		}
		rows.add(name+r.share(len(measured)), measured)
	}
	cut := func(t *trial) time.Time { return t.CutAt }
	power := func(t *trial) time.Time { return t.stock.powerOn }
	moment("cut to: node not ready", cut, func(t *trial) time.Time { return t.stock.notReady })
	moment("cut to: pod marked for deletion", cut, func(t *trial) time.Time { return t.stock.marked })
	moment("power back to: old pod gone from the API", power, func(t *trial) time.Time { return t.stock.gone })
	moment("power back to: successor created", power, func(t *trial) time.Time { return t.stock.created })
	moment("power back to: successor ready", power, func(t *trial) time.Time { return t.stock.ready })
	moment("power back to: first answer to the shopper", power, func(t *trial) time.Time { return t.stock.firstReply })
	if err := rows.w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nIt came back by itself, the node still without power, %d of %d times; the power was off for %s to %s s.\n"+
		"Its memory came back %d of %d times; of %d acknowledged items %d are lost, and %.0f s of the process's life each time.\n"+
		"Kubernetes took a node that had power for lost %d times in the whole run.\n",
		alone, len(lost), s(shortest), s(longest), same, len(lost), acked, acked-kept,
		float64(ticks)/float64(len(lost))/10, r.falseLosses)
	return nil
}

// share says of how many losses something is known, if not of all.
func (r results) share(known int) string {
	if known == len(r.trials) {
		return ""
	}
	return fmt.Sprintf(" (%d of %d)", known, len(r.trials))
}

// rows are the lines of a table.
type rows struct{ w *tabwriter.Writer }

func newRows(out io.Writer) rows {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "median\tp95\tmin\tmax\t\n")
	return rows{w}
}

// add writes a line, with dashes for what was never measured.
func (r rows) add(name string, measured []time.Duration) {
	if len(measured) == 0 {
		fmt.Fprintf(r.w, "-\t-\t-\t-\t  %s\n", name)
		return
	}
	m := spreadOf(measured)
	fmt.Fprintf(r.w, "%s\t%s\t%s\t%s\t  %s\n", s(m.median), s(m.p95), s(m.fastest), s(m.slowest), name)
}

func all(trials []*trial, measure func(*trial) time.Duration) []time.Duration {
	measured := make([]time.Duration, len(trials))
	for i, t := range trials {
		measured[i] = measure(t)
	}
	return measured
}

func count(holds bool) int {
	if holds {
		return 1
	}
	return 0
}

// s writes a time in seconds.
func s(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }
