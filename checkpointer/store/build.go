package store

import "slices"

// builder makes the manifest of a generation from its chunks, in their order. It
// numbers chunks so: first those of the base, then the new ones.
type builder struct {
	writer     *segmentWriter
	generation int64
	base       *manifest           // an empty one when there is none
	known      map[chunkHash]int32 // the base's chunks that may be shared
	fresh      map[chunkHash]int32 // new chunks
	chunks     []chunk             // new ones; their segments are the writer's
	files      []stagedFile
	places     [][]extent // of fresh pages, for each process
}

// newBuilder returns a builder for a generation with that many processes. It
// shares the chunks of base, but for those in the segments to avoid.
func newBuilder(base *manifest, w *segmentWriter, generation int64, processes int, avoid []bool) *builder {
	b := &builder{writer: w, generation: generation, base: base, fresh: map[chunkHash]int32{},
		known: make(map[chunkHash]int32, len(base.chunks)), places: make([][]extent, processes)}
	for i, c := range base.chunks {
		if !avoid[c.segment] {
			b.known[c.hash] = int32(i)
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
	next := part{chunk: hole, length: int64(c.length)}
	switch {
	case c.kept != nil:
		next = *c.kept
	case !c.zero:
		var err error
		if next.chunk, err = b.store(c, b.generation); err != nil {
			return err
		}
	}
	if n := len(f.parts); next.chunk == hole && n > 0 && f.parts[n-1].chunk == hole {
		f.parts[n-1].length += next.length
		return nil
	}
	f.parts = append(f.parts, next)
	return nil
}

// addMemory adds a chunk of fresh pages of a process.
func (b *builder) addMemory(process int, c packedChunk) error {
	if c.zero {
		return nil
	}
	at, err := b.store(c, b.generation)
	if err != nil {
		return err
	}
	for _, e := range c.places {
		e.chunk = at
		b.places[process] = append(b.places[process], e)
	}
	return nil
}

// store returns the number of a chunk that has the wanted content, and writes it
// if there is none yet.
func (b *builder) store(c packedChunk, written int64) (int32, error) {
	if at, ok := b.known[c.hash]; ok {
		return at, nil
	}
	if at, ok := b.fresh[c.hash]; ok {
		return at, nil
	}
	stored, err := b.writer.append(c.payload)
	if err != nil {
		return 0, err
	}
	stored.length, stored.hash, stored.written = c.length, c.hash, written
	at := int32(len(b.base.chunks) + len(b.chunks))
	b.chunks = append(b.chunks, stored)
	b.fresh[c.hash] = at
	return at, nil
}

// manifest returns the result, when the writer has finished. Chunks and segments
// that are not in use any more are left out of it.
func (b *builder) manifest(key Key, gen Generation, layouts []layout) *manifest {
	m := &manifest{key: key, generation: gen, files: b.files}
	for i, l := range layouts {
		l.process.extents = merge(l.process.extents, b.places[i])
		m.processes = append(m.processes, l.process)
	}
	renumbered := make([]int32, len(b.base.chunks)+len(b.chunks))
	m.eachReference(func(chunk *int32) { renumbered[*chunk] = 1 })

	segments := slices.Concat(b.base.segments, b.writer.done)
	newSegment := make([]int32, len(segments))
	for i := range newSegment {
		newSegment[i] = -1
	}
	for i := range renumbered {
		if renumbered[i] == 0 {
			continue
		}
		c := b.at(int32(i))
		if newSegment[c.segment] < 0 {
			newSegment[c.segment] = int32(len(m.segments))
			m.segments = append(m.segments, segments[c.segment])
		}
		c.segment = newSegment[c.segment]
		renumbered[i] = int32(len(m.chunks))
		m.chunks = append(m.chunks, c)
	}
	m.eachReference(func(chunk *int32) { *chunk = renumbered[*chunk] })
	return m
}

// at returns a chunk by its number, with its segment numbered behind the base's.
func (b *builder) at(number int32) chunk {
	if int(number) < len(b.base.chunks) {
		return b.base.chunks[number]
	}
	c := b.chunks[int(number)-len(b.base.chunks)]
	c.segment += int32(len(b.base.segments))
	return c
}

// eachReference passes every reference to a chunk.
func (m *manifest) eachReference(visit func(chunk *int32)) {
	for _, f := range m.files {
		for i := range f.parts {
			if f.parts[i].chunk != hole {
				visit(&f.parts[i].chunk)
			}
		}
	}
	for _, p := range m.processes {
		for i := range p.extents {
			visit(&p.extents[i].chunk)
		}
	}
}
