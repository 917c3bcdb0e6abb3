package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// report prints what is measured while it comes: rows of the table to out, and what
// is being done to progress.
type report struct {
	results
	bench         bench
	begin         time.Time
	out, progress io.Writer
	headed        bool
}

func newReport(b bench, out, progress io.Writer) *report {
	return &report{bench: b, begin: time.Now(), out: out, progress: progress}
}

func (r *report) event(e event) {
	switch {
	case e.Facts != nil:
		r.Facts = *e.Facts
	case e.Progress != "":
		fmt.Fprintf(r.progress, "  %6.1f s  %s\n", time.Since(r.begin).Seconds(), e.Progress)
	case e.Sample != nil:
		r.Samples = append(r.Samples, *e.Sample)
	case e.Done != nil:
		if !r.headed {
			r.headed = true
			r.head()
		}
		r.done = append(r.done, *e.Done)
		tables[r.bench].row(r.out, &r.results, *e.Done)
	case e.Failed != nil && !slices.Contains(r.done, e.Failed.Row):
		r.Failures = append(r.Failures, *e.Failed)
	}
}

// head prints the machine's facts and the head of the table.
func (r *report) head() {
	f := r.Facts
	fmt.Fprintf(r.out, "Linux %s, %d processors, %d MB of memory, load %s\nCRIU %s, runc %s; tracking: %s; store on %s\n",
		f.Kernel, f.Processors, f.MemoryMB, f.Load, f.CRIU, f.Runc, f.Tracking, f.StoreDisk)
	for _, line := range tables[r.bench].head {
		fmt.Fprintln(r.out, line)
	}
}

// end prints what can be said once all rows are there.
func (r *report) end() {
	if len(r.done) > 0 {
		tables[r.bench].end(r.out, &r.results)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(r.out, "not measured: %s: %s\n", f.Row.name(), f.Reason)
	}
}

// write writes every measurement to a file, in the form that its name asks for.
func (r *results) write(file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	if filepath.Ext(file) == ".json" {
		encoder := json.NewEncoder(f)
		encoder.SetIndent("", " ")
		return encoder.Encode(r)
	}
	w := csv.NewWriter(f)
	records := [][]string{{"content", "bytes", "dirty_percent", "side", "measure", "run", "value"}}
	for _, s := range r.Samples {
		kind := string(s.Row.Content)
		if s.Row.Redis {
			kind = redisContent
		}
		records = append(records, []string{
			kind, strconv.FormatInt(s.Row.Bytes, 10), strconv.Itoa(s.Row.Dirty), string(s.Side), s.Measure,
			strconv.Itoa(s.Run), strconv.FormatFloat(s.Value, 'g', -1, 64),
		})
	}
	return w.WriteAll(records)
}

// table is how a benchmark's results are printed, at most 120 columns wide.
type table struct {
	head []string
	row  func(out io.Writer, r *results, at row)
	end  func(out io.Writer, r *results)
}

var tables = map[bench]table{
	benchCheckpoint: {checkpointHead, checkpointRow, checkpointEnd},
	benchStore:      {storeHead, storeRow, storeEnd},
	benchRestore:    {restoreHead, restoreRow, restoreEnd},
}

// threeWidth is the width of what three prints.
const threeWidth = 26

// three prints the least, the median and the greatest of some times in milliseconds.
func three(values []float64) string {
	s, ok := spreadOf(values)
	if !ok {
		return fmt.Sprintf("%*s", threeWidth, "-")
	}
	return fmt.Sprintf("%8s %8s %8s", milliseconds(s.min), milliseconds(s.median), milliseconds(s.max))
}

func milliseconds(seconds float64) string {
	digits := 1
	if seconds >= 1 {
		digits = 0
	}
	return strconv.FormatFloat(seconds*1000, 'f', digits, 64)
}

func median(values []float64) (float64, bool) {
	s, ok := spreadOf(values)
	return s.median, ok
}

// quotient prints a/b, or - when either is missing.
func quotient(a, b []float64, format string) string {
	x, ok := median(a)
	y, known := median(b)
	if !ok || !known || y == 0 {
		return "-"
	}
	return fmt.Sprintf(format, x/y)
}

// aim is what a figure should come to.
type aim struct {
	what string
	// worst is the row that is furthest from it, and value what it came to.
	worst string
	value string
	met   bool
	known bool
}

func printAims(out io.Writer, aims []aim) {
	fmt.Fprintln(out)
	for _, a := range aims {
		verdict := "not measured"
		if a.known {
			verdict = "NOT MET"
			if a.met {
				verdict = "met"
			}
			verdict += ": " + a.value
			if a.worst != "" {
				verdict += " (" + a.worst + ")"
			}
		}
		fmt.Fprintf(out, "aim: %s: %s\n", a.what, verdict)
	}
}

// worstOf returns an aim with the row that is furthest from it: value tells what a
// row came to, and false where the aim is not about it; the greatest is the worst.
func worstOf(r *results, what string, limit float64, value func(at row) (float64, bool), text func(float64) string) aim {
	a := aim{what: what}
	var worst float64
	for _, at := range r.done {
		if v, ok := value(at); ok && (!a.known || v > worst) {
			a.known, worst, a.worst = true, v, at.name()
		}
	}
	if a.known {
		a.met, a.value = worst <= limit, text(worst)
	}
	return a
}
