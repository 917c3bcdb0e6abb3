package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// peer is another node as a holder.
type peer struct {
	client  *Client
	name    string
	address string
}

// Name returns the node's name.
func (p *peer) Name() string { return p.name }

// Held implements Holder. What the protocol does not carry, as the node's facts, is empty.
func (p *peer) Held(ctx context.Context, key store.Key) ([]store.Generation, error) {
	list, err := p.held(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("ask %s what it holds of %s: %w", p.name, key, err)
	}
	return list, nil
}

func (p *peer) held(ctx context.Context, key store.Key) ([]store.Generation, error) {
	remote, err := p.client.dial(p.address, urgent)
	if err != nil {
		return nil, err
	}
	watched, dog, stop := watch(ctx, p.client.patience.ask)
	defer stop()
	response, err := remote.Held(watched, &peerv1.HeldRequest{Pod: fromKey(key)})
	if err != nil {
		return nil, dog.explain(fromStatus(err))
	}
	var list []store.Generation
	for _, g := range response.GetGenerations() {
		list = append(list, toGeneration(g))
	}
	return list, nil
}

// Replicate implements Holder.
func (p *peer) Replicate(ctx context.Context, key store.Key, number int64) (int64, error) {
	sent, err := p.replicate(ctx, key, number)
	if err != nil {
		return sent, fmt.Errorf("copy generation %d of %s to %s: %w", number, key, p.name, err)
	}
	return sent, nil
}

func (p *peer) replicate(ctx context.Context, key store.Key, number int64) (sent int64, err error) {
	remote, err := p.client.dial(p.address, bulk)
	if err != nil {
		return 0, err
	}
	defer p.client.store.Hold(key, number)()
	files, err := p.client.store.Files(key, number)
	if err != nil {
		return 0, err
	}
	for attempt := 1; ; attempt++ {
		response, err := p.missing(ctx, remote, key, files)
		if err != nil {
			return sent, err
		}
		missing := slices.DeleteFunc(slices.Clone(files), func(f *peerv1.File) bool {
			return !slices.Contains(response.GetNames(), f.GetName())
		})
		if len(missing) == 0 {
			return sent, nil
		}
		n, err := p.put(ctx, remote, key, missing, response.GetPartials())
		sent += n
		// Between the question and the files' arrival the other node may have
		// removed a segment that nothing referred to yet, or found that what it
		// has of one is not its beginning: ask once more.
		if status.Code(err) == codes.FailedPrecondition && attempt < 3 {
			continue
		}
		return sent, err
	}
}

func (p *peer) missing(ctx context.Context, remote peerv1.PeerClient, key store.Key, files []*peerv1.File) (*peerv1.MissingResponse, error) {
	watched, dog, stop := watch(ctx, p.client.patience.put)
	defer stop()
	response, err := remote.Missing(watched, &peerv1.MissingRequest{Pod: fromKey(key), Files: files})
	return response, dog.explain(fromStatus(err))
}

// put sends files, and waits until they are on stable storage. Of those that the
// other node has the beginning of, it sends the rest.
func (p *peer) put(ctx context.Context, remote peerv1.PeerClient, key store.Key, files []*peerv1.File, partials []*peerv1.Partial) (sent int64, err error) {
	watched, dog, stop := watch(ctx, p.client.patience.put)
	defer stop()
	defer func() { err = dog.explain(fromStatus(err)) }()
	stream, err := remote.Put(watched)
	if err != nil {
		return 0, err
	}
	pod := fromKey(key)
	buf := make([]byte, p.client.limiter.pieceSize())
	for _, f := range files {
		dog.pause()
		offset, hash, err := p.beginning(ctx, key, f, partials)
		if err != nil {
			return sent, fmt.Errorf("send %s: %w", f.GetName(), err)
		}
		err = sendFile(p.client.store, key, f, offset, hash, buf, func(next piece) error {
			dog.pause()
			if err := p.client.limiter.Wait(watched, len(next.data)); err != nil {
				return err
			}
			dog.progress()
			err := stream.Send(&peerv1.PutRequest{Pod: pod, Name: next.name, Size: next.size, Offset: next.offset, Hash: next.hash, Data: next.data})
			pod = nil
			sent += int64(len(next.data))
			return err
		})
		if errors.Is(err, io.EOF) {
			break // the other node ended the stream, and CloseAndRecv says why
		}
		if err != nil {
			return sent, fmt.Errorf("send %s: %w", f.GetName(), err)
		}
	}
	dog.progress()
	_, err = stream.CloseAndRecv()
	return sent, err
}

