package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// candidate is a generation and where it can be had.
type candidate struct {
	generation store.Generation
	local      bool
	holders    []transfer.Holder
}

// holders are the nodes, other than this one, that can be asked for generations.
func (a *Agent) holders(ctx context.Context) []transfer.Holder {
	var fences v1alpha1.FenceList
	err := a.cache.List(ctx, &fences)
	var unready *cache.ErrCacheNotStarted
	if errors.As(err, &unready) {
		err = a.api.List(ctx, &fences)
	}
	if err != nil {
		a.log.Error("list fences", "err", err)
	}
	var found []transfer.Holder
	for _, f := range fences.Items {
		if address := f.Status.Facts.PeerAddress; f.Name != a.cfg.NodeName && address != "" && f.Spec.State == v1alpha1.FenceRunning {
			found = append(found, a.peers.Holder(f.Name, address))
		}
	}
	return found
}

// candidates asks the node's own store and all holders which generations of a pod
// they hold, and returns them newest first. A holder that does not answer in time
// is passed over.
func (a *Agent) candidates(ctx context.Context, key store.Key) []candidate {
	var (
		mu    sync.Mutex
		found = map[int64]*candidate{}
		wg    sync.WaitGroup
	)
	add := func(generations []store.Generation, holder transfer.Holder) {
		mu.Lock()
		defer mu.Unlock()
		for _, g := range generations {
			c, ok := found[g.Number]
			if !ok {
				c = &candidate{generation: g}
				found[g.Number] = c
			}
			if holder == nil {
				c.local = true
			} else {
				c.holders = append(c.holders, holder)
			}
		}
	}
	local, err := a.store.List(key)
	if err != nil {
		a.log.Error("list local generations", "err", err)
	}
	add(local, nil)
	for _, holder := range a.holders(ctx) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, heldTimeout)
			defer cancel()
			held, err := holder.Held(ctx, key)
			if err != nil {
				a.log.Info("holder does not say what it holds", "holder", holder.Name(), "err", err)
				return
			}
			add(held, holder)
		})
	}
	var inBucket []store.Generation
	if a.bucket != nil {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, heldTimeout)
			defer cancel()
			var err error
			if inBucket, err = a.bucket.Held(ctx, key); err != nil {
				a.log.Info("the bucket does not say what it holds", "bucket", a.bucket.Name(), "err", err)
			}
		})
	}
	wg.Wait()
	if a.bucket != nil {
		add(inBucket, a.bucket) // after the nodes, which are nearer
	}
	out := make([]candidate, 0, len(found))
	for _, c := range found {
		out = append(out, *c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].generation.Number > out[j].generation.Number })
	return out
}

// opened is a generation that is being read, from the first of several places
// that works.
type opened struct {
	log    *slog.Logger
	key    store.Key
	number int64
	store  *store.Store

	mu     sync.Mutex
	reader *store.Reader
	remote bool // another place than the own store was needed
	// rest are places that were not tried yet; the own store comes first of all.
	rest []transfer.Holder
}

// open opens a generation, and brings its files, verified, into dir, by a draft where that
// is not nil. The memory of processes stays where it is.
func (a *Agent) open(ctx context.Context, key store.Key, c candidate, made *store.Draft, dir string) (_ *opened, err error) {
	bring := func(reader *store.Reader) error {
		err := a.materialize(ctx, reader, made, dir)
		made = nil
		return err
	}
	defer func() {
		if made != nil { // nobody came to use it
			err = errors.Join(err, made.Remove())
		}
	}()
	o := &opened{log: a.log, key: key, number: c.generation.Number, store: a.store, rest: c.holders}
	var errs []error
	if c.local {
		reader, err := a.store.OpenReader(ctx, key, o.number, nil)
		if err == nil {
			o.reader = reader
			if err = bring(reader); err == nil {
				return o, nil
			}
		}
		errs = append(errs, err)
	}
	for {
		reader, err := o.turn(ctx, o.reader)
		if reader == nil {
			o.close()
			if errs = append(errs, err); errors.Join(errs...) == nil {
				errs = append(errs, errors.New("none of its holders gives it"))
			}
			return nil, errors.Join(errs...)
		}
		if err = bring(reader); err == nil {
			return o, nil
		}
		errs = append(errs, err)
	}
}

// turn returns a reader for the next place, in place of one that has failed. It
// is nil when there is none.
func (o *opened) turn(ctx context.Context, failed *store.Reader) (*store.Reader, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reader != failed {
		return o.reader, nil // another one was faster
	}
	for len(o.rest) > 0 {
		holder := o.rest[0]
		o.rest = o.rest[1:]
		segments, err := holder.Segments(ctx, o.key, o.number)
		if err != nil {
			o.log.Warn("holder passed over", "holder", holder.Name(), "pod", o.key.String(), "generation", o.number, "err", err)
			continue
		}
		reader, err := o.store.OpenReader(ctx, o.key, o.number, segments)
		if err != nil {
			segments.Close()
			o.log.Warn("holder passed over", "holder", holder.Name(), "pod", o.key.String(), "generation", o.number, "err", err)
			continue
		}
		if failed != nil {
			failed.Close()
		}
		o.reader, o.remote = reader, true
		return reader, nil
	}
	return nil, ctx.Err()
}

// lookAgain asks once more who holds the generation.
func (a *Agent) lookAgain(ctx context.Context, o *opened) {
	for _, c := range a.candidates(ctx, o.key) {
		if c.generation.Number == o.number {
			o.mu.Lock()
			o.rest = c.holders
			o.mu.Unlock()
		}
	}
}

func (o *opened) current() *store.Reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reader
}

func (o *opened) generation() store.Generation { return o.current().Generation() }

// fromOwnStore says whether all was read from the node's own store.
func (o *opened) fromOwnStore() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.remote
}

func (o *opened) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reader != nil {
		o.reader.Close()
		o.reader = nil
	}
}

// containerMemory is a pages.Source of one container of a generation.
type containerMemory struct {
	*opened
	container string
}

func (c containerMemory) Chunks() []memory.Chunk { return c.current().Memory(c.container) }

// Read reads chunks, where need be from one place after the other. A chunk may be
// passed on twice.
func (c containerMemory) Read(ctx context.Context, chunks []int, visit func(id int, data []byte) error) error {
	reader := c.current()
	for {
		err := reader.Read(ctx, chunks, visit)
		if err == nil || ctx.Err() != nil {
			return err
		}
		next, turnErr := c.turn(ctx, reader)
		if next == nil {
			return errors.Join(err, turnErr)
		}
		c.log.Warn("memory is read from another holder", "pod", c.key.String(), "generation", c.number, "err", fmt.Errorf("the former failed: %w", err))
		reader = next
	}
}
