package pages

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// layout is where a source's chunks belong when nothing has changed yet.
type layout struct {
	index  *index
	spaces map[int]*space // by the process's number
	// fingerprint tells sources apart.
	fingerprint uint64
	pieces      []piece // to be given out
}

func byAddress(a, b *piece) int { return cmp.Compare(a.address, b.address) }

// fingerprint is an FNV-1a over numbers.
type fingerprint uint64

const fingerprintBasis = 0xcbf29ce484222325

func (f *fingerprint) add(numbers ...uint64) {
	for _, n := range numbers {
		*f = (*f ^ fingerprint(n)) * 0x100000001b3
		*f ^= *f >> 29
	}
}

// lay makes the spaces of a source's chunks. Of the chunks that filled says so
// nothing is wanted any more.
func lay(chunks []memory.Chunk, filled func(i int) bool) (*layout, error) {
	return layInto(&index{}, chunks, filled)
}

// layInto is lay into an index that nobody uses yet.
func layInto(x *index, chunks []memory.Chunk, filled func(i int) bool) (*layout, error) {
	x.chunks = make([]*chunk, len(chunks))
	l := &layout{index: x, spaces: map[int]*space{}}
	// One piece of memory for all of a kind: there may be millions.
	places := 0
	for _, c := range chunks {
		places += len(c.Places)
	}
	all, known := make([]chunk, len(chunks)), make([]*piece, 0, places)
	l.pieces = make([]piece, 0, places)
	sum := fingerprint(fingerprintBasis)
	for i, c := range chunks {
		all[i] = chunk{id: c.ID, bytes: c.Bytes}
		l.index.chunks[i] = &all[i]
		wanted, first := !filled(i), len(known)
		for _, place := range c.Places {
			if err := l.place(&all[i], place, wanted, &known); err != nil {
				return nil, err
			}
			sum.add(uint64(c.ID), uint64(place.PID), place.Address, uint64(place.Offset), uint64(place.Length))
		}
		if wanted {
			all[i].pieces = known[first:len(known):len(known)]
		}
	}
	l.fingerprint = uint64(sum)
	for _, s := range l.spaces {
		if !slices.IsSortedFunc(s.pieces, byAddress) {
			slices.SortFunc(s.pieces, byAddress)
		}
		for i := 1; i < len(s.pieces); i++ {
			if a, b := s.pieces[i-1], s.pieces[i]; a.end() > b.address {
				return nil, fmt.Errorf("address %#x of process %d is in chunk %d and in chunk %d", b.address, s.pid, a.chunk.id, b.chunk.id)
			}
		}
	}
	return l, nil
}

func (l *layout) place(c *chunk, place memory.Place, wanted bool, known *[]*piece) error {
	length := uint64(max(place.Length, 0))
	if place.PID <= 0 || place.Offset < 0 || length == 0 || place.Address%pageSize != 0 || length%pageSize != 0 ||
		place.Address+length < place.Address || uint64(place.Offset)+length > uint64(max(c.bytes, 0)) {
		return fmt.Errorf("chunk %d of %d bytes has an impossible place: process %d, address %#x, offset %d, length %d",
			c.id, c.bytes, place.PID, place.Address, place.Offset, place.Length)
	}
	s := l.spaces[place.PID]
	if s == nil {
		s = newSpace(l.index, place.PID)
		l.spaces[place.PID] = s
	}
	for done := uint64(0); done < length; {
		n := min(piecePages, (length-done)/pageSize)
		if len(l.pieces) == cap(l.pieces) { // of long places
			l.pieces = make([]piece, 0, 64)
		}
		l.pieces = l.pieces[:len(l.pieces)+1]
		p := &l.pieces[len(l.pieces)-1]
		p.space, p.chunk, p.address, p.offset, p.pages = s, c, place.Address+done, uint32(uint64(place.Offset)+done), uint32(n)
		if wanted {
			p.wanted.Store(pageBits(0, n))
			s.missing.Add(int64(n))
		}
		s.pieces = append(s.pieces, p)
		*known = append(*known, p)
		done += n * pageSize
	}
	return nil
}

func newSpace(x *index, pid int) *space {
	return &space{index: x, pid: pid, number: -1, fd: -1, stop: -1}
}