// beginning returns how much of a file the other node has, and the hash by which
// it checks that these are the same bytes.
func (p *peer) beginning(ctx context.Context, key store.Key, f *peerv1.File, partials []*peerv1.Partial) (int64, []byte, error) {
	for _, partial := range partials {
		if size := partial.GetSize(); partial.GetName() == f.GetName() && size > 0 && size < f.GetSize() {
			hash, err := p.client.store.HashSegment(ctx, key, f.GetName(), size)
			return size, hash, err
		}
	}
	return 0, nil, nil
}

// Fetch implements Holder.
func (p *peer) Fetch(ctx context.Context, key store.Key, number int64) error {
	if err := p.fetch(ctx, key, number); err != nil {
		return fmt.Errorf("fetch generation %d of %s from %s: %w", number, key, p.name, err)
	}
	return nil
}

func (p *peer) fetch(ctx context.Context, key store.Key, number int64) error {
	if p.client.store.Complete(ctx, key, number) == nil {
		return nil
	}
	remote, err := p.client.dial(p.address, bulk)
	if err != nil {
		return err
	}
	have, err := p.client.store.Segments(key)
	if err != nil {
		return err
	}
	err = p.get(ctx, remote, key, number, have)
	var damaged *store.Damaged
	if errors.As(err, &damaged) && len(have) > 0 {
		// One of the segments that are here already is cut short.
		err = p.get(ctx, remote, key, number, nil)
	}
	return err
}

func (p *peer) get(ctx context.Context, remote peerv1.PeerClient, key store.Key, number int64, have []string) error {
	// While the import is open, nothing of what there is of the pod is collected.
	imp, err := p.client.store.Import(key)
	if err != nil {
		return err
	}
	r := &receiver{imp: imp}
	defer r.close()
	partials, err := p.partials(ctx, key)
	if err != nil {
		return err
	}
	watched, dog, stop := watch(ctx, p.client.patience.get)
	defer stop()
	stream, err := remote.Get(watched, &peerv1.GetRequest{Pod: fromKey(key), Generation: number, Have: have, Partials: partials})
	if err != nil {
		return dog.explain(fromStatus(err))
	}
	for {
		response, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			if err := r.end(); err != nil {
				return err
			}
			return p.client.store.Complete(ctx, key, number)
		case err != nil:
			return dog.explain(fromStatus(err))
		}
		dog.pause()
		next := piece{name: response.GetName(), size: response.GetSize(), offset: response.GetOffset(), data: response.GetData()}
		if i := slices.IndexFunc(partials, func(p *peerv1.Partial) bool { return p.GetName() == next.name && p.GetSize() == next.offset }); i >= 0 {
			next.hash = partials[i].GetHash()
		}
		if err := r.piece(ctx, next); err != nil {
			return err
		}
		dog.progress()
	}
}

// partials describes what interrupted copies left in the own store.
func (p *peer) partials(ctx context.Context, key store.Key) ([]*peerv1.Partial, error) {
	list, err := p.client.store.Partials(key)
	if err != nil {
		return nil, err
	}
	var partials []*peerv1.Partial
	for _, partial := range list {
		hash, err := p.client.store.HashPartial(ctx, key, partial.Name, partial.Size)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist) {
			continue // another copy goes on with it
		}
		if err != nil {
			return nil, err
		}
		partials = append(partials, &peerv1.Partial{Name: partial.Name, Size: partial.Size, Hash: hash})
	}
	return partials, nil
}
