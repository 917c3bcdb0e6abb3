package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	heap  = 0x5555_0000_3000 // not at the start of a window
	stack = 0x7fff_fff0_0000
)

var cart = Name{"cart", 1}

// exampleMemory is of two containers, with zeros between.
func exampleMemory(seed uint64) Spaces {
	s := Spaces{cart: {}, {"cart", 12}: {}, {"proxy", 1}: {}, {"proxy", 2}: {}}
	s[cart].Write(heap, Pages(seed, 50))
	s[cart].Write(heap+50*PageSize, make([]byte, 30*PageSize))
	s[cart].Write(heap+60*PageSize, Pages(seed+1, 2))
	s[cart].Write(stack, Pages(seed+2, 3))
	s[Name{"cart", 12}].Write(stack, Pages(seed+3, 1))
	s[Name{"proxy", 1}].Write(heap, Pages(seed+4, 40))
	s[Name{"proxy", 1}].Write(1<<64-2*PageSize, Pages(seed+5, 1))
	return s
}

func memoryRoundTrip(t *testing.T, _ *Keys, f Fixture) {
	one := exampleMemory(1)
	gen := sealMemory(t, f.Store, pod, 0, nil, one)
	want := int64(len("core") + len("tail"))
	for _, space := range one {
		want += int64(len(space)) * PageSize
	}
	if gen.Bytes != want {
		t.Errorf("a generation of %d bytes says that it has %d", want, gen.Bytes)
	}
	two := one.Clone()
	delete(two, Name{"cart", 12})
	two[cart].Write(heap+3*PageSize, Pages(77, 5))
	two[cart].Write(heap+9*PageSize, make([]byte, PageSize)) // becomes zeros
	two[cart].Write(heap+55*PageSize, Pages(78, 1))          // was zeros
	delete(two[cart], stack)
	two[Name{"proxy", 9}] = Space{stack: string(Pages(79, 1))}
	sealMemory(t, f.Store, pod, 1, one, two)
	s := f.Reopen(t)
	WantMemory(t, s, pod, 1, one)
	WantMemory(t, s, pod, 2, two)
	wantTree(t, s, pod, 2, memoryTree)
	check(t, s.Verify(context.Background(), pod, 2))
	files, err := s.Files(pod, 2)
	check(t, err)
	if len(files) != 3 { // two segments and a manifest
		t.Errorf("a generation that builds on another lists the files %v", files)
	}
	check(t, s.Retain(pod, store.Retention{Count: 1}))
	WantMemory(t, s, pod, 2, two)
}

// memoryModel seals generations of memory that changes in every way that
// processes can change it, and compares each with what it was.
func memoryModel(t *testing.T, keys *Keys, f Fixture) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		key := store.Key{Namespace: "drawn", PodUID: fmt.Sprint("pod-", n)}
		held := map[int64]Spaces{}
		now := Spaces{cart: {}}
		base := int64(0)
		for range rapid.IntRange(1, 12).Draw(rt, "generations") {
			for range rapid.IntRange(0, 4).Draw(rt, "changes") {
				now.change(rt)
			}
			if base != 0 && rapid.IntRange(0, 9).Draw(rt, "all is given") == 0 {
				base = 0
			}
			if rapid.IntRange(0, 19).Draw(rt, "the key rotates") == 0 {
				keys.Rotate(key.Namespace)
				if base != 0 {
					wantNoBase(t, f.Store, key, base, now.Processes(held[base]))
				}
				base = 0
			}
			gen := sealMemory(t, f.Store, key, base, held[base], now)
			held[gen.Number] = now.Clone()
			base = gen.Number
			if keep := rapid.IntRange(0, 3).Draw(rt, "keep"); keep > 0 {
				check(t, f.Store.Retain(key, store.Retention{Count: keep}))
				for number := range held {
					if number <= gen.Number-int64(keep) {
						delete(held, number)
					}
				}
			}
			if rapid.IntRange(0, 9).Draw(rt, "reopen") == 0 {
				f.Store = f.Reopen(t)
			}
			for number, want := range held {
				WantMemory(t, f.Store, key, number, want)
			}
		}
		check(t, f.Store.Remove(key))
	})
}

