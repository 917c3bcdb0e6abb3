package pages

import (
	"slices"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Threads that change the address space at the same time send their events after
// the fact: each thread's own come in order, but among threads the later one may
// come first. That matters where addresses are used again, as when the kernel
// gives the room that one thread's move has just made to the next thread. What is
// known is:
//
//   - Memory is moved only to where nothing is. Where there still is something,
//     the event of what made room is yet to come.
//   - Each move is followed by the event of unmapping what it vacated, an echo,
//     and by then something else may be there.
//   - While any event is outstanding, the kernel refuses to put pages. So it is
//     enough that all is right when none is.

// changes is what is known of changes of which not all events may have come.
type changes struct {
	// arrived is where something was moved to: unmapping it may be older than that,
	// or the echo of a move away from there.
	arrived memory.Set
	// detours are moves to where room is yet to be made.
	detours []detour
}

// detour is a move that waits. What it moves is at other addresses meanwhile,
// which no process can have.
type detour struct{ via, to, length uint64 }

// aside is the first address that no process can have: that of the next detour.
const aside = 1 << 62

func (d detour) target() memory.Span { return memory.Span{Start: d.to, End: d.to + d.length} }

// change does to the space what its process has done, and returns what a
// successor must do to the same end. Of forks it knows nothing.
func (s *space) change(m message) []record {
	var notes []record
	switch m.event {
	case eventRemove:
		span := memory.Span{Start: m.a, End: m.b}
		notes = s.forgotten(s.redirected(span))
	case eventUnmap:
		notes = s.unmapped(memory.Span{Start: m.a, End: m.b})
	case eventRemap:
		from, to := memory.Span{Start: m.a, End: m.a + m.c}, memory.Span{Start: m.b, End: m.b + m.c}
		s.arrived = memory.Subtract(s.arrived, memory.Set{from})
		if s.occupied(to) {
			via := uint64(aside)
			for _, d := range s.detours {
				via = max(via, d.via+d.length)
			}
			s.detours = append(s.detours, detour{via: via, to: m.b, length: m.c})
			to.Start = via
		}
		notes = s.moved(m.a, to.Start, m.c)
	}
	return append(notes, s.arrivals()...)
}

// redirected is where what is at some addresses for the process is in the space.
func (s *space) redirected(span memory.Span) []memory.Span {
	rest := memory.Set{span}
	var out []memory.Span
	for _, d := range s.detours {
		for _, part := range memory.Intersect(memory.Set{span}, memory.Set{d.target()}) {
			out = append(out, memory.Span{Start: part.Start - d.to + d.via, End: part.End - d.to + d.via})
		}
		rest = memory.Subtract(rest, memory.Set{d.target()})
	}
	return append(out, rest...)
}

func (s *space) forgotten(spans []memory.Span) []record {
	var notes []record
	for _, span := range spans {
		if s.forget(span) {
			notes = append(notes, record{kind: recordForget, a: span.Start, b: span.End})
		}
	}
	return notes
}

// unmapped drops what is at addresses that a thread has unmapped, but not what
// came there since. Where that is not known it stays: if it is not mapped, putting
// pages there will tell.
func (s *space) unmapped(span memory.Span) []record {
	var notes []record
	for _, part := range memory.Subtract(memory.Set{span}, s.arrived) {
		if s.drop(part) {
			notes = append(notes, record{kind: recordDrop, a: part.Start, b: part.End})
		}
	}
	return notes
}

func (s *space) moved(from, to, length uint64) []record {
	s.arrived = memory.Union(s.arrived, memory.NewSet(memory.Span{Start: to, End: to + length}))
	if !s.move(from, to, length) {
		return nil
	}
	return []record{{kind: recordMove, a: from, b: to, c: length}}
}

// arrivals ends the detours for which there is room.
func (s *space) arrivals() []record {
	var notes []record
	for i := 0; i < len(s.detours); {
		d := s.detours[i]
		if s.occupied(d.target()) {
			i++
			continue
		}
		s.detours = slices.Delete(s.detours, i, i+1)
		notes = append(notes, s.moved(d.via, d.to, d.length)...)
		i = 0
	}
	return notes
}

// settle is told that no event is outstanding. What still waits for room has it:
// what is in the space there was unmapped in a way that has no event.
func (s *space) settle() []record {
	var notes []record
	for _, d := range s.detours {
		notes = append(notes, s.moved(d.via, d.to, d.length)...)
	}
	s.changes = changes{}
	return notes
}
