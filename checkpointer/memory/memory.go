// Package memory describes the memory of processes by its addresses: which pages
// there are, and what is in some of them. It does no I/O.
package memory

import (
	"cmp"
	"fmt"
	"slices"
)

// Span is the addresses from Start up to, and without, End, in bytes. Both are
// multiples of the page size.
type Span struct{ Start, End uint64 }

// Bytes is the span's length.
func (s Span) Bytes() uint64 { return s.End - s.Start }

func (s Span) String() string { return fmt.Sprintf("%x-%x", s.Start, s.End) }

// Set is a set of addresses: spans that ascend and neither overlap nor touch.
type Set []Span

// NewSet returns the set of all addresses in the spans, which may come in any
// order, overlap, and be empty.
func NewSet(spans ...Span) Set {
	sorted := slices.DeleteFunc(slices.Clone(spans), func(s Span) bool { return s.Start >= s.End })
	slices.SortFunc(sorted, func(a, b Span) int { return cmp.Compare(a.Start, b.Start) })
	set := sorted[:0]
	for _, s := range sorted {
		if n := len(set); n > 0 && s.Start <= set[n-1].End {
			set[n-1].End = max(set[n-1].End, s.End)
			continue
		}
		set = append(set, s)
	}
	return Set(set)
}

// Bytes is how many addresses the set has.
func (s Set) Bytes() uint64 {
	var n uint64
	for _, span := range s {
		n += span.Bytes()
	}
	return n
}

// Find returns the index of the span that holds an address, or of the first one
// above it, and whether it holds it.
func (s Set) Find(address uint64) (int, bool) {
	i, _ := slices.BinarySearchFunc(s, address, func(span Span, a uint64) int {
		if span.End <= a {
			return -1
		}
		return 1
	})
	return i, i < len(s) && s[i].Start <= address
}

// Contains is whether the set has every address of a span.
func (s Set) Contains(span Span) bool {
	i, found := s.Find(span.Start)
	return found && span.End <= s[i].End
}

// Union returns the addresses that are in a or in b.
func Union(a, b Set) Set {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	return NewSet(slices.Concat(a, b)...)
}

// Intersect returns the addresses that are in both sets.
func Intersect(a, b Set) Set {
	var out Set
	for len(a) > 0 && len(b) > 0 {
		if both := (Span{max(a[0].Start, b[0].Start), min(a[0].End, b[0].End)}); both.Start < both.End {
			out = append(out, both)
		}
		if a[0].End < b[0].End {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// Subtract returns the addresses of a that are not in b.
func Subtract(a, b Set) Set {
	var out Set
	for _, span := range a {
		for len(b) > 0 && b[0].End <= span.Start {
			b = b[1:]
		}
		for rest := b; len(rest) > 0 && rest[0].Start < span.End; rest = rest[1:] {
			if span.Start < rest[0].Start {
				out = append(out, Span{span.Start, rest[0].Start})
			}
			span.Start = min(max(span.Start, rest[0].End), span.End)
		}
		if span.Start < span.End {
			out = append(out, span)
		}
	}
	return out
}

// Stretch is the content of consecutive pages.
type Stretch struct {
	Start uint64
	Data  []byte
}

// Span is the addresses of the stretch.
func (s Stretch) Span() Span { return Span{s.Start, s.Start + uint64(len(s.Data))} }

// Process is the private memory of one process at one moment. Pages that are all
// zeros may be left out of it.
type Process struct {
	// Container is the name of the process's container.
	Container string
	// PID is the process's number in its container.
	PID int
	// Pages are all pages that belong to it.
	Pages Set
	// Fresh is the content of some of these pages, ascending and without overlap.
	// The others are as in the generation that the process's memory is based on.
	Fresh []Stretch
}

// Chunk is a piece of the memory of a generation that is read at once.
type Chunk struct {
	// ID names the chunk to whoever reads it.
	ID int
	// Bytes is the length of its content.
	Bytes int
	// Places is where its content belongs: processes may share it, and of an old
	// chunk there may be parts that belong nowhere any more.
	Places []Place
}

// Place is where a part of a chunk belongs.
type Place struct {
	// PID is the process's number in its container.
	PID     int
	Address uint64
	// Offset and Length are the part's, within the chunk, in bytes.
	Offset, Length int
}

// Span is the addresses of the place.
func (p Place) Span() Span { return Span{p.Address, p.Address + uint64(p.Length)} }

// Keep returns the parts of stretches that lie in a set, in the same order. They
// share the stretches' content.
func Keep(stretches []Stretch, set Set) []Stretch {
	var out []Stretch
	for _, s := range stretches {
		span := s.Span()
		for i, _ := set.Find(span.Start); i < len(set) && set[i].Start < span.End; i++ {
			start, end := max(span.Start, set[i].Start), min(span.End, set[i].End)
			out = append(out, Stretch{start, s.Data[start-span.Start : end-span.Start]})
		}
	}
	return out
}

// Addresses returns the addresses of stretches.
func Addresses(stretches []Stretch) Set {
	spans := make([]Span, len(stretches))
	for i, s := range stretches {
		spans[i] = s.Span()
	}
	return NewSet(spans...)
}

// Merge returns two lists of stretches as one that ascends. They must not overlap.
func Merge(a, b []Stretch) []Stretch {
	merged := slices.Concat(a, b)
	slices.SortFunc(merged, func(x, y Stretch) int { return cmp.Compare(x.Start, y.Start) })
	return merged
}

// Within is whether every address of the set is in another one.
func (s Set) Within(other Set) bool { return len(Subtract(s, other)) == 0 }
