package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// The lists that grow with a pod's memory are written column by column, each
// number as its difference from what is likely: zstd makes next to nothing of
// them, and what is left of an unchanged gigabyte are the hashes.

// appendChunks writes the table of chunks.
func (m *manifest) appendChunks(buf []byte) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(m.chunks)))
	perSegment := make([]uint64, len(m.segments))
	for _, c := range m.chunks {
		perSegment[c.segment]++
	}
	for _, n := range perSegment {
		buf = binary.AppendUvarint(buf, n)
	}
	m.eachChunk(func(c, before chunk) {
		buf = binary.AppendUvarint(buf, c.index-before.index-1)
	})
	m.eachChunk(func(c, before chunk) {
		buf = binary.AppendUvarint(buf, uint64(c.offset-before.offset-int64(before.stored)))
	})
	for _, c := range m.chunks {
		buf = binary.AppendUvarint(buf, uint64(c.length))
	}
	for _, c := range m.chunks {
		buf = binary.AppendUvarint(buf, uint64(c.length+sealOverhead-c.stored))
	}
	for _, c := range m.chunks {
		buf = binary.AppendUvarint(buf, uint64(m.segments[c.segment].generation-c.written))
	}
	for _, c := range m.chunks {
		buf = append(buf, c.hash[:]...)
	}
	return buf
}

// eachChunk passes each chunk with the one before it in its segment.
func (m *manifest) eachChunk(visit func(c, before chunk)) {
	before := chunk{segment: -1}
	for _, c := range m.chunks {
		if c.segment != before.segment {
			before = beforeFirst
		}
		visit(c, before)
		before = c
	}
}

// beforeFirst is what would be before the first chunk of a segment: number -1,
// of no length.
var beforeFirst = chunk{index: math.MaxUint64}

// chunks reads the table of chunks.
func (r *reader) chunks(segments []segment) []chunk {
	n := r.count(5 + len(chunkHash{}))
	list := make([]chunk, 0, n)
	for i := range segments {
		for range r.number(uint64(n - len(list))) {
			list = append(list, chunk{segment: int32(i)})
		}
	}
	if len(list) != n {
		r.fail("%d chunks are in no segment", n-len(list))
	}
	each := func(read func(c, before *chunk)) {
		before := &beforeFirst
		for i := range list {
			if c := &list[i]; r.err == nil {
				if i > 0 && c.segment != before.segment {
					before = &beforeFirst
				}
				read(c, before)
				before = c
			}
		}
	}
	each(func(c, before *chunk) { c.index = before.index + 1 + r.number(math.MaxInt64) })
	each(func(c, _ *chunk) { c.offset = int64(r.number(math.MaxInt64)) })
	each(func(c, _ *chunk) { c.length = uint32(r.number(chunkSize)) })
	each(func(c, _ *chunk) { c.stored = c.length + sealOverhead - uint32(r.number(uint64(c.length))) })
	each(func(c, before *chunk) {
		// Each sum is checked before the next one is made: none overflows.
		if end := before.offset + int64(before.stored); c.offset <= segments[c.segment].size-end {
			c.offset += end
		} else {
			r.fail("chunk lies outside its segment")
		}
		switch {
		case r.err != nil:
		case c.length == 0 || c.stored <= sealOverhead:
			r.fail("chunk of %d bytes is stored in %d", c.length, c.stored)
		case int64(c.stored) > segments[c.segment].size-c.offset:
			r.fail("chunk lies outside its segment")
		case c.index < before.index+1:
			r.fail("chunk %d comes before chunk %d", before.index, c.index)
		}
	})
	each(func(c, _ *chunk) {
		written := segments[c.segment].generation
		c.written = written - int64(r.number(uint64(written)))
	})
	each(func(c, _ *chunk) { copy(c.hash[:], r.take(uint64(len(c.hash)))) })
	if r.err != nil {
		return nil
	}
	return list
}

