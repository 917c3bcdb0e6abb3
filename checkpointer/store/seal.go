package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Seal stores the files below stagedDir and the memory of processes as the
// pod's next generation, and returns it with its sizes set. Pages of a process
// that are not fresh are as in the generation gen.Base; ErrNoBase says that it
// cannot be had, and that every page must be given.
//
// When gen.Number is 0, Seal chooses the next number; else it must be higher than
// every number that the pod ever used. Fresh content is only read, and may change
// once Seal has returned. Unchanged memory is neither read nor written, but for
// the little that is copied when segments are worn (see compact.go). Nor is what is
// kept of the staged files.
//
// When Seal returns without an error the generation is on stable storage. With
// one, the store is as it was, but for generations that had to go to keep the
// budget: ErrBudget and ErrDiskFull say that there is no room. The staged
// files may be removed either way.
func (s *Store) Seal(ctx context.Context, key Key, gen Generation, stagedDir string, processes []memory.Process, kept ...Kept) (Generation, error) {
	if err := key.Validate(); err != nil {
		return Generation{}, fmt.Errorf("seal: %w", err)
	}
	p := s.pod(key)
	p.writing.Lock()
	defer p.writing.Unlock()
	gen, err := s.seal(ctx, key, p, gen, stagedDir, processes, kept)
	if err != nil {
		return Generation{}, fmt.Errorf("seal a generation of %s: %w", key, err)
	}
	return gen, nil
}

func (s *Store) seal(ctx context.Context, key Key, p *pod, gen Generation, stagedDir string, processes []memory.Process, kept []Kept) (Generation, error) {
	latest, err := s.latest(key)
	if err != nil {
		return Generation{}, err
	}
	if gen.Number == 0 {
		gen.Number = latest + 1
	}
	if gen.Number <= latest || gen.Number > maxGeneration {
		return Generation{}, fmt.Errorf("number %d is used already: the next one is %d", gen.Number, latest+1)
	}
	gen.TakenAt = gen.TakenAt.UTC()

	w := work{key: key, pod: p}
	if w.keyID, w.namespaceKey, err = s.keys.Key(ctx, key.Namespace); err != nil {
		return Generation{}, fmt.Errorf("key of namespace %s: %w", key.Namespace, err)
	}
	if err := validateKeyID(w.keyID); err != nil {
		return Generation{}, err
	}
	if w.staged, err = os.OpenRoot(stagedDir); err != nil {
		return Generation{}, err
	}
	defer w.staged.Close()
	if w.files, err = plan(w.staged); err != nil {
		return Generation{}, err
	}
	gen.Bytes, gen.NewBytes = 0, 0
	for _, f := range w.files {
		gen.Bytes += f.size
	}
	for _, process := range processes {
		gen.Bytes += int64(process.Pages.Bytes())
		for _, stretch := range process.Fresh {
			w.fresh += int64(len(stretch.Data))
		}
	}
	if w.base, err = s.base(ctx, key, w.namespaceKey, gen.Base); err != nil {
		return Generation{}, err
	}
	manifest := &manifest{}
	if w.base != nil {
		defer w.base.Close()
		manifest = w.base.manifest
	}
	from := manifest
	if gen.Base == 0 {
		from = nil
	}
	if err := keep(w.files, kept, from); err != nil {
		return Generation{}, err
	}
	for _, folder := range []string{segmentsFolder, manifestsFolder} {
		if err := s.disk.mkdirAll(key.path(folder)); err != nil {
			return Generation{}, err
		}
	}

	layouts, leave, compacts, err := s.arrange(w, manifest, gen.Base, processes, true)
	if err != nil {
		return Generation{}, err
	}
	sealed, err := s.write(ctx, w, manifest, gen, layouts, leave)
	if compacts && (errors.Is(err, ErrBudget) || errors.Is(err, ErrDiskFull)) {
		// There may be room for what is new alone.
		if layouts, leave, _, err = s.arrange(w, manifest, gen.Base, processes, false); err == nil {
			sealed, err = s.write(ctx, w, manifest, gen, layouts, leave)
		}
	}
	return sealed, err
}

// work is what Seal is given, and has opened.
type work struct {
	key          Key
	pod          *pod
	keyID        string
	namespaceKey [32]byte
	staged       *os.Root
	files        []plannedFile
	fresh        int64   // bytes of fresh memory
	base         *Reader // nil when there is none
}

// base opens the generation that a new one is built on: the one with the given
// number, or, when that is 0, the newest one that can be shared with. The latter
// may be nil.
func (s *Store) base(ctx context.Context, key Key, namespaceKey [32]byte, number int64) (*Reader, error) {
	if number == 0 {
		return s.newest(ctx, key, namespaceKey)
	}
	r, err := s.openLocal(ctx, key, number)
	var damaged *Damaged
	switch {
	case err == nil && r.header.check != keyCheck(namespaceKey):
		r.Close()
		return nil, fmt.Errorf("%w: generation %d was written with another key", ErrNoBase, number)
	case errors.Is(err, ErrNotFound), errors.As(err, &damaged):
		return nil, fmt.Errorf("%w: %w", ErrNoBase, err)
	}
	return r, err
}

