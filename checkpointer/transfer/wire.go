// Package transfer copies generations between the stores of nodes, file by
// file, over gRPC with mutual TLS. A copy that was interrupted goes on with
// what is missing.
package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

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
	case errors.As(err, &damaged):
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

// sendFile sends one file of a store in pieces. The first one has its name and size.
func sendFile(s *store.Store, key store.Key, f *peerv1.File, buf []byte, send func(name string, size int64, data []byte) error) error {
	file, err := s.OpenFile(key, f.GetName())
	if err != nil {
		return err
	}
	defer file.Close()
	name, size := f.GetName(), f.GetSize()
	for left := f.GetSize(); left > 0; {
		piece := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(file, piece); errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF // not to be mistaken for the stream's end
		} else if err != nil {
			return err
		}
		if err := send(name, size, piece); err != nil {
			return err
		}
		name, size = "", 0
		left -= int64(len(piece))
	}
	return nil
}

// receiver puts pieces that arrive into a store.
type receiver struct {
	imp      *store.Import
	incoming *store.Incoming
	left     int64 // of the file that is arriving
	received int64
}

// piece takes the next piece of the file that is arriving, or the first one of
// the next file. It returns after the last piece of a file when the file is on
// stable storage.
func (r *receiver) piece(ctx context.Context, name string, size int64, data []byte) error {
	if name != "" {
		if r.incoming != nil {
			return status.Errorf(codes.InvalidArgument, "%s begins %d bytes before the end of the file before it", name, r.left)
		}
		incoming, err := r.imp.Create(name, size)
		if err != nil {
			return err
		}
		r.incoming, r.left = incoming, size
	}
	if r.incoming == nil {
		return status.Error(codes.InvalidArgument, "a piece without a file")
	}
	n, err := r.incoming.Write(data)
	r.left -= int64(n)
	r.received += int64(n)
	if err != nil || r.left > 0 {
		return err
	}
	incoming := r.incoming
	r.incoming = nil
	return incoming.Commit(ctx)
}

// close gives up the file that is arriving, if there is one.
func (r *receiver) close() {
	if r.incoming != nil {
		r.incoming.Abort()
	}
	r.imp.Close()
}

// watchdog ends a context when the other node makes no progress.
type watchdog struct {
	timer *time.Timer
	limit time.Duration
}

// watch returns a context that ends, with errStalled as its cause, when the
// watchdog's limit passes without a call of progress or pause.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{time.AfterFunc(limit, func() { cancel(errStalled) }), limit}
	return ctx, w, func() {
		w.timer.Stop()
		cancel(nil)
	}
}

func (w *watchdog) progress() { w.timer.Reset(w.limit) }

// pause keeps it quiet until the next progress, while this node is the slow one.
func (w *watchdog) pause() { w.timer.Stop() }

var errStalled = errors.New("the other node stopped answering")
