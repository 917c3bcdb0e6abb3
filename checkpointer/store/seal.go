package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Seal stores the files below stagedDir and the memory of processes as the
// pod's next generation, and returns it with its sizes set. Pages of a process
// that are not fresh are as in the generation gen.Base; ErrNoBase says that it
// cannot be had, and that every page must be given.
//
// When gen.Number is 0, Seal chooses the next
// number; else it must be higher than every number that the pod ever used.
//
// When Seal returns without an error the generation is on stable storage. With
// one, the store is as it was, but for generations that had to go to keep the
// budget: ErrBudget and ErrDiskFull say that there is no room. The staged
// files may be removed either way.
func (s *Store) Seal(ctx context.Context, key Key, gen Generation, stagedDir string, processes []memory.Process) (Generation, error) {
	if err := key.Validate(); err != nil {
		return Generation{}, fmt.Errorf("seal: %w", err)
	}
	p := s.pod(key)
	p.writing.Lock()
	defer p.writing.Unlock()
	gen, err := s.seal(ctx, key, p, gen, stagedDir, processes)
	if err != nil {
		return Generation{}, fmt.Errorf("seal a generation of %s: %w", key, err)
	}
	return gen, nil
}

func (s *Store) seal(ctx context.Context, key Key, p *pod, gen Generation, stagedDir string, processes []memory.Process) (_ Generation, err error) {
	if len(processes) > 0 {
		return Generation{}, fmt.Errorf("memory of processes: %w", errors.ErrUnsupported)
	}
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

	keyID, namespaceKey, err := s.keys.Key(ctx, key.Namespace)
	if err != nil {
		return Generation{}, fmt.Errorf("key of namespace %s: %w", key.Namespace, err)
	}
	if err := validateKeyID(keyID); err != nil {
		return Generation{}, err
	}
	staged, err := os.OpenRoot(stagedDir)
	if err != nil {
		return Generation{}, err
	}
	defer staged.Close()
	files, err := plan(staged)
	if err != nil {
		return Generation{}, err
	}
	base, release, err := s.newest(ctx, key, namespaceKey)
	if err != nil {
		return Generation{}, err
	}
	defer release()
	if err := s.disk.mkdirAll(key.path(segmentsFolder)); err != nil {
		return Generation{}, err
	}
	if err := s.disk.mkdirAll(key.path(manifestsFolder)); err != nil {
		return Generation{}, err
	}

	w := &segmentWriter{store: s, key: key, generation: gen.Number, keyID: keyID, namespaceKey: namespaceKey}
	defer func() {
		if err != nil {
			w.discard()
		}
	}()
	b := newBuilder(base, w, p.suspect)
	if err := s.readAndPack(ctx, staged, files, newHasher(namespaceKey), b); err != nil {
		return Generation{}, err
	}
	if err := w.finish(); err != nil {
		return Generation{}, err
	}
	gen.Bytes = 0
	for _, f := range files {
		gen.Bytes += f.size
	}
	gen.NewBytes = w.written
	m := b.manifest(key, gen)
	size, err := s.commit(key, w, m, keyID, namespaceKey)
	if err != nil {
		return Generation{}, err
	}
	gen.NewBytes += size
	return gen, nil
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
	if err := s.disk.writeDurably(name, content); err != nil {
		return 0, err
	}
	return size, s.pointTo(key, m.generation.Number)
}

// newest returns the pod's newest generation that is whole and was written with
// the given key, for chunks to be shared with, and keeps its files in place
// until release is called. It is nil when there is none.
func (s *Store) newest(ctx context.Context, key Key, namespaceKey [32]byte) (base *manifest, release func(), err error) {
	numbers, err := s.numbers(key)
	if err != nil {
		return nil, nil, err
	}
	for _, number := range numbers {
		release := s.Hold(key, number)
		m, h, _, err := s.fullManifest(ctx, key, number)
		for i := 0; err == nil && i < len(m.segments); i++ {
			err = s.checkSize(key, number, m.segments[i])
		}
		if err == nil && h.check == keyCheck(namespaceKey) {
			return m, release, nil
		}
		release()
		var damaged *Damaged
		if err != nil && !errors.As(err, &damaged) && ctx.Err() != nil {
			return nil, nil, err
		}
		// Else it cannot be shared with, and the new generation stands alone.
	}
	return nil, func() {}, nil
}