// appendProcesses writes the memory of processes. Addresses, lengths and offsets
// are in pages.
func (m *manifest) appendProcesses(buf []byte) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(m.processes)))
	for _, p := range m.processes {
		buf = binary.AppendUvarint(buf, uint64(len(p.container)))
		buf = append(buf, p.container...)
		buf = binary.AppendUvarint(buf, uint64(p.pid))
		buf = binary.AppendUvarint(buf, uint64(len(p.pages)))
		end := uint64(0)
		for _, span := range p.pages {
			buf = binary.AppendUvarint(buf, (span.Start-end)/pageSize)
			buf = binary.AppendUvarint(buf, span.Bytes()/pageSize)
			end = span.End
		}
		buf = binary.AppendUvarint(buf, uint64(len(p.extents)))
		end = 0
		for _, e := range p.extents {
			buf = binary.AppendUvarint(buf, (e.address-end)/pageSize)
			end = e.end()
		}
		for _, e := range p.extents {
			buf = binary.AppendUvarint(buf, uint64(e.length)/pageSize)
		}
		var last reference
		for _, e := range p.extents {
			buf = binary.AppendUvarint(buf, last.encode(e.chunk))
		}
		for _, e := range p.extents {
			buf = binary.AppendUvarint(buf, uint64(e.offset)/pageSize)
		}
	}
	return buf
}

// maxPage is the number of the highest page, plus one.
const maxPage = math.MaxUint64/pageSize + 1

// processes reads what appendProcesses wrote.
func (r *reader) processes(chunks []chunk) []process {
	type name struct {
		container string
		pid       int
	}
	known := map[name]bool{}
	var list []process
	for range r.count(4) {
		p := process{container: string(r.take(r.number(maxName))), pid: int(r.number(math.MaxInt32))}
		if n := (name{p.container, p.pid}); known[n] {
			r.fail("process %d of container %q is there twice", p.pid, p.container)
		} else {
			known[n] = true
		}
		p.pages = r.pages()
		p.extents = r.extents(p.pages, chunks)
		if r.err != nil {
			return nil
		}
		list = append(list, p)
	}
	return list
}

func (r *reader) pages() memory.Set {
	n := r.count(2)
	set := make(memory.Set, 0, n)
	page := uint64(0)
	for i := range n {
		gap := r.number(maxPage - page)
		start := page + gap
		length := r.number(maxPage - start)
		page = start + length
		switch {
		case r.err != nil:
			return nil
		case length == 0, i > 0 && gap == 0, page == maxPage: // the last page's end is no address
			r.fail("pages of a process make no sense")
			return nil
		}
		set = append(set, memory.Span{Start: start * pageSize, End: page * pageSize})
	}
	return set
}

func (r *reader) extents(pages memory.Set, chunks []chunk) []extent {
	n := r.count(4)
	list := make([]extent, n)
	gaps := make([]uint64, n)
	for i := range list {
		gaps[i] = r.number(maxPage)
	}
	for i := range list {
		list[i].length = uint32(r.number(chunkSize/pageSize)) * pageSize
	}
	var last reference
	for i := range list {
		at, ok := last.decode(r.number(math.MaxUint64), len(chunks))
		if !ok {
			r.fail("memory refers to a chunk that is not there")
		}
		list[i].chunk = at
	}
	for i := range list {
		list[i].offset = uint32(r.number(chunkSize/pageSize)) * pageSize
	}
	if r.err != nil {
		return nil
	}
	end, in := uint64(0), 0 // in: the span of pages that the extent should be in
	for i := range list {
		e := &list[i]
		if gaps[i] > (math.MaxUint64-end)/pageSize {
			r.fail("memory above all addresses")
			return nil
		}
		e.address = end + gaps[i]*pageSize
		for in < len(pages) && pages[in].End <= e.address {
			in++
		}
		c := chunks[e.chunk]
		switch {
		case e.length == 0 || in == len(pages) || e.address < pages[in].Start || uint64(e.length) > pages[in].End-e.address:
			r.fail("memory at %x is not of the process", e.address)
		case c.length%pageSize != 0 || e.offset > c.length || e.length > c.length-e.offset:
			r.fail("memory at %x lies outside its chunk", e.address)
		}
		if r.err != nil {
			return nil
		}
		end = e.end()
	}
	return list
}

// reader reads a text from front to back. After an error it returns zeros.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.rest = nil
}

var errCutShort = errors.New("cut short")

func (r *reader) number(limit uint64) uint64 {
	if r.err != nil {
		return 0
	}
	value, n := binary.Uvarint(r.rest)
	switch {
	case n <= 0:
		r.fail("number: %w", errCutShort)
		return 0
	case value > limit:
		r.fail("%d is more than %d", value, limit)
		return 0
	}
	r.rest = r.rest[n:]
	return value
}

func (r *reader) take(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.rest)) {
		r.fail("%w: %d bytes of %d", errCutShort, len(r.rest), n)
		return nil
	}
	part := r.rest[:n]
	r.rest = r.rest[n:]
	return part
}

// count reads the length of a list whose elements take at least size bytes each.
func (r *reader) count(size int) int {
	return int(r.number(uint64(len(r.rest) / size)))
}
