package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Segments gives access to the files of one generation that lie elsewhere. Its
// methods may be called from several goroutines.
type Segments interface {
	// Manifest returns the content of the manifest's file.
	Manifest(ctx context.Context) ([]byte, error)
	// ReadAt fills buf from a segment's file, by its name relative to the pod's
	// folder ("segments/<id>.seg").
	ReadAt(ctx context.Context, name string, buf []byte, offset int64) error
	Close() error
}

// Reader reads one generation piece by piece. Its methods may be called from
// several goroutines.
type Reader struct {
	store        *Store
	key          Key
	manifest     *manifest
	header       header
	namespaceKey [32]byte
	from         Segments // nil when the files are the store's
	segments     []openSegment
	unpackers    sync.Pool
	release      func()
}

// OpenReader opens a generation to be read piece by piece: from this store's
// files, which stay in place until Close, or, when from is not nil, from those.
// The keys are the store's. Close closes from too; after an error from is still
// the caller's to close.
//
// The error is a *Damaged when the manifest is not what it should be, or when a
// segment of this store is missing or cut short.
func (s *Store) OpenReader(ctx context.Context, key Key, number int64, from Segments) (*Reader, error) {
	err := key.Validate()
	var r *Reader
	switch {
	case err != nil:
	case from == nil:
		r, err = s.openLocal(ctx, key, number)
	default:
		r, err = s.openRemote(ctx, key, number, from)
	}
	if err != nil {
		return nil, fmt.Errorf("open generation %d of %s: %w", number, key, err)
	}
	return r, nil
}

// openLocal opens a generation of this store, and keeps its files in place.
func (s *Store) openLocal(ctx context.Context, key Key, number int64) (*Reader, error) {
	release := s.Hold(key, number)
	m, h, namespaceKey, err := s.fullManifest(ctx, key, number)
	for i := 0; err == nil && i < len(m.segments); i++ {
		err = s.checkSize(key, number, m.segments[i])
	}
	if err != nil {
		release()
		s.noteDamage(key, number, err)
		return nil, err
	}
	r := s.newReader(key, m, h, namespaceKey)
	r.release = release
	return r, nil
}

// noteDamage forgets what was cached of a manifest in which damage was seen, and
// remembers a damaged segment.
func (s *Store) noteDamage(key Key, number int64, err error) {
	var damaged *Damaged
	if !errors.As(err, &damaged) {
		return
	}
	p := s.pod(key)
	if id, ok := parseSegmentName(damaged.File); ok {
		p.setSuspect(id, true)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.summaries, number)
}

func (s *Store) openRemote(ctx context.Context, key Key, number int64, from Segments) (*Reader, error) {
	data, err := from.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	if len(data) > maxManifest {
		return nil, &Damaged{Generation: number, File: manifestName(number), Detail: fmt.Sprintf("it has %d bytes, more than %d", len(data), maxManifest)}
	}
	m, h, namespaceKey, err := s.parseManifest(ctx, key, number, data)
	if err != nil {
		return nil, err
	}
	r := s.newReader(key, m, h, namespaceKey)
	r.from, r.release = from, func() {}
	return r, nil
}

func (s *Store) newReader(key Key, m *manifest, h header, namespaceKey [32]byte) *Reader {
	r := &Reader{store: s, key: key, manifest: m, header: h, namespaceKey: namespaceKey, segments: make([]openSegment, len(m.segments))}
	for i, seg := range m.segments {
		r.segments[i].segment = seg
	}
	r.unpackers.New = func() any {
		u, err := newUnpacker(namespaceKey)
		if err != nil {
			panic(err) // only for options that are not ours
		}
		return u
	}
	return r
}

// Key returns the pod that the generation is of.
func (r *Reader) Key() Key { return r.key }

// Generation returns what the generation is.
func (r *Reader) Generation() Generation { return r.manifest.generation }

