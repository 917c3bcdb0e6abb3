package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

const (
	// readBytes is how much of an object is read at once.
	readBytes = 512 << 10
	// smallRead is the size of the largest range for which reads of larger ones
	// leave room, in bytes: a few chunks of memory.
	smallRead = 256 << 10
	// readAttempts is how often an answer that breaks off is asked for again.
	readAttempts = 3
)

// Fetch copies a generation from the bucket into the own store, unless it is
// there already. The error wraps store.ErrNotFound when the bucket does not have it.
func (b *Bucket) Fetch(ctx context.Context, key store.Key, number int64) error {
	if err := b.fetch(ctx, key, number); err != nil {
		return fmt.Errorf("fetch generation %d of %s from %s: %w", number, key, b.Name(), err)
	}
	return nil
}

func (b *Bucket) fetch(ctx context.Context, key store.Key, number int64) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if b.store.Complete(ctx, key, number) == nil {
		return nil
	}
	defer b.pod(key).read(number)()
	content, err := b.manifest(ctx, key, number)
	if err != nil {
		return err
	}
	_, files, err := b.store.Inspect(ctx, key, number, content)
	if err != nil {
		return err
	}
	// No segment of the pod is removed while it is open.
	imp, err := b.store.Import(key)
	if err != nil {
		return err
	}
	defer imp.Close()
	missing, err := b.store.Missing(key, files)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, f := range files[:len(files)-1] {
		if slices.Contains(missing, f.GetName()) {
			group.Go(func() error { return b.fetchSegment(groupCtx, key, number, f) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	incoming, err := imp.Create(store.ManifestName(number), int64(len(content)))
	if err != nil {
		return err
	}
	if _, err := incoming.Write(content); err != nil {
		incoming.Abort()
		return err
	}
	if err := incoming.Commit(ctx); err != nil {
		return err
	}
	return b.store.Complete(ctx, key, number)
}

// manifest reads a generation's manifest.
func (b *Bucket) manifest(ctx context.Context, key store.Key, number int64) ([]byte, error) {
	content, err := b.get(ctx, b.object(key, store.ManifestName(number)), store.MaxManifest)
	if errors.Is(err, errMissing) {
		return nil, fmt.Errorf("generation %d of %s: %w", number, key, store.ErrNotFound)
	}
	return content, err
}

// fetchSegment copies one segment into the own store.
func (b *Bucket) fetchSegment(ctx context.Context, key store.Key, number int64, f *peerv1.File) error {
	imp, err := b.store.Import(key) // one for each goroutine
	if err != nil {
		return err
	}
	defer imp.Close()
	incoming, err := imp.Create(f.GetName(), f.GetSize())
	if err != nil {
		return err
	}
	buf := make([]byte, min(readBytes, f.GetSize()))
	err = b.stream(ctx, key, number, f.GetName(), 0, f.GetSize(), func(body io.Reader, left int64, dog *watchdog) (int64, error) {
		n, err := body.Read(buf[:min(left, int64(len(buf)))])
		if n > 0 {
			dog.pause()
			if _, err := incoming.Write(buf[:n]); err != nil {
				return 0, &ownError{err}
			}
		}
		return int64(n), err
	})
	if err != nil {
		incoming.Abort()
		return err
	}
	return incoming.Commit(ctx)
}

// ownError is one that asking the server again does not help against.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// stream reads a range of a segment, of one byte at least. It passes the
// answer's body to take, again and again, with the number of bytes that are
// left; take returns how many it has taken. An answer that breaks off is asked
// for again, from there on.
func (b *Bucket) stream(ctx context.Context, key store.Key, number int64, file string, offset, length int64,
	take func(body io.Reader, left int64, dog *watchdog) (int64, error),
) error {
	room := b.readingLarge
	if length <= smallRead {
		room = b.readingSmall
	}
	leave, err := enter(ctx, room)
	if err != nil {
		return err
	}
	defer leave()
	for attempt := 1; ; attempt++ {
		begin, brokeOff := offset, false
		err := b.watched(ctx, b.readStall, func(ctx context.Context, dog *watchdog) error {
			var options minio.GetObjectOptions
			if err := options.SetRange(offset, offset+length-1); err != nil {
				return err
			}
			body, _, _, err := b.client.GetObject(ctx, b.config.Bucket, b.object(key, file), options)
			if err != nil {
				return err
			}
			defer body.Close()
			for length > 0 {
				n, err := take(body, length, dog)
				dog.progress()
				offset, length = offset+n, length-n
				if err != nil && length > 0 {
					brokeOff = true
					return err
				}
			}
			return nil
		})
		var own *ownError
		var response minio.ErrorResponse
		switch {
		case err == nil:
			return nil
		case errors.As(err, &own):
			return own.err
		case errors.Is(err, errMissing):
			return damaged(number, file, "it is missing in the bucket")
		case errors.As(err, &response) && response.Code == "InvalidRange", errors.Is(err, io.EOF) && offset == begin:
			return damaged(number, file, "it ends before byte %d in the bucket", offset+length)
		}
		if offset > begin {
			attempt = 1
		}
		if !brokeOff || ctx.Err() != nil || attempt == readAttempts || errors.Is(err, transfer.ErrStalled) {
			return fmt.Errorf("read %s: %w", file, err)
		}
	}
}

// fill reads as many bytes as the buffer has room for.
func fill(body io.Reader, buf []byte, dog *watchdog) error {
	for len(buf) > 0 {
		n, err := body.Read(buf)
		dog.progress()
		buf = buf[n:]
		if errors.Is(err, io.EOF) && len(buf) > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil && len(buf) > 0 {
			return err
		}
	}
	return nil
}