// change does one thing that a process can do to its memory.
func (s Spaces) change(rt *rapid.T) {
	names := slices.SortedFunc(maps.Keys(s), func(a, b Name) int { return a.PID - b.PID })
	name := rapid.SampledFrom(names).Draw(rt, "process")
	address := uint64(heap) + PageSize*rapid.Uint64Range(0, 100).Draw(rt, "page")
	length := rapid.IntRange(1, 40).Draw(rt, "pages")
	switch rapid.SampledFrom([]string{"write", "write one", "write text", "zero", "unmap", "fork", "exit"}).Draw(rt, "what") {
	case "write":
		s[name].Write(address, Pages(rapid.Uint64Range(0, 1<<30).Draw(rt, "seed"), length))
	case "write one":
		s[name].Write(address, Pages(rapid.Uint64Range(0, 2).Draw(rt, "seed"), 1))
	case "write text":
		text := slices.Repeat([]byte(fmt.Sprintf("%08d", rapid.IntRange(0, 9).Draw(rt, "text"))), PageSize/8)
		s[name].Write(address, slices.Repeat(text, length))
	case "zero":
		s[name].Write(address, make([]byte, length*PageSize))
	case "unmap":
		for i := range length {
			delete(s[name], address+uint64(i)*PageSize)
		}
	case "fork":
		s[Name{name.Container, names[len(names)-1].PID + 1}] = maps.Clone(s[name])
	case "exit":
		if len(names) > 1 {
			delete(s, name)
		}
	}
}

// wantNoBase seals what cannot be sealed, and wants the store to be as before.
func wantNoBase(t testing.TB, s Store, key store.Key, base int64, processes []memory.Process) {
	t.Helper()
	before, err := s.List(key)
	check(t, err)
	if _, err := s.Seal(context.Background(), key, store.Generation{Base: base}, memoryTree.Write(t), processes); !errors.Is(err, store.ErrNoBase) {
		t.Errorf("want ErrNoBase, got %v", err)
	}
	after, err := s.List(key)
	check(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("a seal without its base changed the list (-before +after):\n%s", diff)
	}
}

func memoryBase(t *testing.T, keys *Keys, f Fixture) {
	one := exampleMemory(1)
	two := one.Clone()
	two[cart].Write(heap, Pages(50, 1))
	wantNoBase(t, f.Store, pod, 1, two.Processes(one)) // nothing is there yet
	wantNoBase(t, f.Store, pod, 0, two.Processes(one)) // not all is given
	sealMemory(t, f.Store, pod, 0, nil, one)

	more := two.Clone()
	more[cart].Write(heap+200*PageSize, Pages(51, 1))
	wantNoBase(t, f.Store, pod, 1, more.Processes(more)) // a page that the base lacks
	other := two.Clone()
	other[Name{"cart", 99}] = Space{heap: string(Pages(51, 1))}
	wantNoBase(t, f.Store, pod, 1, other.Processes(other)) // a process that the base lacks
	wantNoBase(t, f.Store, pod, 7, two.Processes(one))     // a generation that was never there

	gen := sealMemory(t, f.Store, pod, 1, one, two)
	keys.Rotate(pod.Namespace)
	wantNoBase(t, f.Store, pod, gen.Number, two.Processes(two))
	gen = sealMemory(t, f.Store, pod, 0, nil, two)
	check(t, f.Store.Retain(pod, store.Retention{Count: 1}))
	wantNoBase(t, f.Store, pod, 1, two.Processes(one)) // it has gone
	WantMemory(t, f.Store, pod, gen.Number, two)
}

