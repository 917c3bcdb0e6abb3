package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/lifeboat-dev/lifeboat/checkpointer/bucket"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// bucketHolder is the bucket beside the nodes. A generation is durable without
// it: its copy there follows, and where copies take longer than checkpoints, the
// newest generation is copied next.
type bucketHolder struct {
	*bucket.Bucket
	log *slog.Logger

	mu      sync.Mutex
	copying map[store.Key]bool
	next    map[store.Key]int64 // to be copied after the one under way
}

func newBucketHolder(config bucket.Config, s *store.Store, limiter *transfer.Limiter, log *slog.Logger) (*bucketHolder, error) {
	config.Limiter, config.Logger = limiter, log
	b, err := bucket.New(config, s)
	if err != nil {
		return nil, fmt.Errorf("use bucket %s: %w", config.Bucket, err)
	}
	return &bucketHolder{Bucket: b, log: log, copying: map[store.Key]bool{}, next: map[store.Key]int64{}}, nil
}

// follow copies a generation to the bucket, and drops older ones from it. It does
// not wait for that.
func (b *bucketHolder) follow(ctx context.Context, key store.Key, number int64, retain store.Retention) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.copying[key] {
		b.next[key] = number
		return
	}
	b.copying[key] = true
	go func() {
		for ok := true; ok; number, ok = b.finished(key) {
			if err := b.copy(ctx, key, number, retain); err != nil {
				b.log.Warn("generation is not in the bucket", "pod", key.String(), "generation", number, "err", err)
			}
		}
	}()
}

func (b *bucketHolder) copy(ctx context.Context, key store.Key, number int64, retain store.Retention) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	if _, err := b.Replicate(ctx, key, number); err != nil {
		return err
	}
	return b.Retain(ctx, key, retain.Count)
}

// finished returns what to copy next, if anything.
func (b *bucketHolder) finished(key store.Key) (int64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	number, more := b.next[key]
	delete(b.next, key)
	if !more {
		delete(b.copying, key)
	}
	return number, more
}
