package track

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// shadow is a copy of a process's memory that is kept with what a tracker says alone.
type shadow struct {
	pid     int
	tracker Tracker
	arena   *Arena
	pages   map[uint64][]byte
	read    uint64 // bytes
}

func newShadow(t testing.TB, pid int, tracker Tracker) *shadow {
	arena := NewArena(2 << 30)
	t.Cleanup(arena.Close)
	return &shadow{pid: pid, tracker: tracker, arena: arena, pages: map[uint64][]byte{}}
}

// follow brings the shadow up to what the tracker says.
func (s *shadow) follow() error {
	areas, err := Areas(s.pid)
	if err != nil {
		return err
	}
	changed, err := s.tracker.Written(areas)
	if err != nil {
		return err
	}
	if outside := memory.Subtract(changed, areas); len(outside) > 0 {
		return fmt.Errorf("%v were not asked for", outside)
	}
	has, err := Populated(s.pid, areas)
	if err != nil {
		return err
	}
	for page := range s.pages {
		if _, found := has.Find(page); !found {
			delete(s.pages, page)
		}
	}
	s.arena.Reset()
	stretches, err := Read(s.pid, memory.Intersect(changed, has), s.arena)
	if err != nil {
		return err
	}
	for _, stretch := range stretches {
		s.read += uint64(len(stretch.Data))
		for at := uint64(0); at < uint64(len(stretch.Data)); at += pageSize {
			s.pages[stretch.Start+at] = bytes.Clone(stretch.Data[at : at+pageSize])
		}
	}
	return nil
}

var errDiffers = errors.New("the copy differs from the process's memory")

// compare compares the shadow with the memory itself, of a process that does not run.
func (s *shadow) compare() error {
	areas, err := Areas(s.pid)
	if err != nil {
		return err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	file, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", s.pid))
	if err != nil {
		return err
	}
	defer file.Close()
	// Not by the scan that Populated uses.
	var present memory.Set
	err = (&pagemap{file: file}).each(areas, func(page, entry uint64) {
		if entry&(entryPresent|entrySwapped) != 0 {
			present = extend(present, memory.Span{Start: page, End: page + pageSize})
		}
	})
	if err != nil {
		return err
	}
	compared, zero := 0, make([]byte, pageSize)
	for _, span := range present {
		truth := make([]byte, span.Bytes())
		if _, err := mem.ReadAt(truth, int64(span.Start)); err != nil {
			return fmt.Errorf("read %s: %w", span, err)
		}
		for at := uint64(0); at < span.Bytes(); at += pageSize {
			copied, found := s.pages[span.Start+at]
			if !found {
				copied = zero
			} else {
				compared++
			}
			if !bytes.Equal(copied, truth[at:at+pageSize]) {
				return fmt.Errorf("page %x of %s: %w (it is in the copy: %v)", span.Start+at, span, errDiffers, found)
			}
		}
	}
	if compared != len(s.pages) {
		return fmt.Errorf("%w: it has %d pages, and the process %d of them", errDiffers, len(s.pages), compared)
	}
	return nil
}

// runModel lets a process do what it likes with its memory, follows it, and compares.
func runModel(t *testing.T, h *helper, s *shadow, random *rand.Rand, rounds int) (operations int, err error) {
	for range rounds {
		n := 1 + random.IntN(40)
		h.ask("do %d", n)
		operations += n
		if random.IntN(4) == 0 {
			// While it runs, and now and then while it works.
			if err := s.follow(); err != nil {
				return operations, err
			}
			continue
		}
		h.pause()
		if err := s.follow(); err != nil {
			return operations, err
		}
		if err := s.compare(); err != nil {
			return operations, err
		}
		h.resume()
	}
	return operations, nil
}

// TestModel keeps copies of processes that do all kinds of things to their
// memory, and compares them with the memory after each step.
func TestModel(t *testing.T) {
	onEachMethod(t, func(t *testing.T, method Method) {
		seed := uint64(time.Now().UnixNano())
		random := rand.New(rand.NewPCG(seed, 0))
		t.Logf("seed %d", seed)
		h := startHelper(t, "model", fmt.Sprint(seed))
		s := newShadow(t, h.pid, attach(t, h.pid, method))
		operations := 0
		lives, rounds := 4, 60
		if testing.Short() {
			lives, rounds = 2, 12
		}
		for range lives {
			n, err := runModel(t, h, s, random, rounds)
			operations += n
			if err != nil {
				t.Fatalf("seed %d, after %d operations: %v", seed, operations, err)
			}
			if answer := h.ask("exec"); answer != "ready" {
				t.Fatalf("exec: %q", answer)
			}
		}
		t.Logf("%d operations; %d MB read", operations, s.read>>20)
	})
}

// TestWild follows a process that writes all the time, and compares when it is stopped.
func TestWild(t *testing.T) {
	onEachMethod(t, func(t *testing.T, method Method) {
		h := startHelper(t, "model", "7")
		h.ask("wild")
		s := newShadow(t, h.pid, attach(t, h.pid, method))
		rounds := 15
		if testing.Short() {
			rounds = 4
		}
		for range rounds {
			for range 4 {
				if err := s.follow(); err != nil {
					t.Fatal(err)
				}
			}
			h.pause()
			if err := s.follow(); err != nil {
				t.Fatal(err)
			}
			if err := s.compare(); err != nil {
				t.Fatal(err)
			}
			h.resume()
		}
	})
}

// forgetful is a tracker that loses one page, once.
type forgetful struct {
	Tracker
	looks int
}

func (f *forgetful) Written(areas memory.Set) (memory.Set, error) {
	found, err := f.Tracker.Written(areas)
	f.looks++
	if err != nil || f.looks < 5 || len(found) == 0 {
		return found, err
	}
	f.looks = -1 << 40
	lost := found[len(found)/2]
	return memory.Subtract(found, memory.Set{{Start: lost.Start, End: lost.Start + pageSize}}), nil
}

// TestModelNoticesALostPage shows that the tests above can fail.
func TestModelNoticesALostPage(t *testing.T) {
	method, _ := Probe()
	for seed := range uint64(20) {
		h := startHelper(t, "model", fmt.Sprint(seed))
		s := newShadow(t, h.pid, &forgetful{Tracker: attach(t, h.pid, method)})
		if _, err := runModel(t, h, s, rand.New(rand.NewPCG(seed, 0)), 20); errors.Is(err, errDiffers) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		// The lost page may have been written again before anybody looked.
	}
	t.Fatal("no lost page was noticed")
}
