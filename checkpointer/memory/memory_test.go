package memory

import (
	"math/rand/v2"
	"testing"
)

// numbers draws a set, as spans in any order and as a table.
func numbers(r *rand.Rand) (Set, [64]bool) {
	var spans []Span
	var table [64]bool
	for range r.IntN(6) {
		start := r.Uint64N(64)
		end := min(64, start+r.Uint64N(12))
		spans = append(spans, Span{start, end})
		for i := start; i < end; i++ {
			table[i] = true
		}
	}
	return NewSet(spans...), table
}

func check(t *testing.T, what string, got Set, want func(i int) bool) {
	t.Helper()
	for i, span := range got {
		if span.Start >= span.End || i > 0 && got[i-1].End > span.Start {
			t.Fatalf("%s: %v is not in order", what, got)
		}
	}
	var bytes uint64
	for i := range 64 {
		if _, found := got.Find(uint64(i)); found != want(i) {
			t.Fatalf("%s: %v has %d: %v", what, got, i, found)
		}
		if want(i) {
			bytes++
		}
	}
	if got.Bytes() != bytes {
		t.Fatalf("%s: %v has %d bytes, not %d", what, got, bytes, got.Bytes())
	}
}

func TestSets(t *testing.T) {
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 0))
		a, inA := numbers(r)
		b, inB := numbers(r)
		check(t, "new", a, func(i int) bool { return inA[i] })
		check(t, "union", Union(a, b), func(i int) bool { return inA[i] || inB[i] })
		check(t, "intersect", Intersect(a, b), func(i int) bool { return inA[i] && inB[i] })
		check(t, "subtract", Subtract(a, b), func(i int) bool { return inA[i] && !inB[i] })
		span := Span{r.Uint64N(60), 0}
		span.End = span.Start + 1 + r.Uint64N(4)
		all := true
		for i := span.Start; i < span.End; i++ {
			all = all && inA[i]
		}
		if a.Contains(span) != all {
			t.Fatalf("seed %d: %v contains %v: %v", seed, a, span, !all)
		}
	}
}

func TestStretches(t *testing.T) {
	for seed := range uint64(5_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		a, _ := numbers(r)
		b, _ := numbers(r)
		content := func(set Set) (out []Stretch) {
			for _, span := range set {
				s := Stretch{Start: span.Start}
				for i := span.Start; i < span.End; i++ {
					s.Data = append(s.Data, byte(i))
				}
				out = append(out, s)
			}
			return out
		}
		kept := Keep(content(a), b)
		all := Merge(kept, content(Subtract(a, b)))
		both := Intersect(a, b)
		check(t, "kept", Addresses(kept), func(i int) bool { _, found := both.Find(uint64(i)); return found })
		check(t, "merged", Addresses(all), func(i int) bool { _, found := a.Find(uint64(i)); return found })
		for i, s := range all {
			if i > 0 && all[i-1].Span().End > s.Start {
				t.Fatalf("seed %d: out of order", seed)
			}
			for j, b := range s.Data {
				if b != byte(s.Start)+byte(j) {
					t.Fatalf("seed %d: wrong content at %d", seed, s.Start)
				}
			}
		}
	}
}