// Processes returns the processes whose memory the generation has, with their
// pages, and without content. Pages that no chunk has a place for are zeros.
func (r *Reader) Processes() []memory.Process {
	var list []memory.Process
	for _, p := range r.manifest.processes {
		list = append(list, memory.Process{Container: p.container, PID: p.pid, Pages: slices.Clone(p.pages)})
	}
	return list
}

// Memory returns what a container's processes had in memory, as chunks in the
// order in which they are best filled in: what was written last comes first.
// Chunks that lie together come together, as far as that allows.
func (r *Reader) Memory(container string) []memory.Chunk {
	m := r.manifest
	at := make([]int32, len(m.chunks)) // index into list, plus one
	var list []memory.Chunk
	for _, p := range m.processes {
		if p.container != container {
			continue
		}
		for _, e := range p.extents {
			if at[e.chunk] == 0 {
				list = append(list, memory.Chunk{ID: int(e.chunk), Bytes: int(m.chunks[e.chunk].length)})
				at[e.chunk] = int32(len(list))
			}
			c := &list[at[e.chunk]-1]
			c.Places = append(c.Places, memory.Place{PID: p.pid, Address: e.address, Offset: int(e.offset), Length: int(e.length)})
		}
	}
	slices.SortFunc(list, func(a, b memory.Chunk) int {
		return cmp.Or(cmp.Compare(m.chunks[b.ID].written, m.chunks[a.ID].written), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Read reads chunks by their IDs, verifies them, and passes each one's content
// to visit once, which must not keep it. Chunks that lie together are read with
// one access, and may come in another order. The error is a *Damaged where the
// content is wrong; nothing wrong is passed.
func (r *Reader) Read(ctx context.Context, chunks []int, visit func(id int, data []byte) error) error {
	numbers := make([]int32, len(chunks))
	for i, id := range chunks {
		if id < 0 || id >= len(r.manifest.chunks) {
			return fmt.Errorf("generation %d of %s has no chunk %d", r.manifest.generation.Number, r.key, id)
		}
		numbers[i] = int32(id)
	}
	err := r.readSorted(ctx, numbers, func(number int32, data []byte) error { return visit(int(number), data) })
	if err != nil {
		return fmt.Errorf("read generation %d of %s: %w", r.manifest.generation.Number, r.key, err)
	}
	return nil
}

// checkAtOnce is how many chunks are verified at once.
const checkAtOnce = readSize / chunkSize

// verify reads every chunk that was not found whole yet, and compares it with its hash.
func (r *Reader) verify(ctx context.Context, v *verification) error {
	for i := range r.segments {
		if _, _, err := r.open(&r.segments[i]); err != nil {
			return err
		}
	}
	id := func(number int32) fileID { return r.segments[r.manifest.chunks[number].segment].id }
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.store.options.Workers)
	var numbers []int32
	bytes := 0
	check := func() error {
		batch := numbers
		if err := v.wait(ctx, bytes); err != nil {
			return err
		}
		group.Go(func() error {
			return r.readSorted(ctx, batch, func(number int32, _ []byte) error {
				v.add(id(number), r.manifest.chunks[number].index)
				return nil
			})
		})
		numbers, bytes = nil, 0
		return nil
	}
	for i, c := range r.manifest.chunks {
		if v.has(id(int32(i)), c.index) {
			continue
		}
		numbers = append(numbers, int32(i))
		if bytes += int(c.stored); len(numbers) == checkAtOnce {
			if err := check(); err != nil {
				return cmp.Or(group.Wait(), err) // the former is why the latter ended
			}
		}
	}
	err := check()
	return cmp.Or(group.Wait(), err)
}

// Close ends the reading. Nothing may use the Reader any more.
func (r *Reader) Close() error {
	var err error
	for i := range r.segments {
		if file := r.segments[i].file; file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	r.release()
	if r.from != nil {
		err = errors.Join(err, r.from.Close())
	}
	return err
}
