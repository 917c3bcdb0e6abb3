package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

var _ transfer.Holder = (*Bucket)(nil)

// Bucket is a transfer.Holder.
type Bucket struct {
	config Config
	store  *store.Store
	client *minio.Core
	logger *slog.Logger

	// Constants but in tests.
	readStall, writeStall, grace time.Duration
	partBytes                    int64

	// Room for each file or part that is being sent, and for each range that is
	// being read: more at once would only wait for each other at the server, and
	// seem to stall. Small reads, which a process waits for, have room of their own.
	sending, readingSmall, readingLarge chan struct{}

	mu   sync.Mutex
	pods map[store.Key]*pod
}

// pod is what the bucket knows about one pod beside its objects.
type pod struct {
	// writing has room for whoever uploads or removes objects of the pod.
	writing chan struct{}

	mu        sync.Mutex
	readers   map[int64]int // how many read each generation
	manifests map[int64]knownManifest
	reported  map[int64]bool // damaged generations that the log has
}

// Open is New and Check in one.
func Open(ctx context.Context, config Config, s *store.Store) (*Bucket, error) {
	b, err := New(config, s)
	if err != nil {
		return nil, err
	}
	if err := b.Check(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// New returns the bucket as the place for copies of a store's generations. It
// asks the server nothing, so that a node starts while the bucket cannot be reached.
func New(config Config, s *store.Store) (*Bucket, error) {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	b := &Bucket{config: config, store: s, logger: config.Logger, readStall: readStall, writeStall: writeStall, grace: grace,
		partBytes: partBytes, sending: make(chan struct{}, parallel),
		readingSmall: make(chan struct{}, 8*parallel), readingLarge: make(chan struct{}, 2*parallel), pods: map[store.Key]*pod{}}
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("use a bucket: %w", err)
	}
	var err error
	if b.client, err = config.client(); err != nil {
		return nil, fmt.Errorf("use %s: %w", b.Name(), err)
	}
	return b, nil
}

// Check lists the bucket, and writes and removes an object there, so that what
// is wrong shows at once; the error says what, and what to do.
func (b *Bucket) Check(ctx context.Context) error {
	if err := b.try(ctx); err != nil {
		return fmt.Errorf("use %s at %s: %w", b.Name(), b.config.Endpoint, err)
	}
	return nil
}

func (b *Bucket) try(ctx context.Context) error {
	err := b.watched(ctx, b.readStall, func(ctx context.Context, _ *watchdog) error {
		for info := range b.client.ListObjectsIter(ctx, b.config.Bucket, minio.ListObjectsOptions{Prefix: b.config.prefix(), MaxKeys: 1}) {
			return info.Err // one is enough
		}
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("list it: %w", err)
	}
	// Each node has a name of its own for it, and no namespace has one like it.
	name := b.config.prefix() + "lifeboat.write-test." + strings.ToLower(rand.Text())
	content := []byte("written to see whether the bucket can be written to\n")
	err = b.watched(ctx, b.readStall, func(ctx context.Context, _ *watchdog) error {
		_, err := b.client.Client.PutObject(ctx, b.config.Bucket, name, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("write to it: %w", err)
	}
	err = b.watched(ctx, b.readStall, func(ctx context.Context, _ *watchdog) error {
		return b.client.RemoveObject(ctx, b.config.Bucket, name, minio.RemoveObjectOptions{})
	})
	if err != nil {
		return fmt.Errorf("remove an object of it: %w", err)
	}
	return nil
}

// Name returns the bucket and the prefix, as a URL.
func (b *Bucket) Name() string {
	return strings.TrimSuffix("s3://"+b.config.Bucket+"/"+b.config.prefix(), "/")
}

func (b *Bucket) pod(key store.Key) *pod {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pods[key]
	if p == nil {
		p = &pod{writing: make(chan struct{}, 1), readers: map[int64]int{}, manifests: map[int64]knownManifest{}, reported: map[int64]bool{}}
		b.pods[key] = p
	}
	return p
}

// enter waits for room.
func enter(ctx context.Context, room chan struct{}) (leave func(), err error) {
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// write waits until nobody else of this process changes the pod's objects.
func (p *pod) write(ctx context.Context) (release func(), err error) {
	return enter(ctx, p.writing)
}

// read keeps a generation's objects from being removed by this process.
func (p *pod) read(number int64) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readers[number]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.readers[number]--; p.readers[number] == 0 {
			delete(p.readers, number)
		}
	})
}

// object is the name of a file of a pod in the bucket.
func (b *Bucket) object(key store.Key, file string) string {
	return b.config.prefix() + key.Namespace + "/" + key.PodUID + "/" + file
}

// object is what a list says of one.
type object struct {
	size     int64
	etag     string
	modified time.Time // by the server's clock
}

// is whether an object has the same content. Manifests differ in more than their
// time, since each has an ID of its own.
func (o object) is(other object) bool { return o.size == other.size && o.etag == other.etag }

// list lists a pod's objects below a folder, by the file's name relative to the
// pod's folder.
func (b *Bucket) list(ctx context.Context, key store.Key, folder string) (map[string]object, error) {
	objects := map[string]object{}
	root := b.object(key, "")
	err := b.watched(ctx, b.readStall, func(ctx context.Context, dog *watchdog) error {
		owner := false
		for info := range b.client.ListObjectsIter(ctx, b.config.Bucket, minio.ListObjectsOptions{Prefix: root + folder, Recursive: true, FetchOwner: &owner}) {
			if info.Err != nil {
				return info.Err
			}
			dog.progress()
			objects[strings.TrimPrefix(info.Key, root)] = object{info.Size, strings.Trim(info.ETag, `"`), info.LastModified}
		}
		// A list that was cut off by the end of its context says so only here.
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list the bucket: %w", err)
	}
	return objects, nil
}

// get reads a whole object of at most limit bytes.
func (b *Bucket) get(ctx context.Context, name string, limit int64) ([]byte, error) {
	var content []byte
	err := b.watched(ctx, b.readStall, func(ctx context.Context, dog *watchdog) error {
		body, info, _, err := b.client.GetObject(ctx, b.config.Bucket, name, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer body.Close()
		if info.Size < 0 || info.Size > limit {
			return fmt.Errorf("%s has %d bytes, more than %d", name, info.Size, limit)
		}
		content = make([]byte, info.Size)
		return fill(body, content, dog)
	})
	return content, err
}

// damaged returns the error for a file that is missing or wrong in the bucket.
func damaged(number int64, file, format string, args ...any) error {
	return &store.Damaged{Generation: number, File: file, Detail: fmt.Sprintf(format, args...)}
}

// isDamaged is whether a generation's files are damaged for good.
func isDamaged(err error) bool {
	var d *store.Damaged
	return errors.As(err, &d) && d.Permanent()
}
