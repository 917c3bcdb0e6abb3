package pages

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Source has the memory of a container's processes.
type Source interface {
	// Chunks returns all of it, in the order in which it is best filled in. A page
	// that is in none of them is all zeros. It is asked once.
	Chunks() []memory.Chunk
	// Read reads chunks by their IDs, in any order, and passes the content of each
	// one to visit, which does not keep it. It is called by several goroutines.
	// Content that is wrong must not be passed: it is an error.
	Read(ctx context.Context, chunks []int, visit func(id int, data []byte) error) error
}

// Options are what a daemon may be told. The zero value is usable.
type Options struct {
	Log *slog.Logger
	// FaultWorkers is how many faults are answered at the same time; 8 where it is 0.
	FaultWorkers int
	// Drainers is how many goroutines fill in pages that nobody has asked for yet; 2 where it is 0.
	Drainers int
	// BatchBytes is about how much a drainer reads at once; 1 MiB where it is 0.
	BatchBytes int
	// Retry is asked after the source has failed to read, the attempts-th time in
	// a row for these chunks, and may wait until it makes sense to try again, but
	// not longer than its context. Where it returns false the daemon gives up and
	// Wait returns the error. Without Retry the first error is the last. While it
	// waits, the processes that need the pages wait too, and nothing is lost.
	Retry func(ctx context.Context, err error, attempts int) bool
	// Keeper is told of the userfaultfds and of each change, so that another daemon
	// can go on after this process has died. Without it the processes' missing
	// pages turn into zeros at that moment.
	Keeper Keeper

	// afterRead is called between reading changes and applying them, in tests.
	afterRead func(changes int)
}

const (
	defaultFaultWorkers = 8
	defaultDrainers     = 2
	defaultBatchBytes   = 1 << 20
)

func (o Options) complete() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FaultWorkers <= 0 {
		o.FaultWorkers = defaultFaultWorkers
	}
	if o.Drainers <= 0 {
		o.Drainers = defaultDrainers
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = defaultBatchBytes
	}
	if o.Retry == nil {
		o.Retry = func(context.Context, error, int) bool { return false }
	}
	return o
}

// Keeper holds duplicates of a daemon's userfaultfds in another process. Package
// keeper has one.
type Keeper interface {
	// Keep begins to hold a daemon's state. The descriptor is duplicated.
	Keep(state int) error
	// Add holds the userfaultfd of one more process, the index-th, and returns when
	// it is held for sure. The descriptor is duplicated.
	Add(index, userfaultfd int) error
	// Remove lets go of the index-th userfaultfd: that process has all of its memory.
	Remove(index int) error
	// Drop lets go of everything: every page is filled in, or the processes are dead.
	Drop() error
	// Lost is whether the keeper has ended, and with it what it held. Keep begins anew.
	Lost() bool
	// Close leaves everything to whoever takes it over.
	Close() error
}

// Kept is what a keeper held for a daemon that has died.
type Kept struct {
	// State and Userfaultfds are descriptors, which Resume takes over. The index of
	// a userfaultfd is the one that it was added with; -1 is one that was not.
	State        int
	Userfaultfds []int
}

// Close closes what Resume has not taken over. The container must be dead.
func (k Kept) Close() {
	for _, fd := range append([]int{k.State}, k.Userfaultfds...) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Errors of Wait and Resume.
var (
	// ErrNotRestored is the error of a restore that ended before its processes ran.
	ErrNotRestored = errors.New("the restore ended before all processes were restored")
	// ErrStopped is what Wait returns after Stop.
	ErrStopped = errors.New("the page daemon was stopped")
	// ErrUnsafe is the error of Resume where something that a process did to its
	// memory may have been lost with the former daemon: the container must be killed.
	ErrUnsafe = errors.New("a change of the memory may have been lost with the former page daemon")
)
