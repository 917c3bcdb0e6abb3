package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// nameWidth is the width of a table's first column.
const nameWidth = 18

var checkpointHead = []string{
	"runc: runc checkpoint --leave-running with its defaults. Both write to a tmpfs. Times in ms: min, median, max.",
	"",
	fmt.Sprintf("%-*s %*s  %*s  %*s %7s", nameWidth, "", threeWidth, "runc's pause", threeWidth, "Lifeboat's pause", threeWidth, "as its engine reports it", "shorter"),
	fmt.Sprintf("%-*s %*s  %*s  %*s %7s", nameWidth, "rewritten", threeWidth, "by the workload", threeWidth, "by the workload", threeWidth, "", "times"),
}

func checkpointRow(out io.Writer, r *results, at row) {
	theirs, gap := r.of(at, stock, pauseGap), r.of(at, ours, pauseGap)
	fmt.Fprintf(out, "%-*s %s  %s  %s %7s\n", nameWidth, at.name(), three(theirs), three(gap), three(r.of(at, ours, pauseEngine)),
		quotient(theirs, gap, "%.1f"))
}

const (
	// smallPause is the aim for memory of smallBytes.
	smallPause = 30 * time.Millisecond
	smallBytes = 64 * mebibyte
	// shorter is by how much the pause of 1 GB of which 1 % was rewritten is to be
	// shorter than runc's.
	shorter = 5
)

func checkpointEnd(out io.Writer, r *results) {
	fmt.Fprintf(out, "\nmedians in ms; without: the longest gap in %d ms without a checkpoint; whole: with all that is done while the pod runs\n",
		quietWindow.Milliseconds())
	fmt.Fprintf(out, "%-*s %8s %11s %10s %9s%s\n", nameWidth, "", "without", "runc, whole", "we, whole", "pause of", r.phaseNames())
	for _, at := range r.done {
		one := func(s side, measure string) string { return medianMilliseconds(r.of(at, s, measure)) }
		fmt.Fprintf(out, "%-*s %8s %11s %10s %9s%s\n", nameWidth, at.name(), one(ours, quietGap), one(stock, total), one(ours, total), one(ours, pauseEngine),
			r.phases(at, ours))
	}
	printAims(out, []aim{
		worstOf(r, fmt.Sprintf("a pause of at most %d ms at 64 MB", smallPause.Milliseconds()), smallPause.Seconds(), func(at row) (float64, bool) {
			if at.Bytes != smallBytes {
				return 0, false
			}
			return median(r.of(at, ours, pauseGap))
		}, func(v float64) string { return milliseconds(v) + " ms" }),
		// The share of runc's pause, so that the greatest is the worst here too.
		worstOf(r, fmt.Sprintf("a pause at least %d times shorter than runc's at 1 GB, 1 %% rewritten", shorter), 1.0/shorter, func(at row) (float64, bool) {
			theirs, known := median(r.of(at, stock, pauseGap))
			gap, measured := median(r.of(at, ours, pauseGap))
			return gap / theirs, at.Bytes == gibibyte && at.Dirty == 1 && known && measured
		}, func(v float64) string { return fmt.Sprintf("%.1f times", 1/v) }),
	})
}

// phaseNames are the heads of the columns that phases fills.
func (r *results) phaseNames() string {
	var line strings.Builder
	for _, name := range r.measures(phasePrefix) {
		fmt.Fprintf(&line, "  %*s", phaseWidth, strings.TrimPrefix(name, phasePrefix))
	}
	return line.String()
}

// phaseWidth is the least width of a phase's column.
const phaseWidth = 6

// phases are the medians of all phases in a row, in milliseconds.
func (r *results) phases(at row, s side) string {
	var line strings.Builder
	for _, name := range r.measures(phasePrefix) {
		width := max(phaseWidth, len(strings.TrimPrefix(name, phasePrefix)))
		fmt.Fprintf(&line, "  %*s", width, medianMilliseconds(r.of(at, s, name)))
	}
	return line.String()
}

func medianMilliseconds(seconds []float64) string {
	if v, ok := median(seconds); ok {
		return milliseconds(v)
	}
	return "-"
}

var storeHead = []string{
	"One generation after another; stored: new bytes in the own store, sent: bytes to one holder. Medians.",
	"",
	fmt.Sprintf("%-*s %9s %9s %9s %7s %9s %7s %10s %11s %10s", nameWidth, "", "resident", "first", "stored", "of", "sent", "of", "unchanged", "processor", "of a core"),
	fmt.Sprintf("%-*s %9s %9s %9s %7s %9s %7s %10s %11s %10s", nameWidth, "rewritten", "MB", "MB", "MB", "res.", "MB", "res.", "GB/s, 1", "s", "each 30 s"),
}

func storeRow(out io.Writer, r *results, at row) {
	size := r.of(at, ours, resident)
	stored, sent, cpu := r.of(at, ours, storedNew), r.of(at, ours, sentNew), r.of(at, ours, processor)
	rate := "-"
	if v, ok := sealRate(r, at); ok {
		rate = fmt.Sprintf("%.2f", v/1e9)
	}
	fmt.Fprintf(out, "%-*s %9s %9s %9s %7s %9s %7s %10s %11s %10s\n", nameWidth, at.name(),
		quotient(size, []float64{1e6}, "%.1f"), quotient(r.of(at, ours, firstNew), []float64{1e6}, "%.1f"),
		quotient(stored, []float64{1e6}, "%.3f"), quotient(stored, size, "%.4f"),
		quotient(sent, []float64{1e6}, "%.3f"), quotient(sent, size, "%.4f"),
		rate, quotient(cpu, []float64{1}, "%.3f"), quotient(cpu, []float64{0.30}, "%.2f %%"))
}