// builder makes the manifest of a generation from its chunks, in their order.
type builder struct {
	writer   *segmentWriter
	known    map[chunkHash]place // of the base
	fresh    map[chunkHash]place // of this generation
	segments []segment
	numbered map[fileID]int32 // index into segments
	files    []stagedFile
}

// place is where a chunk is.
type place struct {
	segment segment
	stored  uint32
	offset  int64
	index   uint64
}

// newBuilder returns a builder that shares the chunks of base, if there is one,
// but for those in segments that are worn, or suspected to be damaged.
func newBuilder(base *manifest, w *segmentWriter, suspect func(fileID) bool) *builder {
	b := &builder{writer: w, known: map[chunkHash]place{}, fresh: map[chunkHash]place{}, numbered: map[fileID]int32{}}
	if base == nil {
		return b
	}
	worn := wornSegments(base, w.store.options.SegmentBytes)
	for i, seg := range base.segments {
		if suspect(seg.id) {
			worn[int32(i)] = true
		}
	}
	for _, f := range base.files {
		for _, c := range f.chunks {
			if c.segment != hole && !worn[c.segment] {
				b.known[c.hash] = place{base.segments[c.segment], c.stored, c.offset, c.index}
			}
		}
	}
	return b
}

func (b *builder) startFile(f plannedFile) {
	b.files = append(b.files, stagedFile{path: f.path, folder: f.folder, size: f.size})
}

// add appends a chunk to the last started file.
func (b *builder) add(c packedChunk) error {
	f := &b.files[len(b.files)-1]
	if c.zero {
		if n := len(f.chunks); n > 0 && f.chunks[n-1].segment == hole {
			f.chunks[n-1].length += int64(c.length)
			return nil
		}
		f.chunks = append(f.chunks, chunk{length: int64(c.length), segment: hole})
		return nil
	}
	at, ok := b.known[c.hash]
	if !ok {
		at, ok = b.fresh[c.hash]
	}
	if !ok {
		var err error
		if at, err = b.writer.append(c.payload); err != nil {
			return err
		}
		b.fresh[c.hash] = at
	}
	f.chunks = append(f.chunks, chunk{length: int64(c.length), segment: b.number(at.segment.id, at.segment),
		stored: at.stored, offset: at.offset, index: at.index, hash: c.hash})
	return nil
}

func (b *builder) number(id fileID, seg segment) int32 {
	n, ok := b.numbered[id]
	if !ok {
		n = int32(len(b.segments))
		b.numbered[id] = n
		b.segments = append(b.segments, seg)
	}
	return n
}

// manifest returns the result. The sizes of new segments are known only now.
func (b *builder) manifest(key Key, gen Generation) *manifest {
	for _, seg := range b.writer.done {
		if n, ok := b.numbered[seg.id]; ok {
			b.segments[n].size = seg.size
		}
	}
	return &manifest{key: key, generation: gen, segments: b.segments, files: b.files}
}

// wornSegments returns the segments of a generation whose chunks are better
// written anew than shared, by their index: those of which little is in use
// any more, and, where many small ones have gathered, the smallest. Without
// this a page that never changes again would keep alive the whole segment it
// came with.
func wornSegments(m *manifest, segmentBytes int64) map[int32]bool {
	used := make([]int64, len(m.segments))
	counted := map[chunkHash]bool{}
	for _, f := range m.files {
		for _, c := range f.chunks {
			if c.segment != hole && !counted[c.hash] {
				counted[c.hash] = true
				used[c.segment] += int64(c.stored)
			}
		}
	}
	worn := map[int32]bool{}
	var small []int32
	for i, seg := range m.segments {
		switch {
		case used[i] < seg.size/wornShare:
			worn[int32(i)] = true
		case seg.size < segmentBytes/4:
			small = append(small, int32(i))
		}
	}
	if len(small) > maxSmallSegments {
		for _, i := range small { // all of them: the next time is then far away
			worn[i] = true
		}
	}
	return worn
}

const (
	// A segment is worn when less than a wornShare-th of it is in use.
	wornShare = 4
	// maxSmallSegments bounds how many files a generation of a pod that changes
	// little is spread over.
	maxSmallSegments = 64
)

func (s *Store) removeIfThere(name string) error {
	if _, err := s.disk.root.Lstat(name); err != nil {
		return nil
	}
	if err := s.disk.remove(name); err != nil {
		return err
	}
	return s.disk.syncFolder(path.Dir(name))
}
