// Package permission holds the terms under which a node may let protected pods
// run, and the wait after which a silent node's permission has surely run out.
//
// A node may run protected pods until Period after the start of its last
// successful read of its own fence record that showed it Running. The watcher
// declares the node lost by writing the record, waits Wait from the write's
// answer, and only then recovers: a read that started before the write was
// answered may still have seen Running, one that started after it cannot have.
package permission

import "time"

// Terms are the terms of the permission. Every node and the watcher must use
// the same.
type Terms struct {
	// Period is how long one read of the fence record permits to run.
	Period time.Duration
	// ReadEvery is how often a node reads its record; several reads fit into a Period.
	ReadEvery time.Duration
	// Drift bounds how much slower a node's clock may run than the watcher's:
	// 0.01 means one per cent.
	Drift float64
	// Margin is how long a node may take from the end of its permission until
	// its processes are stopped.
	Margin time.Duration
}

// Default are the terms that Lifeboat runs with.
var Default = Terms{
	Period:    2 * time.Second,
	ReadEvery: 500 * time.Millisecond,
	Drift:     0.01,
	Margin:    300 * time.Millisecond,
}

// Wait is how long the watcher waits, from the answer to its declaration, until
// the node's permission has run out and its processes are stopped.
func (t Terms) Wait() time.Duration {
	return time.Duration(float64(t.Period)*(1+t.Drift)) + t.Margin
}

// FencerPort is where the fencer of a node serves its metrics. While it answers
// there, it also stops the node's protected pods when their permission runs out.
const FencerPort = 7949
