package httpapi

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestPages: pages that are asked for one after the other, while objects come and go, have
// each object that was there all the time once, and none twice.
func TestPages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]{1,3}/[a-c]{1,3}`), 0, 30, rapid.ID)
		stay := names.Draw(t, "stay")
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		var got []string
		for next, n := "", 0; n == 0 || next != ""; n++ {
			if n > 60 {
				t.Fatal("the pages have no end")
			}
			objects := append(names.Draw(t, fmt.Sprintf("come and go %d", n)), stay...)
			slices.Sort(objects)
			objects = slices.Compact(objects)
			rand.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
			list, err := page(objects, Page{Limit: limit, Continue: next}, func(s *string) string { return *s }, func(s *string) string { return *s })
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Items) > limit {
				t.Fatalf("a page has %d objects, want at most %d", len(list.Items), limit)
			}
			got = append(got, list.Items...)
			next = list.Continue
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("the pages are not in order, or have something twice: %s", strings.Join(got, " "))
		}
		for _, name := range stay {
			if !slices.Contains(got, name) {
				t.Fatalf("%s is on no page of %v", name, got)
			}
		}
	})
}
