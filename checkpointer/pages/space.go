package pages

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// piecePages is the most pages of a piece.
const piecePages = 64

// chunk is a chunk of the source and where it belongs.
type chunk struct {
	id, bytes int
	// pieces are those of all spaces, guarded by the index's lock. Pieces that want
	// nothing may be left out.
	pieces []*piece
	// reading is whether a fault's worker reads the chunk, and waiting are further
	// faults in it meanwhile. drained is whether a drainer has it in its hands.
	reading, drained bool
	waiting          []fault
}

// index is what all spaces share.
type index struct {
	mu     sync.Mutex
	chunks []*chunk
}

// piece is consecutive pages of one process, which one chunk has.
type piece struct {
	space   *space
	chunk   *chunk
	address uint64
	offset  uint32 // of the first page, within the chunk
	pages   uint32
	// wanted has a bit for each page that has not been filled in. It is cleared
	// under the space's lock, shared or not, and never set again.
	wanted atomic.Uint64
	// forgotten has a bit for each page that the process itself has removed.
	forgotten uint64
}

func (p *piece) end() uint64 { return p.address + uint64(p.pages)*pageSize }

// mask has the bits of the piece's pages in a span.
func (p *piece) mask(span memory.Span) uint64 {
	start, end := max(span.Start, p.address), min(span.End, p.end())
	if start >= end {
		return 0
	}
	return pageBits((start-p.address)/pageSize, (end-start)/pageSize)
}

// pageBits are n bits from the first on.
func pageBits(first, n uint64) uint64 {
	return (^uint64(0) >> (piecePages - n)) << first
}

// take clears wanted bits, and returns how many of them were set.
func (p *piece) take(mask uint64) int64 {
	cleared := int64(bits.OnesCount64(p.wanted.And(^mask) & mask))
	p.space.missing.Add(-cleared)
	return cleared
}

// space is the address space of one process: which of its pages are wanted, and
// where. Fillers hold the lock shared while they look at what is wanted and put it
// there; whoever reads events holds it alone until they are applied.
type space struct {
	mu    sync.RWMutex
	index *index
	// number names the space to the keeper.
	number int
	// pid is the process's number in its container, 0 of one that was forked since.
	pid    int
	pieces []*piece // ascending, without overlap
	// missing is how many pages are wanted.
	missing atomic.Int64

	fd     int
	closed bool
	// stop is an eventfd that ends the reader.
	stop int
	raw  [readMessages * messageBytes]byte
	changes
}

// find returns the index of the piece that has an address, or of the next one.
func (s *space) find(address uint64) (int, bool) {
	i, _ := slices.BinarySearchFunc(s.pieces, address, func(p *piece, a uint64) int {
		if p.end() <= a {
			return -1
		}
		return 1
	})
	return i, i < len(s.pieces) && s.pieces[i].address <= address
}

// within are the indices of the pieces that have pages in a span.
func (s *space) within(span memory.Span) (int, int) {
	first, _ := s.find(span.Start)
	last := first
	for last < len(s.pieces) && s.pieces[last].address < span.End {
		last++
	}
	return first, last
}

// wants returns the piece that wants the page at an address.
func (s *space) wants(page uint64) (*piece, uint64) {
	if i, found := s.find(page); found {
		p := s.pieces[i]
		if bit := (page - p.address) / pageSize; p.wanted.Load()>>bit&1 == 1 {
			return p, bit
		}
	}
	return nil, 0
}

// unwanted is how many bytes from a page on, and up to an end, no piece wants.
func (s *space) unwanted(page, end uint64) uint64 {
	for i, _ := s.find(page); i < len(s.pieces) && s.pieces[i].address < end; i++ {
		p := s.pieces[i]
		if wanted := p.wanted.Load() & p.mask(memory.Span{Start: page, End: end}); wanted != 0 {
			return p.address + uint64(bits.TrailingZeros64(wanted))*pageSize - page
		}
	}
	return end - page
}

