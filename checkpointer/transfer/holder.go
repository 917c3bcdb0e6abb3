package transfer

import (
	"context"
	"errors"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Holder keeps copies of generations away from the node. Another node's store is
// one. Its methods may be called from several goroutines. Each of them returns
// soon after its context ends, and after a while, with an error that wraps
// ErrStalled, when the holder stops answering. What a holder holds survives the
// node, and the end of every connection to it.
//
// Package holdertest has the contract as tests.
type Holder interface {
	// Name names the holder to users: a node's name, for example.
	Name() string
	// Held lists the generations of a pod that it holds in full, newest first.
	// Fields beside Number, Epoch, TakenAt, PodName, Containers and Bytes may be empty.
	Held(ctx context.Context, key store.Key) ([]store.Generation, error)
	// Replicate copies a generation of the own store to the holder, and returns
	// how many bytes of files had to be sent. When it returns without an error,
	// the generation is on the holder's stable storage. After an error, another
	// call sends what has not arrived. The error wraps store.ErrBudget when the
	// holder has no room, ErrMoved when it takes nothing more of the pod, and
	// store.ErrNotFound when the own store has no such generation.
	Replicate(ctx context.Context, key store.Key, number int64) (sent int64, err error)
	// Fetch copies a generation from the holder into the own store, unless it is
	// there already. Segments in which the own store saw damage are fetched
	// again. The error wraps store.ErrNotFound when the holder does not have it.
	Fetch(ctx context.Context, key store.Key, number int64) error
	// Segments gives access to a generation's files for store.OpenReader. The
	// holder keeps them until Close. The error wraps store.ErrNotFound when the
	// holder does not have it. Small reads do not wait for large ones.
	Segments(ctx context.Context, key store.Key, number int64) (store.Segments, error)
}

// ErrStalled means that a holder was reached, and then stopped answering.
var ErrStalled = errors.New("the holder stopped answering: use another one until its node is mended")

// ErrMoved means that a pod was moved away from where the generation was taken: the
// history of its checkpoints goes on with its successor's, and nothing that an old
// copy adds is taken.
var ErrMoved = errors.New("the pod was moved to another node: nothing that its old copy adds is taken")
