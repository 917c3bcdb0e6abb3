package storetest

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Space is the memory of one process: the content of each of its pages, by address.
type Space map[uint64]string

// Name tells the processes of a pod apart.
type Name struct {
	Container string
	PID       int
}

// Spaces is the memory of a pod's processes.
type Spaces map[Name]Space

// Clone returns a copy that can be changed by itself.
func (s Spaces) Clone() Spaces {
	out := Spaces{}
	for name, space := range s {
		out[name] = maps.Clone(space)
	}
	return out
}

// Write puts content, of whole pages, at an address.
func (s Space) Write(address uint64, content []byte) {
	for page := range slices.Chunk(content, PageSize) {
		s[address] = string(page)
		address += PageSize
	}
}

// Processes returns the memory as a store is given it: fresh are the pages that
// are not as in base.
func (s Spaces) Processes(base Spaces) []memory.Process {
	var list []memory.Process
	for name, space := range s {
		p := memory.Process{Container: name.Container, PID: name.PID}
		var spans []memory.Span
		for _, address := range slices.Sorted(maps.Keys(space)) {
			spans = append(spans, memory.Span{Start: address, End: address + PageSize})
			if before, ok := base[name][address]; ok && before == space[address] {
				continue
			}
			n := len(p.Fresh)
			if n == 0 || p.Fresh[n-1].Span().End != address {
				p.Fresh = append(p.Fresh, memory.Stretch{Start: address})
				n++
			}
			p.Fresh[n-1].Data = append(p.Fresh[n-1].Data, space[address]...)
		}
		p.Pages = memory.NewSet(spans...)
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b memory.Process) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.PID, b.PID))
	})
	return list
}

const windowSize = 16 * PageSize

// ReadMemory returns the memory of a generation.
func ReadMemory(ctx context.Context, t testing.TB, r *store.Reader) (Spaces, error) {
	t.Helper()
	spaces := Spaces{}
	containers := map[string]bool{}
	for _, p := range r.Processes() {
		space := Space{}
		for _, span := range p.Pages {
			for address := span.Start; address < span.End; address += PageSize {
				space[address] = string(zeroPage)
			}
		}
		spaces[Name{p.Container, p.PID}] = space
		containers[p.Container] = true
	}
	filled := map[Name]map[uint64]bool{}
	for container := range containers {
		chunks := map[int]memory.Chunk{}
		var ids []int
		for _, c := range r.Memory(container) {
			if len(c.Places) == 0 {
				t.Errorf("chunk %d belongs nowhere", c.ID)
			}
			chunks[c.ID] = c
			ids = append(ids, c.ID)
		}
		err := r.Read(ctx, ids, func(id int, data []byte) error {
			c := chunks[id]
			if len(data) != c.Bytes {
				t.Errorf("chunk %d has %d bytes, and %d were announced", id, len(data), c.Bytes)
			}
			delete(chunks, id)
			for _, place := range c.Places {
				name := Name{container, place.PID}
				if place.Address/windowSize != (place.Span().End-1)/windowSize {
					t.Errorf("chunk %d reaches over a window at %s", id, place.Span())
				}
				for offset := 0; offset < place.Length; offset += PageSize {
					address := place.Address + uint64(offset)
					if _, ok := spaces[name][address]; !ok || filled[name][address] {
						t.Errorf("%v has no page at %x, or has it twice", name, address)
					}
					if filled[name] == nil {
						filled[name] = map[uint64]bool{}
					}
					filled[name][address] = true
					page := data[place.Offset+offset:][:PageSize]
					if bytes.Equal(page, zeroPage) {
						t.Errorf("%v has zeros stored at %x", name, address)
					}
					spaces[name][address] = string(page)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(chunks) > 0 {
			t.Errorf("%d chunks were not read", len(chunks))
		}
	}
	return spaces, nil
}

var zeroPage = make([]byte, PageSize)

// WantMemory reads a generation's memory and compares it.
func WantMemory(t testing.TB, s Store, key store.Key, number int64, want Spaces) {
	t.Helper()
	r, err := s.OpenReader(context.Background(), key, number, nil)
	check(t, err)
	defer func() { check(t, r.Close()) }()
	got, err := ReadMemory(context.Background(), t, r)
	check(t, err)
	if !got.same(want) {
		t.Fatalf("generation %d came back with other memory", number)
	}
}

// same compares without printing, since memory may be large.
func (s Spaces) same(other Spaces) bool {
	return maps.EqualFunc(s, other, maps.Equal[Space, Space])
}

// sealMemory stores memory as the pod's next generation, built on base unless
// that is 0: then all is given.
func sealMemory(t testing.TB, s Store, key store.Key, base int64, before, now Spaces) store.Generation {
	t.Helper()
	if base == 0 {
		before = nil
	}
	gen, err := s.Seal(context.Background(), key, store.Generation{Base: base}, memoryTree.Write(t), now.Processes(before))
	check(t, err)
	if gen.Base != base {
		t.Errorf("a generation built on %d says that it is on %d", base, gen.Base)
	}
	return gen
}

// memoryTree is what is staged beside memory.
var memoryTree = Tree{"c/images/core-1.img": "core", "c/rootfs.tar": "tail"}
