package store

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// wearing is a pod whose memory wears the store.
type wearing struct {
	random *rand.Rand
	seed   uint64
}

const wearStart = 0x7f00_0000_0000

func (w *wearing) page(number uint64) memory.Stretch {
	data := make([]byte, pageSize)
	w.seed++
	source := rand.NewPCG(w.seed, number)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], source.Uint64())
	}
	return memory.Stretch{Start: wearStart + number*pageSize, Data: data}
}

func (w *wearing) process(resident uint64, fresh []memory.Stretch) []memory.Process {
	return []memory.Process{{Container: "c", PID: 1, Pages: memory.Set{{Start: wearStart, End: wearStart + resident*pageSize}}, Fresh: fresh}}
}

// The bounds that compact.go states hold over many generations, whatever is
// written.
func TestWearIsBounded(t *testing.T) {
	const resident = 4 << 10 // pages: 16 MiB
	for name, written := range map[string]func(w *wearing, generation int) []uint64{
		"1 % at random": func(w *wearing, _ int) (pages []uint64) {
			for page := range uint64(resident) {
				if w.random.IntN(100) == 0 {
					pages = append(pages, page)
				}
			}
			return pages
		},
		"a tenth is hot": func(w *wearing, _ int) (pages []uint64) {
			for page := range uint64(resident) {
				if hot := page%64 < 6; hot && w.random.IntN(10) == 0 || w.random.IntN(1000) == 0 {
					pages = append(pages, page)
				}
			}
			return pages
		},
		"round and round": func(_ *wearing, generation int) (pages []uint64) {
			for i := range uint64(resident / 50) {
				pages = append(pages, (uint64(generation)*(resident/50)+i)%resident)
			}
			slices.Sort(pages)
			return pages
		},
		"a single page": func(_ *wearing, generation int) []uint64 { return []uint64{uint64(generation) * 37 % resident} },
	} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := &wearing{random: rand.New(rand.NewPCG(seed, 0)), seed: seed}
			s := openIn(t, t.TempDir(), Options{SegmentBytes: 512 << 10})
			var all []memory.Stretch
			for page := range uint64(resident) {
				all = append(all, w.page(page))
			}
			staged := t.TempDir()
			gen, err := s.Seal(t.Context(), crashKey, Generation{}, staged, w.process(resident, all))
			if err != nil {
				t.Fatal(err)
			}
			var fresh, stored, manifests, worst int64
			const generations = 200
			for i := range generations {
				var stretches []memory.Stretch
				for _, page := range written(w, i) {
					stretches = append(stretches, w.page(page))
				}
				if gen, err = s.Seal(t.Context(), crashKey, Generation{Base: gen.Number}, staged, w.process(resident, stretches)); err != nil {
					t.Fatal(err)
				}
				if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
					t.Fatal(err)
				}
				size, err := s.disk.size(crashKey.path(manifestName(gen.Number)))
				if err != nil {
					t.Fatal(err)
				}
				fresh += int64(len(stretches)) * (pageSize + sealOverhead)
				stored += gen.NewBytes - size
				manifests += size
				worst = max(worst, s.Used()-size)
				if size > resident*pageSize/100 {
					t.Fatalf("generation %d has a manifest of %d bytes", gen.Number, size)
				}
			}
			const live = resident * (pageSize + sealOverhead)
			t.Logf("worst space %.2f times what is in use; %.2f bytes written for each new one; %.3f %% of resident for each manifest",
				float64(worst)/live, float64(stored)/float64(fresh), 100*float64(manifests)/generations/(resident*pageSize))
			if most := int64(spaceFactor*live) + fresh/generations + s.options.SegmentBytes; worst > most {
				t.Errorf("%d bytes in use took %d, more than %d", int64(live), worst, most)
			}
			if merges := int64(live / maxSegments * generations / mergeAtOnce); stored > 2*fresh+merges {
				t.Errorf("%d new bytes took %d to write, more than %d", fresh, stored, 2*fresh+merges)
			}
			files, err := s.Files(crashKey, gen.Number)
			if err != nil {
				t.Fatal(err)
			}
			if most := maxSegments + int(spaceFactor*live/s.options.SegmentBytes) + 2; len(files) > most {
				t.Errorf("a generation has %d files, more than %d", len(files), most)
			}
			if err := s.Verify(t.Context(), crashKey, gen.Number); err != nil {
				t.Error(err)
			}
		})
	}
}