// forget makes pages unwanted because the process has removed them, and says
// whether that is news.
func (s *space) forget(span memory.Span) bool {
	news := false
	first, last := s.within(span)
	for _, p := range s.pieces[first:last] {
		mask := p.mask(span)
		news = news || mask&^p.forgotten != 0
		p.forgotten |= mask
		p.take(mask)
	}
	return news
}

// occupied is whether a span has pages of a piece.
func (s *space) occupied(span memory.Span) bool {
	first, last := s.within(span)
	return first < last
}

// drop forgets pages that are no longer mapped.
func (s *space) drop(span memory.Span) bool {
	if !s.occupied(span) {
		return false
	}
	s.cut(span, nil)
	return true
}

// move gives pages other addresses. What was at those is no longer.
func (s *space) move(from, to, length uint64) bool {
	news := s.drop(memory.Span{Start: to, End: to + length})
	var moved []*piece
	if span := (memory.Span{Start: from, End: from + length}); s.occupied(span) {
		s.cut(span, &moved)
	}
	for _, p := range moved {
		p.address += to - from
	}
	s.pieces = append(s.pieces, moved...)
	slices.SortFunc(s.pieces, byAddress)
	return news || len(moved) > 0
}

// cut takes the pieces in a span away, after cutting those that reach beyond it.
// They are appended to taken, or want nothing any more where that is nil.
func (s *space) cut(span memory.Span, taken *[]*piece) {
	first, last := s.within(span)
	var kept, inside, parts, whole []*piece
	for _, p := range s.pieces[first:last] {
		if p.address >= span.Start && p.end() <= span.End {
			inside = append(inside, p)
			continue
		}
		whole = append(whole, p)
		for _, part := range []memory.Span{
			{Start: p.address, End: span.Start}, {Start: max(p.address, span.Start), End: min(p.end(), span.End)}, {Start: span.End, End: p.end()},
		} {
			if part.Start >= part.End {
				continue
			}
			q := p.part(part)
			parts = append(parts, q)
			if part.Start >= span.Start && part.End <= span.End {
				inside = append(inside, q)
			} else {
				kept = append(kept, q)
			}
		}
	}
	// Somebody always wants what is wanted, or it would be taken for filled in.
	s.index.add(parts)
	for _, p := range whole {
		p.wanted.Store(0)
	}
	s.pieces = slices.Replace(s.pieces, first, last, kept...)
	if taken != nil {
		*taken = append(*taken, inside...)
		return
	}
	for _, p := range inside {
		p.take(p.wanted.Load())
	}
}

// part is a part of a piece as a piece of its own.
func (p *piece) part(span memory.Span) *piece {
	shift, n := (span.Start-p.address)/pageSize, span.Bytes()/pageSize
	mask := pageBits(0, n)
	q := &piece{space: p.space, chunk: p.chunk, address: span.Start, offset: p.offset + uint32(shift*pageSize), pages: uint32(n), forgotten: p.forgotten >> shift & mask}
	q.wanted.Store(p.wanted.Load() >> shift & mask)
	return q
}

// add makes chunks know pieces.
func (x *index) add(pieces []*piece) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range pieces {
		if p.wanted.Load() != 0 {
			p.chunk.pieces = append(p.chunk.pieces, p)
		}
	}
}

// fork fills in a new space: what its parent wants, it wants.
func (s *space) fork(child *space) {
	clones := make([]piece, len(s.pieces))
	child.pieces = make([]*piece, len(s.pieces))
	var missing int64
	for i, p := range s.pieces {
		q := &clones[i]
		q.space, q.chunk, q.address, q.offset, q.pages, q.forgotten = child, p.chunk, p.address, p.offset, p.pages, p.forgotten
		wanted := p.wanted.Load()
		q.wanted.Store(wanted)
		missing += int64(bits.OnesCount64(wanted))
		child.pieces[i] = q
	}
	child.missing.Store(missing)
	s.index.add(child.pieces)
}
