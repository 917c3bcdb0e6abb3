package main

import (
	"slices"
	"time"
)

// side is whose checkpoint or restore was measured.
type side string

const (
	stock side = "runc"     // runc's own, with its defaults
	ours  side = "lifeboat" // Lifeboat's, from the node's own store
	away  side = "lifeboat, from another node"
)

// The measures. Those of time are in seconds, those of size in bytes.
const (
	// pauseGap is for how long the workload's probe did not run.
	pauseGap = "pause, by the workload"
	// pauseEngine is the pause that the engine reports.
	pauseEngine = "pause, by the engine"
	// quietGap is the same as pauseGap in a moment without a checkpoint.
	quietGap = "gap without a checkpoint"
	// phasePrefix begins the names of the parts of the engine's pause.
	phasePrefix = "phase "
	// total is how long a checkpoint takes, with all that is done beside the pause.
	total = "checkpoint"

	resident  = "resident memory"
	firstNew  = "first generation"
	storedNew = "stored"
	sentNew   = "sent"
	// sealAlone is how long an unchanged generation is sealed by one processor.
	sealAlone = "seal, unchanged, one processor"
	// processor is the processor time of checkpoint and seal.
	processor = "processor time"

	// firstAnswer is the time from the runtime's create to the first right answer.
	firstAnswer = "create to first right answer"
	drainTime   = "drain"
	drainBytes  = "drained"
	// faults are the pages that the workload had to wait for.
	faults = "faults"
)

// sample is one measurement.
type sample struct {
	Row     row     `json:"row"`
	Side    side    `json:"side"`
	Measure string  `json:"measure"`
	Run     int     `json:"run"`
	Value   float64 `json:"value"`
}

// facts are those of the machine.
type facts struct {
	Kernel     string `json:"kernel"`
	Processors int    `json:"processors"`
	MemoryMB   int64  `json:"memoryMB"`
	CRIU       string `json:"criu"`
	Runc       string `json:"runc"`
	StoreDisk  string `json:"storeDisk"`
	// Tracking is how the engine finds out which pages were written.
	Tracking string `json:"tracking"`
	// Load is the load average of the minute before: what shares the machine makes figures noisy.
	Load string `json:"load"`
}

// event is what the part of the benchmark that measures tells the one that reports.
type event struct {
	Facts    *facts  `json:"facts,omitempty"`
	Progress string  `json:"progress,omitempty"`
	Sample   *sample `json:"sample,omitempty"`
	// Done is a row of which every sample is there.
	Done *row `json:"done,omitempty"`
	// Failed is a row that could not be measured, with the reason.
	Failed *failure `json:"failed,omitempty"`
}

type failure struct {
	Row    row    `json:"row"`
	Reason string `json:"reason"`
}

// results are all that was measured.
type results struct {
	Facts    facts     `json:"facts"`
	Samples  []sample  `json:"samples"`
	Failures []failure `json:"failures,omitempty"`
	done     []row
}

// of returns all values of a measure, in the order of their runs.
func (r *results) of(at row, s side, measure string) []float64 {
	var values []float64
	for _, one := range r.Samples {
		if one.Row == at && one.Side == s && one.Measure == measure {
			values = append(values, one.Value)
		}
	}
	return values
}

// measures lists the names of a row's measures that begin with prefix, in the order
// in which they first came.
func (r *results) measures(prefix string) []string {
	var names []string
	for _, one := range r.Samples {
		if len(one.Measure) > len(prefix) && one.Measure[:len(prefix)] == prefix && !slices.Contains(names, one.Measure) {
			names = append(names, one.Measure)
		}
	}
	return names
}

// spread is what several measurements came to.
type spread struct{ min, median, max float64 }

// spreadOf returns the spread of values, and false when there are none. The median
// of an even number is the mean of the two in the middle.
func spreadOf(values []float64) (spread, bool) {
	n := len(values)
	if n == 0 {
		return spread{}, false
	}
	sorted := slices.Sorted(slices.Values(values))
	return spread{sorted[0], (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[n-1]}, true
}

// phase is a part of something that took time.
type phase struct {
	name string
	took time.Duration
}

// laps measures phases, one after the other.
type laps struct {
	begin  time.Time
	phases []phase
}

func newLaps() *laps { return &laps{begin: time.Now()} }

// end ends a phase, and begins the next one.
func (l *laps) end(name string) {
	now := time.Now()
	l.phases = append(l.phases, phase{name, now.Sub(l.begin)})
	l.begin = now
}