// sealRate is how many bytes of unchanged memory one processor seals in a second.
func sealRate(r *results, at row) (float64, bool) {
	size, known := median(r.of(at, ours, resident))
	took, measured := median(r.of(at, ours, sealAlone))
	return size / took, known && measured
}

const (
	changedShare   = 0.03  // of resident memory at 1 % rewritten
	unchangedShare = 0.005 // and at nothing
	leastRate      = 1e9   // bytes of unchanged memory per second and core
)

func storeEnd(out io.Writer, r *results) {
	share := func(dirty int) func(at row) (float64, bool) {
		return func(at row) (float64, bool) {
			size, known := median(r.of(at, ours, resident))
			stored, _ := median(r.of(at, ours, storedNew))
			sent, measured := median(r.of(at, ours, sentNew))
			return max(stored, sent) / size, known && measured && at.Dirty == dirty
		}
	}
	percent := func(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }
	printAims(out, []aim{
		worstOf(r, "at most 3 % of resident memory stored and sent, 1 % rewritten", changedShare, share(1), percent),
		worstOf(r, "at most 0.5 % of resident memory stored and sent, nothing rewritten", unchangedShare, share(0), percent),
		worstOf(r, "at least 1 GB/s of unchanged memory per core", 1/leastRate, func(at row) (float64, bool) {
			rate, ok := sealRate(r, at)
			return 1 / rate, ok
		}, func(v float64) string { return fmt.Sprintf("%.2f GB/s", 1/v/1e9) }),
	})
}

var restoreHead = []string{
	fmt.Sprintf("From the runtime's create to the first right answer, about %d random pages. runc: runc restore of runc's own", asked),
	"images on a tmpfs, all memory first. Lifeboat's store is on the disk, in the page cache. Times in ms: min, median, max.",
	"",
	fmt.Sprintf("%-*s %-28s %*s %9s %9s %9s", nameWidth, "", "", threeWidth, "create to first answer", "faster", "drain", "drain"),
	fmt.Sprintf("%-*s %-28s %*s %9s %9s %9s", nameWidth, "", "", threeWidth, "", "times", "s", "MB/s"),
}

func restoreRow(out io.Writer, r *results, at row) {
	name := at.String()
	for _, s := range []side{stock, ours, away} {
		times, drain := r.of(at, s, firstAnswer), r.of(at, s, drainTime)
		faster, rate := "-", "-"
		if seconds, ok := median(drain); ok && seconds > 0 {
			rate = quotient(r.of(at, s, drainBytes), []float64{seconds * 1e6}, "%.0f")
		}
		if s != stock {
			faster = quotient(r.of(at, stock, firstAnswer), times, "%.1f")
		}
		fmt.Fprintf(out, "%-*s %-28s %s %9s %9s %9s\n", nameWidth, name, s, three(times), faster,
			quotient(drain, []float64{1}, "%.2f"), rate)
		name = ""
	}
}

const (
	flat        = 1.5 // the slowest size against the fastest
	localAnswer = 150 * time.Millisecond
)

func restoreEnd(out io.Writer, r *results) {
	fmt.Fprintf(out, "\nmedians in ms of what comes before the first answer, and how many pages were waited for until all was filled in\n")
	fmt.Fprintf(out, "%-*s %-28s%s  %8s\n", nameWidth, "", "", r.phaseNames(), "faults")
	for _, at := range r.done {
		name := at.String()
		for _, s := range []side{ours, away} {
			fmt.Fprintf(out, "%-*s %-28s%s  %8s\n", nameWidth, name, s, r.phases(at, s), quotient(r.of(at, s, faults), []float64{1}, "%.0f"))
			name = ""
		}
	}
	aims := []aim{worstOf(r, fmt.Sprintf("the first answer within %d ms from the node's own store", localAnswer.Milliseconds()), localAnswer.Seconds(), func(at row) (float64, bool) {
		return median(r.of(at, ours, firstAnswer))
	}, func(v float64) string { return milliseconds(v) + " ms" })}
	for _, s := range []side{ours, away} {
		where := "from the node's own store"
		if s == away {
			where = "from another node"
		}
		a := aim{what: fmt.Sprintf("flat within %.1f times over all sizes, %s", flat, where)}
		var medians []float64
		sizes := map[int64]bool{}
		for _, at := range r.done {
			if v, ok := median(r.of(at, s, firstAnswer)); ok {
				medians = append(medians, v)
				sizes[at.Bytes] = true
			}
		}
		if all, ok := spreadOf(medians); ok && len(sizes) > 1 {
			times := all.max / all.min
			a.known, a.met, a.value = true, times <= flat, fmt.Sprintf("%.1f times", times)
		}
		aims = append(aims, a)
	}
	printAims(out, aims)
}
