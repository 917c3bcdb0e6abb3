package matrix

import (
	"math"
	"time"
)

// Results of a run that Lifeboat does not give: the others are those of the Migration.
const (
	ResultMoved    = "Moved"    // a move without Lifeboat ended with a pod that answers on another node
	ResultNoAnswer = "NoAnswer" // the clients were not answered again
)

// Phase is a step on the way to the new copy.
type Phase struct {
	Name string
	// AfterMS is the time since the move was asked for, or the power was cut.
	AfterMS float64
}

// Row is what was measured in a run. A measure that is not known is NaN. Times are in
// milliseconds, and counted from the moment at which the move was asked for or the power
// was cut.
type Row struct {
	Run
	// At is when the run began, TookSeconds how long it took with all around it.
	At          time.Time
	TookSeconds float64
	// Machine and Version say what was measured on, and which sources.
	Machine, Version string
	// Result is the Migration's, or one of the above; Reason and Message say why.
	Result, Reason, Message string

	// DowntimeMS is the longest time between two answers that any client got in a row.
	DowntimeMS float64
	// WritesMS is the longest time between two acknowledged writes in a row: an application
	// may answer reads, and refuse writes.
	WritesMS float64
	// SilentMS is the sum of all times between two answers that are longer than SilentOver.
	SilentMS float64
	// BeforeMS is the longest time between two answers before the move.
	BeforeMS float64
	// TotalMS is the time until all was done, as whoever asked for the move sees it.
	TotalMS float64
	// PauseMS is how long the old copy stood still before it was gone.
	PauseMS float64
	// BytesSent is what was copied between nodes.
	BytesSent float64
	// RPOMS is the age of the state that came back.
	RPOMS float64

	// Requests is how many were sent from the move on, Failed how many of those failed.
	Requests, Failed int
	// Acked is how many writes were acknowledged, of the whole run; Lost how many of
	// those are not there at the end, Repeated how many were done more than once.
	Acked, Lost, Repeated int
	// WrongPages is how many pages of memory have a wrong content at the end.
	WrongPages float64
	// RewrittenMBs is how much memory was in fact rewritten a second.
	RewrittenMBs float64
	Phases       []Phase
}

// SilentOver is how long clients must be without an answer for it to count as silence.
const SilentOver = 100 * time.Millisecond

// NewRow returns a row in which nothing is measured yet.
func NewRow(run Run) Row {
	unknown := math.NaN()
	return Row{
		Run: run, TookSeconds: unknown, DowntimeMS: unknown, WritesMS: unknown, SilentMS: unknown, BeforeMS: unknown, TotalMS: unknown,
		PauseMS: unknown, BytesSent: unknown, RPOMS: unknown, WrongPages: unknown, RewrittenMBs: unknown,
	}
}

// Known says whether a measure was taken.
func Known(measure float64) bool { return !math.IsNaN(measure) }

// Succeeded says whether the application came to another node, in the way that was
// asked for.
func (r Row) Succeeded() bool {
	switch r.Result {
	case "Restored", "Imported", "Replaced", ResultMoved:
		return true
	}
	return false
}
