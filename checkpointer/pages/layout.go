package pages

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// layout is where a source's chunks belong when nothing has changed yet.
type layout struct {
	index  *index
	spaces map[int]*space // by the process's number
	// fingerprint tells sources apart.
	fingerprint uint64
}

// lay makes the spaces of a source's chunks. Of the chunks that filled says so
// nothing is wanted any more.
func lay(chunks []memory.Chunk, filled func(i int) bool) (*layout, error) {
	l := &layout{index: &index{chunks: make([]*chunk, len(chunks))}, spaces: map[int]*space{}}
	sum := fnv.New64a()
	for i, c := range chunks {
		l.index.chunks[i] = &chunk{id: c.ID, bytes: c.Bytes}
		for _, place := range c.Places {
			if err := l.place(l.index.chunks[i], place, !filled(i)); err != nil {
				return nil, err
			}
			for _, n := range []uint64{uint64(c.ID), uint64(place.PID), place.Address, uint64(place.Offset), uint64(place.Length)} {
				_, _ = sum.Write(binary.NativeEndian.AppendUint64(nil, n)) // never fails
			}
		}
	}
	l.fingerprint = sum.Sum64()
	for _, s := range l.spaces {
		slices.SortFunc(s.pieces, func(a, b *piece) int { return cmp.Compare(a.address, b.address) })
		for i := 1; i < len(s.pieces); i++ {
			if a, b := s.pieces[i-1], s.pieces[i]; a.end() > b.address {
				return nil, fmt.Errorf("address %#x of process %d is in chunk %d and in chunk %d", b.address, s.pid, a.chunk.id, b.chunk.id)
			}
		}
		l.index.add(s.pieces)
	}
	return l, nil
}

func (l *layout) place(c *chunk, place memory.Place, wanted bool) error {
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
		p := &piece{space: s, chunk: c, address: place.Address + done, offset: uint32(uint64(place.Offset) + done), pages: uint32(n)}
		if wanted {
			p.wanted.Store(pageBits(0, n))
			s.missing.Add(int64(n))
		}
		s.pieces = append(s.pieces, p)
		done += n * pageSize
	}
	return nil
}

func newSpace(x *index, pid int) *space {
	return &space{index: x, pid: pid, number: -1, fd: -1, stop: -1}
}
