package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// smallRead is the longest read that uses the urgent connection, in bytes: one
// chunk, for a process that waits for it, and not the many that are read ahead.
const smallRead = 128 << 10

// segments are the files of a generation that another node holds.
type segments struct {
	peer   *peer
	key    store.Key
	number int64

	// turn is taken by whoever changes what is below. It is a channel so that
	// those who wait for it can give up.
	turn    chan struct{}
	current *opened
	closed  bool
}

// opened is a session on the other node.
type opened struct {
	id    []byte
	files []*peerv1.File
	end   context.CancelFunc
}

// Segments implements Holder.
func (p *peer) Segments(ctx context.Context, key store.Key, number int64) (store.Segments, error) {
	g := &segments{peer: p, key: key, number: number, turn: make(chan struct{}, 1)}
	if _, err := g.session(ctx, nil); err != nil {
		return nil, fmt.Errorf("open generation %d of %s on %s: %w", number, key, p.name, err)
	}
	return g, nil
}

// session returns the open session, or a new one in place of one that the other
// node does not know any more: it may have started anew.
func (g *segments) session(ctx context.Context, lost *opened) (*opened, error) {
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch {
	case g.closed:
		return nil, fs.ErrClosed
	case g.current != nil && g.current != lost:
		return g.current, nil
	case g.current != nil:
		g.current.end()
		g.current = nil
	}
	next, err := g.open(ctx)
	if err != nil {
		return nil, err
	}
	g.current = next
	return next, nil
}

func (g *segments) open(ctx context.Context) (*opened, error) {
	remote, err := g.peer.client.dial(g.peer.address, urgent)
	if err != nil {
		return nil, err
	}
	// The session outlives ctx and the limit, which bound its opening alone.
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	limit := time.AfterFunc(g.peer.client.patience.ask, func() { cancel(ErrStalled) })
	unlink := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	stream, err := remote.Open(life, &peerv1.OpenRequest{Pod: fromKey(g.key), Generation: g.number})
	var response *peerv1.OpenResponse
	if err == nil {
		response, err = stream.Recv()
	}
	inTime := limit.Stop() && unlink()
	switch {
	case err == nil && inTime:
		return &opened{response.GetSession(), response.GetFiles(), func() { cancel(nil) }}, nil
	case !inTime:
		err = context.Cause(life)
	case errors.Is(err, io.EOF):
		err = status.Error(codes.Internal, "the call to open it ended without an answer")
	}
	cancel(nil)
	return nil, fromStatus(err)
}

// Close lets the other node remove the files.
func (g *segments) Close() error {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	g.closed = true
	if g.current != nil {
		g.current.end()
		g.current = nil
	}
	return nil
}

// Manifest implements store.Segments.
func (g *segments) Manifest(ctx context.Context) ([]byte, error) {
	data, err := g.manifest(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the manifest of generation %d of %s from %s: %w", g.number, g.key, g.peer.name, err)
	}
	return data, nil
}

func (g *segments) manifest(ctx context.Context) ([]byte, error) {
	session, err := g.session(ctx, nil)
	if err != nil {
		return nil, err
	}
	if len(session.files) == 0 {
		return nil, errors.New("the other node names no files of it")
	}
	manifest := session.files[len(session.files)-1]
	size := manifest.GetSize()
	if size < 1 || size > maxManifest {
		return nil, fmt.Errorf("the other node says that it has %d bytes: it can have 1 to %d", size, int64(maxManifest))
	}
	// No more memory is taken than bytes have come: the size is another node's word.
	var data []byte
	for left := size; left > 0; {
		n := min(left, maxRead)
		data = slices.Grow(data, int(n))[:len(data)+int(n)]
		if err := g.readAt(ctx, manifest.GetName(), data[size-left:], size-left); err != nil {
			return nil, err
		}
		left -= n
	}
	return data, nil
}

// maxManifest is more than a store writes, in bytes.
const maxManifest = 256 << 20

// ReadAt implements store.Segments.
func (g *segments) ReadAt(ctx context.Context, name string, buf []byte, offset int64) error {
	if err := g.readAt(ctx, name, buf, offset); err != nil {
		return fmt.Errorf("read %d bytes at %d of %s of %s from %s: %w", len(buf), offset, name, g.key, g.peer.name, err)
	}
	return nil
}

func (g *segments) readAt(ctx context.Context, name string, buf []byte, offset int64) error {
	lane, limit := bulk, g.peer.client.patience.get
	if len(buf) <= smallRead {
		lane, limit = urgent, g.peer.client.patience.read
	}
	remote, err := g.peer.client.dial(g.peer.address, lane)
	if err != nil {
		return err
	}
	for len(buf) > 0 {
		part := buf[:min(len(buf), maxRead)]
		session, err := g.session(ctx, nil)
		if err != nil {
			return err
		}
		err = readRange(ctx, remote, limit, session.id, name, part, offset)
		if status.Code(err) == codes.Aborted {
			if session, err = g.session(ctx, session); err != nil {
				return err
			}
			err = readRange(ctx, remote, limit, session.id, name, part, offset)
		}
		if err != nil {
			return err
		}
		offset += int64(len(part))
		buf = buf[len(part):]
	}
	return nil
}

// readRange fills buf. The limit bounds the time until its next piece comes.
func readRange(ctx context.Context, remote peerv1.PeerClient, limit time.Duration, session []byte, name string, buf []byte, offset int64) error {
	watched, dog, stop := watch(ctx, limit)
	defer stop()
	stream, err := remote.Read(watched, &peerv1.ReadRequest{Session: session, Name: name, Offset: offset, Length: int64(len(buf))})
	if err != nil {
		return dog.explain(fromStatus(err))
	}
	for {
		response, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && len(buf) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%d bytes did not come: %w", len(buf), io.ErrUnexpectedEOF)
		case err != nil:
			return dog.explain(fromStatus(err))
		case len(response.GetData()) > len(buf):
			return fmt.Errorf("%d bytes came in place of %d", len(response.GetData()), len(buf))
		}
		buf = buf[copy(buf, response.GetData()):]
		dog.progress()
	}
}
