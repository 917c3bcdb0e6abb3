package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// stageNoise writes a staged generation of one file that does not compress.
func stageNoise(t testing.TB, seed byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "own"), []byte(noise(seed)), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openIn(t testing.TB, dir string, options Options) *Store {
	t.Helper()
	s, err := Open(dir, fixedKeys{}, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustSeal(t testing.TB, s *Store, key Key, seed byte, takenAt time.Time) {
	t.Helper()
	if _, err := s.Seal(t.Context(), key, Generation{TakenAt: takenAt}, stageNoise(t, seed), nil); err != nil {
		t.Fatal(err)
	}
}

func heldNumbers(t testing.TB, s *Store, key Key) []int64 {
	t.Helper()
	list, err := s.List(key)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int64
	for _, gen := range list {
		numbers = append(numbers, gen.Number)
	}
	return numbers
}

func TestBudget(t *testing.T) {
	// One generation takes some 20.7 kB.
	s := openIn(t, t.TempDir(), Options{MaxBytes: 85_000})
	other := Key{Namespace: "bank", PodUID: "pod"}
	start := time.Now()
	mustSeal(t, s, crashKey, 1, start)
	mustSeal(t, s, crashKey, 2, start.Add(3*time.Second))
	mustSeal(t, s, other, 3, start.Add(1*time.Second))
	mustSeal(t, s, other, 4, start.Add(4*time.Second))
	if used := s.Used(); used > 85_000 {
		t.Fatalf("%d bytes are used", used)
	}

	// The oldest that is not its pod's newest goes first, whoever's it is.
	mustSeal(t, s, other, 5, start.Add(5*time.Second))
	if got := heldNumbers(t, s, crashKey); !slices.Equal(got, []int64{2}) {
		t.Errorf("of the first pod %v is left", got)
	}
	if got := heldNumbers(t, s, other); !slices.Equal(got, []int64{3, 2, 1}) {
		t.Errorf("of the second pod %v is left", got)
	}
	third := Key{Namespace: "third", PodUID: "pod"}
	mustSeal(t, s, third, 6, start)
	fourth := Key{Namespace: "fourth", PodUID: "pod"}
	mustSeal(t, s, fourth, 7, start)
	for _, key := range []Key{crashKey, other, third, fourth} {
		if got := heldNumbers(t, s, key); len(got) != 1 {
			t.Errorf("of %s %v is left", key, got)
		}
	}

	// Now only newest generations are left, and there is room for no other.
	before := s.Used()
	if _, err := s.Seal(t.Context(), Key{Namespace: "fifth", PodUID: "pod"}, Generation{}, stageNoise(t, 8), nil); !errors.Is(err, ErrBudget) {
		t.Fatalf("want ErrBudget, got %v", err)
	}
	if s.Used() != before {
		t.Errorf("a seal without room left %d bytes", s.Used()-before)
	}
	for _, key := range []Key{crashKey, other, third, fourth} {
		if err := s.Verify(t.Context(), key, heldNumbers(t, s, key)[0]); err != nil {
			t.Error(err)
		}
	}
	// A pod that goes makes room.
	if err := s.Remove(fourth); err != nil {
		t.Fatal(err)
	}
	mustSeal(t, s, crashKey, 9, start.Add(time.Minute))
}

func TestUsedSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	mustSeal(t, s, crashKey, 1, time.Now())
	mustSeal(t, s, crashKey, 2, time.Now())
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
		t.Fatal(err)
	}
	used := s.Used()
	if _, err := Open(dir, fixedKeys{}, Options{}); err == nil {
		t.Fatal("two have the store open")
	}
	s.Close()
	if again := openIn(t, dir, Options{}).Used(); again != used {
		t.Errorf("%d bytes became %d", used, again)
	}
}

// A real file system that is full is reported as such, and what was there stays.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "size=64k")
	s := openIn(t, dir, Options{})
	mustSeal(t, s, crashKey, 1, time.Now())
	used := s.Used()
	for seed := byte(2); ; seed++ {
		_, err := s.Seal(t.Context(), crashKey, Generation{}, stageNoise(t, seed), nil)
		if err == nil && seed < 10 {
			used = s.Used()
			continue
		}
		if !errors.Is(err, ErrDiskFull) {
			t.Fatalf("want ErrDiskFull, got %v", err)
		}
		break
	}
	if s.Used() != used {
		t.Errorf("%d bytes became %d", used, s.Used())
	}
	for _, number := range heldNumbers(t, s, crashKey) {
		if err := s.Verify(t.Context(), crashKey, number); err != nil {
			t.Error(err)
		}
	}
	if err := s.Materialize(t.Context(), crashKey, 1, filepath.Join(dir, "restored")); !errors.Is(err, ErrDiskFull) {
		t.Errorf("want ErrDiskFull, got %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "restored.partial")); err == nil {
		t.Error("half of a generation is left over")
	}
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
		t.Fatal(err)
	}
	mustSeal(t, s, crashKey, 20, time.Now())
}