// newest opens the pod's newest generation that is whole and was written with the
// given key. It is nil when there is none.
func (s *Store) newest(ctx context.Context, key Key, namespaceKey [32]byte) (*Reader, error) {
	numbers, err := s.numbers(key)
	if err != nil {
		return nil, err
	}
	for _, number := range numbers {
		r, err := s.openLocal(ctx, key, number)
		if err == nil && r.header.check == keyCheck(namespaceKey) {
			return r, nil
		}
		if err == nil {
			r.Close()
		}
		var damaged *Damaged
		if err != nil && !errors.As(err, &damaged) && ctx.Err() != nil {
			return nil, err
		}
		// Else it cannot be shared with, and the new generation stands alone.
	}
	return nil, nil
}

// arrange decides where the memory of a generation comes from, and which segments
// of its base it does without. When compact is false those are only the ones in
// which damage was seen. It returns whether some are left to save space.
func (s *Store) arrange(w work, base *manifest, number int64, processes []memory.Process, compact bool) (layouts []layout, leave []bool, compacts bool, err error) {
	from := base
	if number == 0 {
		from = nil
	}
	if layouts, err = layOut(processes, from); err != nil {
		return nil, nil, false, err
	}
	kept := base.processes // when all is given, most of it is likely as it was
	if number != 0 {
		kept = nil
		for _, l := range layouts {
			kept = append(kept, l.process)
		}
	}
	used := usage(base, kept)
	leave = make([]bool, len(base.segments))
	if compact {
		leave = worn(base.segments, used, w.fresh, s.options.SegmentBytes)
	}
	for i, seg := range base.segments {
		compacts = compacts || leave[i] && used[i] > 0
		if w.pod.suspect(seg.id) {
			leave[i] = true
		}
	}
	for _, l := range layouts {
		for _, e := range l.process.extents {
			if id := base.segments[base.chunks[e.chunk].segment].id; w.pod.suspect(id) {
				return nil, nil, false, fmt.Errorf("%w: damage was seen in %s", ErrNoBase, segmentName(id))
			}
		}
	}
	return layouts, leave, compacts, nil
}

// write stores the generation.
func (s *Store) write(ctx context.Context, w work, base *manifest, gen Generation, layouts []layout, leave []bool) (_ Generation, err error) {
	writer := &segmentWriter{store: s, key: w.key, generation: gen.Number, keyID: w.keyID, namespaceKey: w.namespaceKey}
	defer func() {
		if err != nil {
			writer.discard()
		}
	}()
	h := newHasher(w.namespaceKey)
	b := newBuilder(base, writer, gen.Number, len(layouts), leave)
	if err := s.readAndPack(ctx, w.staged, w.files, baseParts{w.base, leave}, layouts, h, b); err != nil {
		return Generation{}, err
	}
	if w.base != nil {
		if err := s.relocate(ctx, w.base, layouts, leave, h, b); err != nil {
			return Generation{}, err
		}
	}
	if err := writer.finish(); err != nil {
		return Generation{}, err
	}
	gen.NewBytes = writer.written
	size, err := s.commit(w.key, writer, b.manifest(w.key, gen, layouts), w.keyID, w.namespaceKey)
	if err != nil {
		return Generation{}, err
	}
	gen.NewBytes += size
	return gen, nil
}

// relocate copies what is still in use out of the segments to leave.
func (s *Store) relocate(ctx context.Context, base *Reader, layouts []layout, leave []bool, h *hasher, b *builder) error {
	if !slices.Contains(leave, true) {
		return nil
	}
	pk, err := newPacker(*h, b.known)
	if err != nil {
		return err
	}
	defer pk.zstd.Close()
	err = relocate(ctx, base, layouts, leave, pk, b)
	var damaged *Damaged
	if errors.As(err, &damaged) {
		return fmt.Errorf("%w: %w", ErrNoBase, err)
	}
	return err
}

// commit puts what w wrote in place, and then the manifest.
func (s *Store) commit(key Key, w *segmentWriter, m *manifest, keyID string, namespaceKey [32]byte) (_ int64, err error) {
	content, err := sealManifest(m, keyID, namespaceKey)
	if err != nil {
		return 0, err
	}
	size := int64(len(content))
	if err := s.reserve(key, size); err != nil {
		return 0, err
	}
	name := key.path(manifestName(m.generation.Number))
	defer func() {
		if err != nil {
			s.used.Add(-size)
			// It may be in place already: then it goes before its segments do.
			err = errors.Join(err, s.removeIfThere(name))
		}
	}()
	if err := w.place(); err != nil {
		return 0, err
	}
	return size, s.disk.writeDurably(name, content)
}

func (s *Store) removeIfThere(name string) error {
	if _, err := s.disk.root.Lstat(name); err != nil {
		return nil
	}
	if err := s.disk.remove(name); err != nil {
		return err
	}
	return s.disk.syncFolder(path.Dir(name))
}
