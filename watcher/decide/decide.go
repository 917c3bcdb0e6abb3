// Package decide holds the watcher's judgement: when a node is declared lost,
// when it counts as fenced, when its pods are recovered, and when to do nothing.
// It is pure: what is known and a time go in, actions come out, and the answers
// to the actions go in again.
package decide

import (
	"cmp"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// Config is how a Machine decides. A zero field has its default.
type Config struct {
	// Terms are the nodes' terms; permission.Default.
	Terms permission.Terms
	// LostShare is the share of the known nodes that may look lost at a time; one
	// always may. It is below one half on purpose: the side of a partition that
	// still has the API must be the larger one. 0.4.
	LostShare float64
	// PerDomain is whether the same holds for each failure domain by itself. Then
	// nothing is done about a domain that is lost as a whole.
	PerDomain bool
	// MaxFences is how many nodes are fenced within FencesWithin at most, or the
	// LostShare of the nodes where that is more. 5 within one minute.
	MaxFences    int
	FencesWithin time.Duration
}

func (c Config) complete() Config {
	c.Terms = cmp.Or(c.Terms, permission.Default)
	c.LostShare = cmp.Or(c.LostShare, 0.4)
	c.MaxFences = cmp.Or(c.MaxFences, 5)
	c.FencesWithin = cmp.Or(c.FencesWithin, time.Minute)
	return c
}

// View is everything that is known.
type View struct {
	Nodes []Node
	// Paused is why an operator has paused recoveries, empty if none has.
	Paused string
}

// Node is what is known of one node.
type Node struct {
	Fact  detect.Fact
	Fence Fence
}

// Fence is what is known of a node's fence record.
type Fence struct {
	// State is empty when the record does not exist.
	State v1alpha1.FenceState
	// Generation is the object's metadata.generation. Of two views of one
	// record the one with the higher generation is the newer.
	Generation int64
	// BootID is the boot of the node that the permission was given to.
	BootID string
	// Peers are the nodes that may vouch for this one. They do not change while
	// the record says Lost.
	Peers []string
}

// Kind is what an Action does.
type Kind string

// The kinds of actions. The first three write the fence record by
// compare-and-swap, and Answer must be called with what became of the write.
const (
	DeclareLost    Kind = "DeclareLost"    // write Running → Lost
	ConfirmFenced  Kind = "ConfirmFenced"  // write Lost → Fenced, epoch + 1
	Withdraw       Kind = "Withdraw"       // write Lost → Running: the node lives after all
	AskPeers       Kind = "AskPeers"       // ask the node's peers to promise; Promised takes each answer
	Recover        Kind = "Recover"        // the node is fenced: move its protected pods
	Secure         Kind = "Secure"         // the node may go soon: checkpoint its protected pods now
	ReportRefuted  Kind = "ReportRefuted"  // tell that the node refuted its declaration
	ReportHeld     Kind = "ReportHeld"     // tell why a node that looks lost is not acted upon
	ReportReleased Kind = "ReportReleased" // tell that this is over
)

// Action is one thing to do for one node.
type Action struct {
	Kind Kind
	Node string
	// Reason says why, in a sentence.
	Reason string
	// LostAt goes with DeclareLost and ReportHeld: the last moment at which the node
	// was known to be alive.
	LostAt time.Time
	// Why goes with the same two, where it is what a Migration gives as its reason,
	// and with Secure.
	Why v1alpha1.MigrationReason
	// Generation goes with the writes and with AskPeers: the record that was decided
	// upon. A write of any other one must not pass.
	Generation int64
	// Proof goes with ConfirmFenced.
	Proof v1alpha1.FenceProof
	// Peers go with AskPeers: whom to ask.
	Peers []string
	// Held goes with ReportHeld.
	Held v1alpha1.HeldReason
}

// Promise is a peer's answer to the question whether it will vouch for a node no
// more.
type Promise struct {
	Node string
	// Generation is the record's that was asked about.
	Generation int64
	Peer       string
	// Promised is whether the peer will vouch no more; if not, it cannot read the
	// API either. A peer that does not answer makes no Promise.
	Promised bool
	// Asked is when the question was sent.
	Asked time.Time
}
