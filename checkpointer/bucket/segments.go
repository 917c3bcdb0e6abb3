package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Segments gives access to a generation's files without copying them. The error
// wraps store.ErrNotFound when the bucket does not have the generation.
func (b *Bucket) Segments(ctx context.Context, key store.Key, number int64) (store.Segments, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	release := b.pod(key).read(number)
	err := b.watched(ctx, b.readStall, func(ctx context.Context, _ *watchdog) error {
		_, err := b.client.StatObject(ctx, b.config.Bucket, b.object(key, store.ManifestName(number)), minio.StatObjectOptions{})
		return err
	})
	if err != nil {
		release()
		if errors.Is(err, errMissing) {
			err = store.ErrNotFound
		}
		return nil, fmt.Errorf("open generation %d of %s in %s: %w", number, key, b.Name(), err)
	}
	return &segments{bucket: b, key: key, number: number, release: release}, nil
}

// segments reads a generation's objects.
type segments struct {
	bucket  *Bucket
	key     store.Key
	number  int64
	release func()
	closed  atomic.Bool
}

func (s *segments) Manifest(ctx context.Context) ([]byte, error) {
	content, err := s.manifest(ctx)
	if err != nil {
		return nil, fmt.Errorf("read generation %d of %s in %s: %w", s.number, s.key, s.bucket.Name(), err)
	}
	return content, nil
}

func (s *segments) manifest(ctx context.Context) ([]byte, error) {
	if s.closed.Load() {
		return nil, fs.ErrClosed
	}
	return s.bucket.manifest(ctx, s.key, s.number)
}

func (s *segments) ReadAt(ctx context.Context, name string, buf []byte, offset int64) error {
	if err := s.readAt(ctx, name, buf, offset); err != nil {
		return fmt.Errorf("read generation %d of %s in %s: %w", s.number, s.key, s.bucket.Name(), err)
	}
	return nil
}

func (s *segments) readAt(ctx context.Context, name string, buf []byte, offset int64) error {
	switch {
	case s.closed.Load():
		return fs.ErrClosed
	case !store.IsSegmentName(name):
		return fmt.Errorf("%q is not the name of a segment: %w", name, fs.ErrInvalid)
	case offset < 0:
		return fmt.Errorf("%d bytes of %s from %d on: %w", len(buf), name, offset, fs.ErrInvalid)
	case len(buf) == 0:
		return nil
	}
	return s.bucket.stream(ctx, s.key, s.number, name, offset, int64(len(buf)), func(body io.Reader, left int64, _ *watchdog) (int64, error) {
		n, err := body.Read(buf[int64(len(buf))-left:])
		return int64(n), err
	})
}

func (s *segments) Close() error {
	s.closed.Store(true)
	s.release()
	return nil
}
