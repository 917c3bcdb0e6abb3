// Package keeper holds the userfaultfds of page daemons in another process of
// the node, so that the end of a daemon's process makes faults wait instead of
// turning the missing pages into zeros.
//
// A daemon connects, and brings its state and each userfaultfd. When its
// connection ends, the keeper looks at the state: where another daemon cannot go
// on, it kills the container at once; else it holds everything until the next
// one takes it over. When the keeper itself ends in an orderly way, it first
// kills the containers that have no daemon. Those that have one lose nothing but
// the keeper, and their daemons come back when there is one again.
//
// When the keeper dies together with all daemons, the node's kernel closes
// everything, and pages that are missing turn into zeros: run the keeper in a
// process that outlives the agent, and stop the containers before it.
package keeper

import "errors"

// Description says to whom kept userfaultfds belong. It is kept as it is.
type Description struct {
	// ID names the restore of one container: the container's ID.
	ID string `json:"id"`
	// CgroupsPath is the container's cgroup, as its configuration names it: what
	// is killed if its memory can no longer be filled in.
	CgroupsPath string `json:"cgroupsPath"`
	// Data is whatever the daemon's owner needs to go on, up to 64 KiB.
	Data []byte `json:"data,omitempty"`
}

// Limits of what one may ask for.
const (
	maxData         = 64 << 10
	maxID           = 128
	maxPath         = 256
	maxRestores     = 200       // all of them must fit into the answer to a list
	maxMessage      = 128 << 10 // what a socket takes at once, with room to spare
	maxProcesses    = 1 << 16
	descriptorsEach = 100 // of a message; the kernel's limit is 253
)

// The requests. One packet has one request, or one answer.
const (
	opKeep   = "keep"   // a state: begin anew
	opAdd    = "add"    // a userfaultfd
	opRemove = "remove" // one that is no longer needed
	opDrop   = "drop"   // everything of one restore
	opList   = "list"   // what has no daemon
	opTake   = "take"   // become the daemon of one restore
)

type request struct {
	Op          string       `json:"op"`
	Description *Description `json:"description,omitempty"`
	ID          string       `json:"id,omitempty"`
	Index       int          `json:"index,omitempty"`
}

type answer struct {
	Error        string        `json:"error,omitempty"`
	Descriptions []Description `json:"descriptions,omitempty"`
	// Indices are those of the userfaultfds that come in the packets that follow.
	// The state comes with the answer itself.
	Indices []int `json:"indices,omitempty"`
}

var (
	errNotDaemon = errors.New("keep or take a restore first")
	errUnknown   = errors.New("nothing is kept under that ID")
	errOwned     = errors.New("its daemon lives")
)
