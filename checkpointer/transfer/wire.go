// Package transfer keeps copies of generations away from the node: it copies
// them between the stores of nodes, file by file, and reads them piece by piece
// where they are, over gRPC with mutual TLS. A copy that was interrupted goes on
// with what is missing.
package transfer

import (
	"context"
	"errors"
	"io/fs"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// pieceSize is how much of a file one message carries, in bytes.
	pieceSize = 512 << 10
	// maxMessage leaves room for the rest of a message, and for the names in
	// the lists of files of very large pods.
	maxMessage = 4 << 20
	// windowSize lets one stream fill a 10 Gbit/s link across a few ms.
	windowSize = 4 << 20
)

// toStatus gives an error the code by which the other node knows what it means.
func toStatus(err error) error {
	var damaged *store.Damaged
	code := codes.Internal
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, ErrMoved):
		code = codes.PermissionDenied
	case errors.As(err, &damaged), errors.Is(err, store.ErrNoPartial):
		code = codes.FailedPrecondition
	case errors.Is(err, store.ErrBudget), errors.Is(err, store.ErrDiskFull):
		code = codes.ResourceExhausted
	case errors.Is(err, fs.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, fs.ErrExist):
		code = codes.AlreadyExists
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	default:
		if _, is := status.FromError(err); is {
			return err
		}
	}
	return status.Error(code, err.Error())
}

// peerError is an error that the other node answered with. It wraps the store's
// error that it stands for.
type peerError struct {
	status error
	means  error
}

func (e *peerError) Error() string   { return e.status.Error() }
func (e *peerError) Unwrap() []error { return []error{e.status, e.means} }

func fromStatus(err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return &peerError{err, store.ErrNotFound}
	case codes.ResourceExhausted:
		return &peerError{err, store.ErrBudget}
	case codes.PermissionDenied:
		return &peerError{err, ErrMoved}
	case codes.Canceled:
		return &peerError{err, context.Canceled}
	case codes.DeadlineExceeded:
		return &peerError{err, context.DeadlineExceeded}
	}
	return err
}

func fromKey(key store.Key) *peerv1.PodKey {
	return &peerv1.PodKey{Namespace: key.Namespace, PodUid: key.PodUID}
}

func toKey(pod *peerv1.PodKey) (store.Key, error) {
	key := store.Key{Namespace: pod.GetNamespace(), PodUID: pod.GetPodUid()}
	return key, key.Validate()
}

func fromGeneration(g store.Generation) *peerv1.Generation {
	return &peerv1.Generation{Number: g.Number, Epoch: g.Epoch, TakenAt: timestamppb.New(g.TakenAt), Bytes: g.Bytes,
		Containers: g.Containers, PodName: g.PodName}
}

func toGeneration(g *peerv1.Generation) store.Generation {
	return store.Generation{Number: g.GetNumber(), Epoch: g.GetEpoch(), TakenAt: g.GetTakenAt().AsTime(), Bytes: g.GetBytes(),
		Containers: g.GetContainers(), PodName: g.GetPodName()}
}