// Memory that goes makes room within some generations, though nothing is written.
func TestSpaceOfMemoryThatWent(t *testing.T) {
	w := &wearing{}
	const resident = 4 << 10
	s := openIn(t, t.TempDir(), Options{SegmentBytes: 1 << 20})
	var all []memory.Stretch
	for page := range uint64(resident) {
		all = append(all, w.page(page))
	}
	staged := t.TempDir()
	gen, err := s.Seal(t.Context(), crashKey, Generation{}, staged, w.process(resident, all))
	if err != nil {
		t.Fatal(err)
	}
	var spans []memory.Span
	for page := uint64(0); page < resident; page += 8 { // an eighth of every segment stays
		spans = append(spans, all[page].Span())
	}
	left := []memory.Process{{Container: "c", PID: 1, Pages: memory.NewSet(spans...)}}
	for range 2 * copyShare {
		if gen, err = s.Seal(t.Context(), crashKey, Generation{Base: gen.Number}, staged, left); err != nil {
			t.Fatal(err)
		}
		if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if live := int64(left[0].Pages.Bytes()); s.Used() > spaceFactor*live+s.options.SegmentBytes {
		t.Errorf("%d bytes take %d", live, s.Used())
	}
	// Scattered pages came together: the manifest has few chunks.
	size, err := s.disk.size(crashKey.path(manifestName(gen.Number)))
	if err != nil {
		t.Fatal(err)
	}
	if size > resident*pageSize/1000 {
		t.Errorf("the manifest has %d bytes", size)
	}
	if err := s.Verify(t.Context(), crashKey, gen.Number); err != nil {
		t.Error(err)
	}
}

func TestWorn(t *testing.T) {
	const size = 100
	for name, c := range map[string]struct {
		sizes, used []int64
		fresh       int64
		want        string
	}{
		"nothing":                             {nil, nil, 0, ""},
		"what is in use stays":                {[]int64{size, size}, []int64{60, 60}, 100, ".."},
		"what is unused goes":                 {[]int64{size, size}, []int64{0, 100}, 0, "x."},
		"the emptiest first":                  {[]int64{size, size, size}, []int64{50, 10, 60}, 1000, ".x."},
		"until the space is right":            {[]int64{size, size, size, size}, []int64{10, 12, 90, 11}, 1000, "x..x"},
		"no more than is new":                 {[]int64{size, size, size, size}, []int64{10, 10, 10, 10}, 11, "xx.."},
		"a little though nothing is new":      {[]int64{size, size, size, size}, []int64{10, 10, 10, 10}, 0, "...."},
		"a little of much though nothing new": {[]int64{9000, 9000, 9000, 9000}, []int64{1000, 1000, 1000, 1000}, 0, "x..."},
		"what is half in use is not worth it": {[]int64{size, 10000}, []int64{51, 4900}, 1000, ".x"},
	} {
		t.Run(name, func(t *testing.T) {
			var segments []segment
			for _, size := range c.sizes {
				segments = append(segments, segment{size: size})
			}
			got := ""
			for _, leave := range worn(segments, c.used, c.fresh, 1000) {
				got += map[bool]string{true: "x", false: "."}[leave]
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	segments, used := make([]segment, maxSegments+1), make([]int64, maxSegments+1)
	for i := range segments {
		segments[i].size, used[i] = int64(1000+i), int64(1000+i)
	}
	left := 0
	leave := worn(segments, used, 0, 1<<40)
	for i, l := range leave {
		if !l {
			left++
		} else if i > mergeAtOnce {
			t.Errorf("segment %d is merged, and is not among the smallest", i)
		}
	}
	if left != maxSegments-mergeAtOnce {
		t.Errorf("%d of %d segments are left", left, len(segments))
	}
}