func memoryRefused(t *testing.T, _ *Keys, f Fixture) {
	page := func(address uint64, n int) memory.Stretch {
		return memory.Stretch{Start: address, Data: make([]byte, n)}
	}
	pages := memory.Set{{Start: heap, End: heap + 4*PageSize}}
	for name, processes := range map[string][]memory.Process{
		"no container":            {{PID: 1}},
		"a negative number":       {{Container: "c", PID: -1}},
		"a process twice":         {{Container: "c", PID: 1}, {Container: "c", PID: 1}},
		"half a page":             {{Container: "c", Pages: pages, Fresh: []memory.Stretch{page(heap, 4*PageSize-1)}}},
		"a page at no page":       {{Container: "c", Pages: pages, Fresh: []memory.Stretch{page(heap+1, PageSize)}}},
		"content of no page":      {{Container: "c", Pages: pages, Fresh: []memory.Stretch{page(heap, 5*PageSize)}}},
		"content that overlaps":   {{Container: "c", Pages: pages, Fresh: []memory.Stretch{page(heap, 4*PageSize), page(heap+PageSize, PageSize)}}},
		"content that descends":   {{Container: "c", Pages: pages, Fresh: []memory.Stretch{page(heap+PageSize, 3*PageSize), page(heap, PageSize)}}},
		"pages that descend":      {{Container: "c", Pages: memory.Set{{Start: heap, End: heap + PageSize}, {Start: stack, End: heap}}}},
		"pages that are no pages": {{Container: "c", Pages: memory.Set{{Start: heap, End: heap + 1}}}},
	} {
		if _, err := f.Store.Seal(context.Background(), pod, store.Generation{}, memoryTree.Write(t), processes); err == nil || errors.Is(err, store.ErrNoBase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := f.Store.List(pod); err != nil || len(list) > 0 {
		t.Errorf("List: %v, %v", list, err)
	}
}

func memorySharing(t *testing.T, _ *Keys, f Fixture) {
	const pages = 1024
	s := Spaces{cart: {}}
	s[cart].Write(heap, Pages(1, pages))
	child := Name{"cart", 2}
	s[child] = maps.Clone(s[cart])
	first := sealMemory(t, f.Store, pod, 0, nil, s)
	if first.NewBytes > pages*PageSize*11/10 {
		t.Errorf("a process and its child have %d bytes, and %d were stored", pages*PageSize, first.NewBytes)
	}
	// One that is forked later is given in full, since nobody has followed it.
	now := s.Clone()
	now[Name{"cart", 3}] = maps.Clone(s[cart])
	second := sealMemory(t, f.Store, pod, first.Number, s, now)
	if second.NewBytes > pages*PageSize/50 {
		t.Errorf("another child added %d bytes", second.NewBytes)
	}
	// What the child writes is its own.
	later := now.Clone()
	later[child].Write(heap+5*PageSize, Pages(9, 3))
	third := sealMemory(t, f.Store, pod, second.Number, now, later)
	if third.NewBytes > 3*PageSize+pages*PageSize/50 {
		t.Errorf("3 pages of a child added %d bytes", third.NewBytes)
	}
	WantMemory(t, f.Store, pod, third.Number, later)
	// All three use one chunk.
	r, err := f.Store.OpenReader(context.Background(), pod, second.Number, nil)
	check(t, err)
	defer r.Close()
	for _, c := range r.Memory("cart") {
		if len(c.Places) != 3 {
			t.Fatalf("chunk %d has the places %v", c.ID, c.Places)
		}
	}
}

func memoryCost(t *testing.T, _ *Keys, f Fixture) {
	const pages = 16 << 10 // 64 MiB
	s := Spaces{cart: {}}
	s[cart].Write(heap, Pages(1, pages))
	first := sealMemory(t, f.Store, pod, 0, nil, s)
	unchanged := sealMemory(t, f.Store, pod, first.Number, s, s)
	if most := int64(pages * PageSize / 200); unchanged.NewBytes > most {
		t.Errorf("nothing changed, and %d bytes were stored, more than %d", unchanged.NewBytes, most)
	}
	r := random(t)
	now := s.Clone()
	for range pages / 100 {
		now[cart].Write(heap+PageSize*r.Uint64N(pages), Pages(r.Uint64(), 1))
	}
	changed := sealMemory(t, f.Store, pod, unchanged.Number, s, now)
	if most := int64(pages * PageSize * 3 / 100); changed.NewBytes > most {
		t.Errorf("1 %% of the pages changed, and %d bytes were stored, more than %d", changed.NewBytes, most)
	}
	WantMemory(t, f.Store, pod, changed.Number, now)
	zeroed := Spaces{cart: {}}
	zeroed[cart].Write(heap, make([]byte, pages*PageSize))
	if gone := sealMemory(t, f.Store, pod, changed.Number, now, zeroed); gone.NewBytes > 10_000 {
		t.Errorf("nothing but zeros takes %d bytes", gone.NewBytes)
	}
}

// The chunks that were written last come first, and those of a window that
// changed in part stay apart.
func memoryOrder(t *testing.T, _ *Keys, f Fixture) {
	one := Spaces{cart: {}}
	one[cart].Write(stack, Pages(1, 64)) // four windows
	two := one.Clone()
	two[cart].Write(stack+windowSize, Pages(2, 2))
	three := two.Clone()
	three[cart].Write(stack+3*windowSize, Pages(3, 1))
	sealMemory(t, f.Store, pod, 0, nil, one)
	sealMemory(t, f.Store, pod, 1, one, two)
	sealMemory(t, f.Store, pod, 2, two, three)
	r, err := f.Store.OpenReader(context.Background(), pod, 3, nil)
	check(t, err)
	defer r.Close()
	var got [][]memory.Place
	for _, c := range r.Memory("cart") {
		got = append(got, c.Places)
	}
	want := [][]memory.Place{
		{{PID: 1, Address: stack + 3*windowSize, Length: PageSize}},
		{{PID: 1, Address: stack + windowSize, Length: 2 * PageSize}},
		{{PID: 1, Address: stack, Length: windowSize}},
		{{PID: 1, Address: stack + windowSize + 2*PageSize, Offset: 2 * PageSize, Length: 14 * PageSize}},
		{{PID: 1, Address: stack + 2*windowSize, Length: windowSize}},
		{{PID: 1, Address: stack + 3*windowSize + PageSize, Offset: PageSize, Length: 15 * PageSize}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Memory (-want +got):\n%s", diff)
	}
	if chunks := r.Memory("proxy"); len(chunks) > 0 {
		t.Errorf("a container without processes has the memory %v", chunks)
	}
	if err := r.Read(context.Background(), []int{99}, func(int, []byte) error { return nil }); err == nil {
		t.Error("a chunk that is not there was read")
	}
	broken := errors.New("broken")
	if err := r.Read(context.Background(), []int{0}, func(int, []byte) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("want the visitor's error, got %v", err)
	}
}
