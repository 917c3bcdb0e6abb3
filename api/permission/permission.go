// Package permission holds the terms under which a node may let protected pods
// run, and the wait after which a silent node's permission has surely run out.
//
// A node may run protected pods until Period after the start of its last
// successful read of its own fence record that showed it Running. The watcher
// declares the node lost by writing the record, waits Wait from the write's
// answer, and only then recovers: a read that started before the write was
// answered may still have seen Running, one that started after it cannot have.
//
// When the API fails, no node can read. So that not every pod stops then, a node
// that cannot read asks its peers; if at least half of them cannot read either,
// the question counts as a read. The watcher therefore waits, before it fences,
// until more than half of the node's peers have promised not to speak for it, and
// its wait counts from then.
package permission

import "time"

// Terms are the terms of the permission. Every node and the watcher must use
// the same.
type Terms struct {
	// Period is how long one read of the fence record permits to run.
	Period time.Duration
	// ReadEvery is how often a node reads its record; several reads fit into a
	// Period.
	ReadEvery time.Duration
	// Drift bounds how much slower a node's clock may run than the watcher's:
	// 0.01 means one per cent.
	Drift float64
	// Look is how long after the end of its permission a node may take to notice it.
	Look time.Duration
	// Stop is how long it may take from then until its processes are stopped.
	Stop time.Duration
	// Slack is for stalls of the node's fencer, which runs before everything else
	// there and is never paged out.
	Slack time.Duration
	// VouchAfter is how long a node must have been unable to read its record to
	// ask its peers, and to vouch for others. Two reads have then failed.
	VouchAfter time.Duration
	// PromiseFor is how long a promise not to vouch holds, and how long a fencer
	// that has just started vouches for nobody: it may have promised.
	PromiseFor time.Duration
}

// Default are the terms that Lifeboat runs with.
var Default = Terms{
	Period:     2 * time.Second,
	ReadEvery:  500 * time.Millisecond,
	Drift:      0.01,
	Look:       50 * time.Millisecond,
	Stop:       150 * time.Millisecond,
	Slack:      100 * time.Millisecond,
	VouchAfter: time.Second,
	PromiseFor: 10 * time.Second,
}

// Wait is how long the watcher waits, from the answer to its declaration and from
// the last promise that it needs, until the node's permission has run out and its
// processes are stopped.
func (t Terms) Wait() time.Duration {
	return stretch(t.Period, t.Drift) + t.Look + t.Stop + t.Slack
}

// PromiseUsable is how long after it was asked for a promise may be counted. It
// leaves the rest of PromiseFor for the permission to run out while all of the
// promises hold.
func (t Terms) PromiseUsable() time.Duration { return t.PromiseFor / 2 }

// PollEvery is how often a node that cannot read asks its peers.
func (t Terms) PollEvery() time.Duration { return t.ReadEvery / 2 }

// Sound says whether the terms keep what they promise: a promise must outlast any
// permission that was extended before it, and, where the API fails for all, a node
// must find its peers ready to vouch before its own permission is out. Their last
// reads may be one interval younger than its own.
func (t Terms) Sound() bool {
	const answer = 100 * time.Millisecond // what one question to the peers may take
	return t.ReadEvery+t.Look+t.VouchAfter+t.PollEvery()+t.Look+answer <= t.Period &&
		t.PromiseUsable()+stretch(t.Wait(), 2*t.Drift) <= t.PromiseFor
}

// stretch is how long a clock that runs slower by drift takes to show d.
func stretch(d time.Duration, drift float64) time.Duration {
	return time.Duration(float64(d) * (1 + drift))
}

const (
	// FencerPort is where the fencer of a node serves its metrics. While it answers
	// there, it also stops the node's protected pods when their permission runs out.
	FencerPort = 7949
	// VoucherPort is where it answers its peers and the watcher, over mutual TLS.
	VoucherPort = 7950
)
