package store

import (
	"cmp"
	"context"
	"math/bits"
	"slices"
)

// Segments wear: of what is in them, later generations use less and less. Each
// generation copies what is still in use out of some of them, so that they can go.
// Two bounds hold, over many generations:
//
// Space. The segments of a generation have at most spaceFactor times the bytes
// that are in use, and one segment more. A generation that exceeds this empties
// its emptiest segments, and of those at most as much as is new in it, or a
// copyShare-th of what is in use if that is more.
//
// Writing. While space is exceeded, some segment is less than a spaceFactor-th in
// use. So what is copied is at most as much as became unused, and that was written
// once, as new: for each new byte at most one is copied. In practice it is less,
// since the emptiest segments go first.
//
// A generation has at most maxSegments segments beside those that its size needs.
// What exceeds that is merged, the smallest first.
const (
	spaceFactor = 2
	copyShare   = 64
	maxSegments = 128
	// mergeAtOnce is how many segments are merged when there are too many: the
	// next merge is then that many generations away.
	mergeAtOnce = 16
)

// usage returns how many stored bytes of each segment of a generation are in use
// by its files, and by the given processes, whose extents are of that generation.
func usage(m *manifest, processes []process) []int64 {
	used := make([]int64, len(m.segments))
	whole := make([]bool, len(m.chunks))
	for _, f := range m.files {
		for _, p := range f.parts {
			if p.chunk != hole && !whole[p.chunk] {
				whole[p.chunk] = true
				used[m.chunks[p.chunk].segment] += int64(m.chunks[p.chunk].stored)
			}
		}
	}
	pages := make([]pageMask, len(m.chunks))
	for _, p := range processes {
		for _, e := range p.extents {
			pages[e.chunk] |= maskOf(e)
		}
	}
	for i, mask := range pages {
		if c := m.chunks[i]; mask != 0 && !whole[i] {
			used[c.segment] += int64(c.stored) * int64(mask.pages()) * pageSize / int64(c.length)
		}
	}
	return used
}

// pageMask has a bit for each page of a chunk.
type pageMask uint16

func maskOf(e extent) pageMask {
	return pageMask((uint32(1)<<(e.length/pageSize) - 1) << (e.offset / pageSize))
}

func (m pageMask) pages() int { return bits.OnesCount16(uint16(m)) }

// before is how many of the pages lie before an offset.
func (m pageMask) before(offset uint32) uint32 {
	return uint32(bits.OnesCount16(uint16(m) & (1<<(offset/pageSize) - 1)))
}

// worn returns which segments of a generation the next one does without, from the
// bytes that will be in use, and from how many are new.
func worn(segments []segment, used []int64, fresh, segmentBytes int64) []bool {
	leave := make([]bool, len(segments))
	var candidates []int
	var total, inUse int64
	for i, seg := range segments {
		if used[i] == 0 {
			leave[i] = true
			continue
		}
		candidates = append(candidates, i)
		total += seg.size
		inUse += used[i]
	}
	left := len(candidates)
	slices.SortFunc(candidates, func(a, b int) int { // the emptiest first
		return cmp.Compare(float64(used[a])/float64(segments[a].size), float64(used[b])/float64(segments[b].size))
	})
	limit := max(fresh, inUse/copyShare)
	for _, i := range candidates {
		if total <= spaceFactor*inUse || limit <= 0 || used[i]*spaceFactor > segments[i].size {
			break
		}
		leave[i] = true
		left--
		total -= segments[i].size - used[i]
		limit -= used[i]
	}
	if most := maxSegments + int(spaceFactor*inUse/segmentBytes); left > most {
		candidates = slices.DeleteFunc(candidates, func(i int) bool { return leave[i] })
		slices.SortFunc(candidates, func(a, b int) int { return cmp.Compare(used[a], used[b]) })
		for _, i := range candidates[:left-most+mergeAtOnce] {
			leave[i] = true
		}
	}
	return leave
}

// moved is where a chunk of the base was copied to: its used pages lie behind one
// another from an offset of a new chunk on.
type moved struct {
	chunk  int32
	offset uint32
	pages  pageMask
}

// relocate copies those chunks of memory that processes still use out of the
// segments to leave, and changes the processes' extents to match. Chunks of one
// window become one chunk again. Each byte is verified as for any reader.
func relocate(ctx context.Context, base *Reader, layouts []layout, leave []bool, pk *packer, b *builder) error {
	at := map[int32]*moved{}
	for i := range layouts {
		for _, e := range layouts[i].process.extents {
			if !leave[base.manifest.chunks[e.chunk].segment] {
				continue
			}
			if at[e.chunk] == nil {
				at[e.chunk] = &moved{}
			}
			at[e.chunk].pages |= maskOf(e)
		}
	}
	groups := groupByWindow(layouts, at)
	for len(groups) > 0 {
		n := min(len(groups), pieceSize/chunkSize)
		if err := relocateSome(ctx, base, groups[:n], at, pk, b); err != nil {
			return err
		}
		groups = groups[n:]
	}
	for i := range layouts {
		extents := layouts[i].process.extents
		for j := range extents {
			e := &extents[j]
			if to := at[e.chunk]; to != nil {
				*e = extent{address: e.address, length: e.length, chunk: to.chunk, offset: to.offset + to.pages.before(e.offset)*pageSize}
			}
		}
	}
	return nil
}

// groupByWindow returns the chunks to move so that those whose pages are in one
// window of a process are together, as far as they fit into one chunk.
func groupByWindow(layouts []layout, at map[int32]*moved) (groups [][]int32) {
	grouped := make(map[int32]bool, len(at))
	for i := range layouts {
		window, room := uint64(0), 0
		for _, e := range layouts[i].process.extents {
			to := at[e.chunk]
			if to == nil || grouped[e.chunk] {
				continue
			}
			grouped[e.chunk] = true
			size := to.pages.pages() * pageSize
			if w := e.address / chunkSize; w != window || size > room {
				groups = append(groups, nil)
				window, room = w, chunkSize
			}
			groups[len(groups)-1] = append(groups[len(groups)-1], e.chunk)
			room -= size
		}
	}
	return groups
}

func relocateSome(ctx context.Context, base *Reader, groups [][]int32, at map[int32]*moved, pk *packer, b *builder) error {
	content := map[int32][]byte{}
	err := base.readSorted(ctx, slices.Concat(groups...), func(number int32, data []byte) error {
		var used []byte
		for offset := uint32(0); offset < uint32(len(data)); offset += pageSize {
			if at[number].pages>>(offset/pageSize)&1 != 0 {
				used = append(used, data[offset:offset+pageSize]...)
			}
		}
		content[number] = used
		return nil
	})
	if err != nil {
		return err
	}
	for _, group := range groups {
		var data []byte
		written := int64(0)
		for _, number := range group {
			at[number].offset = uint32(len(data))
			data = append(data, content[number]...)
			written = max(written, base.manifest.chunks[number].written)
		}
		c := packedChunk{length: uint32(len(data))}
		pk.packChunk(&c, data, nil)
		to, err := b.store(c, written)
		if err != nil {
			return err
		}
		for _, number := range group {
			at[number].chunk = to
		}
	}
	return nil
}