// A generation that is being read is not taken away.
func TestReadersHoldTheirGeneration(t *testing.T) {
	s := openIn(t, t.TempDir(), Options{})
	mustSeal(t, s, crashKey, 1, time.Now())
	mustSeal(t, s, crashKey, 2, time.Now())
	release := s.Hold(crashKey, 1)
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), crashKey, 1); err != nil {
		t.Error(err)
	}
	if err := s.Remove(crashKey); !errors.Is(err, ErrInUse) {
		t.Errorf("want ErrInUse, got %v", err)
	}
	release()
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
		t.Fatal(err)
	}
	if got := heldNumbers(t, s, crashKey); !slices.Equal(got, []int64{2}) {
		t.Errorf("%v is left", got)
	}
}

// What arrived of a generation stays while the rest is on its way.
func TestImportHoldsItsSegments(t *testing.T) {
	s := openIn(t, t.TempDir(), Options{})
	mustSeal(t, s, crashKey, 1, time.Now())
	orphan := crashKey.path(segmentName(fileID{5}))
	imp, err := s.Import(crashKey)
	if err != nil {
		t.Fatal(err)
	}
	in, err := imp.Create(segmentName(fileID{5}), 100)
	if err != nil {
		t.Fatal(err)
	}
	content := header{kind: segmentKind, id: fileID{5}, generation: 2, keyID: "fixed"}.append(nil)
	if _, err := in.Write(append(content, make([]byte, 100-len(content))...)); err != nil {
		t.Fatal(err)
	}
	if err := in.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		_, err := s.disk.size(orphan)
		return err == nil
	}
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil || !there() {
		t.Errorf("the segment was removed while its import was open (%v)", err)
	}
	imp.Close()
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil || there() {
		t.Errorf("a segment without a manifest was not removed (%v)", err)
	}
}

// Long-lived pages do not keep alive every segment that they came with.
func TestWornSegmentsGo(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{SegmentBytes: 200_000})
	content := map[string]string{}
	live := 0
	for i := range 150 {
		content[fmt.Sprint("long", i%40)] = noise(byte(i % 40)) // stays, once it is there
		content["short"] = noise(byte(100 + i))
		live = 0
		staged := t.TempDir()
		for name, text := range content {
			live += len(text)
			if err := os.WriteFile(filepath.Join(staged, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Seal(t.Context(), crashKey, Generation{}, staged, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := s.Files(crashKey, 150)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > maxSegments+2 {
		t.Errorf("one generation has %d files", len(files))
	}
	if used := s.Used(); used > int64(live)*(spaceFactor+1) {
		t.Errorf("%d bytes of content take %d", live, used)
	}
	if err := checkContent(t, s, 150, maps.Clone(content)); err != nil {
		t.Error(err)
	}
}

// Everything at once, for the race detector: the store's promises hold.
func TestConcurrentUse(t *testing.T) {
	s := openIn(t, t.TempDir(), Options{SegmentBytes: 8 << 10})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	keys := []Key{crashKey, {Namespace: "shop", PodUID: "other"}}
	var staged []string
	for n := range byte(4) {
		staged = append(staged, stageNoise(t, n))
	}
	for _, key := range keys {
		mustSeal(t, s, key, 0, time.Now())
	}
	var readers, writers sync.WaitGroup
	for _, key := range keys {
		writers.Go(func() {
			for i := range 30 {
				if _, err := s.Seal(ctx, key, Generation{}, staged[i%len(staged)], nil); err != nil {
					t.Error(err)
				}
				if err := s.Retain(key, Retention{Count: 2}); err != nil {
					t.Error(err)
				}
			}
		})
		readers.Go(func() {
			for ctx.Err() == nil {
				list, err := s.List(key)
				if err != nil || len(list) == 0 {
					t.Errorf("List: %v, %v", list, err)
					return
				}
				gen := list[0]
				release := s.Hold(key, gen.Number)
				// It may have gone between the two lines above, but never in part.
				if err := s.Verify(t.Context(), key, gen.Number); err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				release()
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
}

// The number of a generation that turned out to be damaged, and was removed, is not used
// again: another node may have a generation of that number that is whole.
func TestNumberOfARemovedGeneration(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	key := Key{Namespace: "shop", PodUID: "pod"}
	mustSeal(t, s, key, 1, time.Now())
	mustSeal(t, s, key, 2, time.Now())
	if err := os.Truncate(filepath.Join(dir, key.path(manifestName(2))), 100); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openIn(t, dir, Options{})
	if err := s.Retain(key, Retention{Count: 5}); err != nil {
		t.Fatal(err)
	}
	if held := heldNumbers(t, s, key); !slices.Equal(held, []int64{1}) {
		t.Fatalf("it holds %v", held)
	}
	s.Close()
	s = openIn(t, dir, Options{})
	if next, err := s.Next(key); err != nil || next != 3 {
		t.Errorf("the next number is %d: %v", next, err)
	}
}
