package fence

import (
	"math"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Instant is a moment on this boot's clock: the time since boot, with the time
// that the machine was suspended (CLOCK_BOOTTIME).
type Instant time.Duration

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Record is what the fencer needs of the node's Fence object.
type Record struct {
	// Version is the object's resourceVersion; every write compares it.
	Version string
	State   v1alpha1.FenceState
	Epoch   int64
	BootID  string
	// Peers are the nodes that may vouch for this one.
	Peers []string
}

// Read is one answered read of the record.
type Read struct {
	// Started is when the request was sent. The record was as Record says at
	// some moment between that and the answer.
	Started Instant
	// Record is nil when the object does not exist.
	Record *Record
}

// Poll is one round of questions to the node's peers, after the last answer or
// when the time for answers is over.
type Poll struct {
	// Started is when the first question was sent.
	Started Instant
	// Asked are the peers that were to be asked: the record's.
	Asked []string
	// Vouched are those that cannot read their records either.
	Vouched []string
}

// Write is what the node has to write to its record. Each is a compare-and-swap.
type Write int

// The writes of a node.
const (
	// NoWrite leaves the record as it is.
	NoWrite Write = iota
	// Create makes the absent record, Running.
	Create
	// Adopt writes this boot's ID to a record that an earlier boot left Running.
	Adopt
	// Refute answers a declaration as lost: Lost to Running.
	Refute
	// Return ends the fencing once the old copies are gone: Fenced to Running.
	Return
	// SetPeers writes other peers to a record that says Running.
	SetPeers
)

func (w Write) String() string {
	return [...]string{"none", "create", "adopt", "refute", "return", "set peers"}[w]
}

// Decision is what the node has to do now.
type Decision struct {
	// Permitted is whether protected pods may run. If not, they are frozen.
	Permitted bool
	// KillBelow is the highest epoch that the record has had: containers that
	// started under a lower one may not run again, permitted or not.
	KillBelow int64
	// Read is whether to start a read of the record.
	Read bool
	// Poll is whether to ask the peers, Asked, if they cannot read theirs either.
	Poll  bool
	Asked []string
	// Write is what to write to the record, and Replaces the state of the
	// record that it is compared with (nil for Create).
	Write    Write
	Replaces *Record
	// Peers are what SetPeers writes.
	Peers []string
}

// NoContainer is the oldest epoch where no container runs.
const NoContainer = math.MaxInt64

// Permit decides from reads of the node's record whether protected pods may
// run on the node, and what the node writes to the record. It has no clock and
// does no input or output, and is not safe for concurrent use.
//
// # Why two copies never run
//
// The API answers reads and compare-and-swaps in one order. Let the watcher's
// write of Lost be answered at W. A read that started after W cannot show
// Running unless the node itself wrote that, so the last read to show Running
// started before W, and the permission from it ends before W + Period on the
// node's clock. The watcher writes Fenced no earlier than W + Terms.Wait, which
// adds the clocks' drift and the time to freeze, and recovers only after that
// write has won.
//
// The same holds when peers vouch for the node; see Vouching.
//
// # Why a node may refute although its permission has run out
//
// Refute and the watcher's Fenced are both compare-and-swaps from the same
// version of the record, so one of them fails. If Refute wins, nothing has been
// recovered yet and the watcher, whose write fails, stops. If Fenced wins,
// Refute fails, and the node reads Fenced next. In neither case has the node run
// anything meanwhile: its pods stay frozen until a read that started after its
// write shows Running. So a node that was cut off for slightly longer than its
// permission keeps its pods, at the price of a pause.
//
// A node that has booted since it last wrote Running does not refute: the
// processes that the watcher wants to recover ended with that boot, and their
// checkpoints are better than a cold start. It waits to be fenced. For the same reason
// it does not take over at once what the earlier boot left Running.
//
// # Why old copies are killed at any time, not on reading Fenced alone
//
// A container that was being created while the node was fenced may be
// registered under the old epoch after the others were killed. KillBelow holds
// for as long as the record has a higher epoch than the container.
type Permit struct {
	terms  permission.Terms
	bootID string

	until    Instant // protected pods may run before this
	voidTo   Instant // reads that started before this permit nothing
	settled  Instant // reads that started before this do not tell the record's state
	nextRead Instant
	nextPoll Instant

	record  *Record // the newest state that was read; nil when it was absent or never read
	current bool    // whether record was read after the last write ended
	writing bool
	epoch   int64 // the highest epoch that the record has had

	lastRead Instant // the start of the last read that permitted something
	// wrote is whether this permit has written at all, and wroteOver the version
	// that its last write was compared with. As long as the record has that
	// version, the write may still come to pass, however it ended; and before the
	// first write that is answered, one of an earlier fencer's may.
	wrote     bool
	wroteOver string
	// adoptFrom is when a record that an earlier boot left Running may be adopted, 0
	// while none was read.
	adoptFrom Instant
	// wanted are the peers that the record should have, since when.
	wanted      []string
	wantedSince Instant
}

// peersSettle is how long other peers must have been wanted before they are
// written. A peer that is dead for that long is not urgent to replace, and while
// the list may change nobody can vouch.
const peersSettle = 30 * time.Second

// adoptAfter is how long a record that an earlier boot left Running is left alone.
// The watcher, which hears of the new boot from the kubelet, declares the node lost in
// that time, and the pods are restored. After it nobody seems to watch, and they start
// anew.
const adoptAfter = 5 * time.Second

// NewPermit returns the permit of a node whose present boot is bootID. A node
// starts without permission; see Resume.
func NewPermit(terms permission.Terms, bootID string) *Permit {
	return &Permit{terms: terms, bootID: bootID}
}

// Resume takes over a permission that an earlier fencer of the same boot held
// until an instant, and the epoch that it had read.
func (p *Permit) Resume(until Instant, epoch int64) {
	p.until = max(p.until, until)
	p.epoch = max(p.epoch, epoch)
}

// Answered takes the answer to a read.
func (p *Permit) Answered(read Read) {
	r := read.Record
	if r != nil {
		p.epoch = max(p.epoch, r.Epoch)
	}
	if r != nil && r.State == v1alpha1.FenceRunning && r.BootID == p.bootID && read.Started >= p.voidTo {
		// Another boot's Running is no permission: the watcher may count on that
		// boot's end, and not wait.
		p.until = max(p.until, read.Started.Add(p.terms.Period))
		p.lastRead = max(p.lastRead, read.Started)
	}
	if read.Started < p.settled {
		return
	}
	p.settled, p.record, p.current = read.Started, r, true
	switch left := r != nil && r.State == v1alpha1.FenceRunning && r.BootID != p.bootID; {
	case !left:
		p.adoptFrom = 0
	case p.adoptFrom == 0:
		p.adoptFrom = read.Started.Add(adoptAfter)
	}
	if r != nil && r.State == v1alpha1.FenceFenced {
		// The watcher waited for the permission to run out. Should the clocks
		// have drifted further apart than the terms allow, end it now.
		p.until, p.voidTo = 0, read.Started
	}
}

// Polled takes the end of a poll. At least half of the peers must have vouched, by
// the list that the record surely has, and the permission must not have run out:
// what has run out only a read brings back.
func (p *Permit) Polled(now Instant, poll Poll) {
	switch {
	case now >= p.until, poll.Started < p.voidTo, !p.canPoll(), !slices.Equal(poll.Asked, p.record.Peers):
		return
	case 2*len(poll.Vouched) >= len(poll.Asked):
		p.until = max(p.until, poll.Started.Add(p.terms.Period))
	}
}

// canPoll says whether the record surely has the peers that were read last.
func (p *Permit) canPoll() bool {
	return p.current && !p.writing && p.record != nil && p.record.State == v1alpha1.FenceRunning && p.record.BootID == p.bootID &&
		p.wrote && p.record.Version != p.wroteOver && len(p.record.Peers) > 0
}

// SetPeers says which peers the record should have: sorted, without the node
// itself, and at most v1alpha1.MaxPeers.
func (p *Permit) SetPeers(now Instant, wanted []string) {
	if p.wanted == nil || !slices.Equal(p.wanted, wanted) {
		p.wanted, p.wantedSince = append([]string{}, wanted...), now
	}
}

// Decide says what to do now. oldest is the lowest epoch of any container that
// still has processes, NoContainer where there is none.
func (p *Permit) Decide(now Instant, oldest int64) Decision {
	d := Decision{Permitted: now < p.until, KillBelow: p.epoch}
	if now >= p.nextRead {
		d.Read = true
		p.nextRead = now.Add(p.terms.ReadEvery)
	}
	if d.Permitted && now >= p.nextPoll && now >= p.lastRead.Add(p.terms.VouchAfter) && p.canPoll() {
		d.Poll, d.Asked = true, p.record.Peers
		p.nextPoll = now.Add(p.terms.PollEvery())
	}
	if p.current && !p.writing {
		d.Write, d.Replaces = p.write(now, oldest), p.record
		if d.Write == SetPeers {
			d.Peers = p.wanted
		}
		if d.Write != NoWrite {
			p.writing, p.wrote, p.wroteOver = true, true, ""
			if p.record != nil {
				p.wroteOver = p.record.Version
			}
		}
	}
	return d
}

// write is what the newest state of the record asks for.
func (p *Permit) write(now Instant, oldest int64) Write {
	switch {
	case p.record == nil:
		return Create
	case p.record.State == v1alpha1.FenceRunning && p.record.BootID != p.bootID:
		if now < p.adoptFrom {
			return NoWrite
		}
		return Adopt
	case p.record.State == v1alpha1.FenceLost && p.record.BootID == p.bootID:
		return Refute
	case p.record.State == v1alpha1.FenceFenced && oldest >= p.record.Epoch:
		return Return
	case p.record.State == v1alpha1.FenceRunning && p.peersDue(now):
		return SetPeers
	default:
		return NoWrite
	}
}

// peersDue says whether peers are to be written to a record that says Running. The
// first write may write what is there already: it makes sure that none of an
// earlier fencer's comes after it.
func (p *Permit) peersDue(now Instant) bool {
	switch {
	case p.wanted == nil:
		return false
	case !p.wrote, len(p.record.Peers) == 0 && len(p.wanted) > 0:
		return true
	}
	return !slices.Equal(p.wanted, p.record.Peers) && now >= p.wantedSince.Add(peersSettle)
}

// Written takes the end of the write that Decide asked for, whether it won,
// lost or was not answered. Nothing more is written until a read that starts
// after now is answered; Decide asks for that read at once.
func (p *Permit) Written(now Instant) {
	p.writing, p.current = false, false
	p.settled, p.nextRead = now, now
}

// Until is when the permission ends, or has ended.
func (p *Permit) Until() Instant { return p.until }

// Epoch is the highest epoch that the record is known to have had.
func (p *Permit) Epoch() int64 { return p.epoch }

// State is the newest state that was read, empty where there was none.
func (p *Permit) State() v1alpha1.FenceState {
	if p.record == nil {
		return ""
	}
	return p.record.State
}
