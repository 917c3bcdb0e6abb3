package pages

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// inOrder puts changes that several threads may have made at the same time, and
// of which nothing is outstanding, into an order in which they can have happened.
func inOrder(s *space, changes []message) []message {
	return order(changes, s.occupied, func(address uint64) bool { return !errors.Is(probe(s.fd, address), unix.ENOENT) })
}

// order is inOrder without a process. Occupied is whether there were pages in a
// span before the changes, and mapped whether there is registered memory at an
// address after them.
//
// Each thread's events come in order, but a thread sends them after it has let go
// of the address space, so that those of threads that use the same addresses one
// after the other may be turned round: the kernel gives addresses that one thread
// has just vacated to the next. What is known is that pages are moved only to
// where nothing is.
func order(changes []message, occupied func(memory.Span) bool, mapped func(uint64) bool) []message {
	left := withoutEchoes(changes)
	var out []message
	for len(left) > 0 {
		next := 0
		for next < len(left)-1 && !possible(left, next, occupied, mapped) {
			next++
		}
		m := left[next]
		left = slices.Delete(left, next, next+1)
		out = append(out, m)
		occupied = after(m, occupied)
	}
	return out
}

// withoutEchoes leaves out the event of unmapping that each move makes of the
// addresses that it vacates: by now others may have come there.
func withoutEchoes(changes []message) []message {
	left := slices.Clone(changes)
	for i := 0; i < len(left); i++ {
		if left[i].event != eventRemap {
			continue
		}
		for j := i + 1; j < len(left); j++ {
			if left[j].event == eventUnmap && left[j].a == left[i].a && left[j].b == left[i].a+left[i].c {
				left = slices.Delete(left, j, j+1)
				break
			}
		}
	}
	return left
}

// possible is whether the i-th change can come before all others that are left:
// it can, unless it moves pages to where another one must first make room.
func possible(left []message, i int, occupied func(memory.Span) bool, mapped func(uint64) bool) bool {
	if left[i].event != eventRemap {
		return true
	}
	to := memory.Span{Start: left[i].b, End: left[i].b + left[i].c}
	for j, m := range left {
		if j == i || m.event != eventUnmap && m.event != eventRemap {
			continue
		}
		vacated := memory.Span{Start: m.a, End: m.b}
		if m.event == eventRemap {
			vacated.End = m.a + m.c
		}
		if vacated.Start >= to.End || to.Start >= vacated.End {
			continue
		}
		// Were it vacated after the move, it would be empty now.
		if occupied(to) || mapped(to.Start) {
			return false
		}
	}
	return true
}

// after is what is occupied after a change.
func after(m message, occupied func(memory.Span) bool) func(memory.Span) bool {
	overlap := func(a, b memory.Span) bool { return a.Start < b.End && b.Start < a.End }
	switch m.event {
	case eventUnmap:
		gone := memory.Span{Start: m.a, End: m.b}
		return func(s memory.Span) bool {
			return slices.ContainsFunc(memory.Subtract(memory.Set{s}, memory.Set{gone}), occupied)
		}
	case eventRemap:
		from, to := memory.Span{Start: m.a, End: m.a + m.c}, memory.Span{Start: m.b, End: m.b + m.c}
		moved := occupied(from)
		return func(s memory.Span) bool {
			return moved && overlap(s, to) || slices.ContainsFunc(memory.Subtract(memory.Set{s}, memory.NewSet(from, to)), occupied)
		}
	}
	return occupied
}
