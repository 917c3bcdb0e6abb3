// Package track finds out from outside which pages of their private anonymous
// memory processes write, and reads those pages, while the processes run or
// while they are frozen.
package track

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Method is a way to find out which pages a process writes.
type Method string

// The methods, best first.
const (
	// Userfaultfd is asynchronous write protection (Linux 6.7): exact, and read and reset in one step.
	Userfaultfd Method = "userfaultfd"
	// SoftDirty is the kernel's bit for what was written since the bits were cleared. Not every kernel is built with it; arm64 has none.
	SoftDirty Method = "soft-dirty"
	// None takes every page as written.
	None Method = "none"
)

// Methods are all methods, best first.
var Methods = []Method{Userfaultfd, SoftDirty, None}

// Tracker follows what one process writes into its private anonymous memory. It is not for concurrent use.
type Tracker interface {
	// Written returns which pages of the areas were written since the tracker last looked at them, and looks anew from now on. Pages it has
	// not followed until now (new areas, after exec, after mremap) count as written and are followed from now on. It works on running,
	// stopped and frozen processes.
	//
	// A page that has no content any more, because it was unmapped or dropped (MADV_DONTNEED), may be left out: what Populated does not have
	// is zero now, whatever it was. After an error nothing is known: treat all pages as written.
	Written(areas memory.Set) (memory.Set, error)
	// Close ends the following; the process runs on.
	Close() error
}

// ErrEnded is when the process is no more.
var ErrEnded = errors.New("it has ended")

var pageSize = uint64(os.Getpagesize())

// Attach begins to follow a process (a pid of this process's pid namespace). It
// must not be frozen, nor be frozen while it is attached to: with Userfaultfd it
// is stopped for a fraction of a millisecond. Its children are not followed.
func Attach(ctx context.Context, pid int, method Method) (Tracker, error) {
	process, err := open(pid)
	if err != nil {
		return nil, fmt.Errorf("follow process %d: %w", pid, err)
	}
	var tracker Tracker
	switch method {
	case Userfaultfd:
		tracker, err = attachUserfaultfd(ctx, process)
	case SoftDirty:
		tracker, err = attachSoftDirty(process)
	case None:
		tracker = &everything{process}
	default:
		err = fmt.Errorf("there is no method %q", method)
	}
	if err != nil {
		process.Close()
		return nil, fmt.Errorf("follow process %d: %w", pid, err)
	}
	return tracker, nil
}

// everything is the tracker of the method None.
type everything struct{ process *process }

func (e *everything) Written(areas memory.Set) (memory.Set, error) {
	if err := e.process.alive(); err != nil {
		return nil, fmt.Errorf("find what process %d has written: %w", e.process.pid, err)
	}
	return areas, nil
}

func (e *everything) Close() error { return e.process.Close() }
