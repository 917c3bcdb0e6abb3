package store

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// promise is what must hold from one step on.
type promise struct {
	step     int
	must     map[int64]bool // these generations can be restored
	latest   int64          // no lower number is given out again
	finished string
}

// A power cut after any step leaves every generation that was promised
// restorable, no generation that is half there, and a store that goes on.
func TestPowerCutAtAnyStep(t *testing.T) {
	keys := fixedKeys{}
	r := &recorder{}
	contents := map[int64]map[string]string{}
	promises := []promise{{must: map[int64]bool{}}}

	s, err := Open(t.TempDir(), keys, Options{SegmentBytes: 8 << 10, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.disk.before = r.before
	// While something is removed, what goes may or may not be there any more.
	promised := func(what string, latest int64, numbers ...int64) {
		must := map[int64]bool{}
		for _, n := range numbers {
			must[n] = true
		}
		promises = append(promises, promise{len(r.steps), must, latest, what})
	}
	seal := func(n, base int64) {
		dir, content := stageOne(t, int(n))
		contents[n] = content
		if _, err := s.Seal(t.Context(), crashKey, Generation{Number: n, Base: base, TakenAt: time.Now()}, dir, crashMemory(n, base)); err != nil {
			t.Fatal(err)
		}
	}
	seal(1, 0)
	promised("seal 1", 1, 1)
	seal(2, 1)
	promised("seal 2, retain begins", 2, 2)
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
		t.Fatal(err)
	}
	promised("retain", 2, 2)
	seal(3, 2)
	promised("seal 3", 3, 2, 3)
	importFrom(t, s, keys, contents)
	promised("import 4", 4, 2, 3, 4)
	seal(5, 4)
	promised("seal 5", 5, 2, 3, 4, 5)
	promised("remove begins", 0)
	if err := s.Remove(crashKey); err != nil {
		t.Fatal(err)
	}
	seal(6, 0)
	promised("seal 6", 6, 6)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d steps", len(r.steps))

	verify := func(t testing.TB, cut int, draw func(string, int) int) error {
		p := newPlatter()
		for _, s := range r.steps[:cut] {
			p.apply(s)
		}
		dir := t.TempDir()
		if err := p.crash(dir, draw); err != nil {
			return err
		}
		var due promise
		for _, candidate := range promises {
			if candidate.step <= cut {
				due = candidate
			}
		}
		return checkAfterCrash(t, dir, keys, due, contents)
	}
	lost := map[string]func(string, int) int{
		"nothing":    func(_ string, most int) int { return most },
		"everything": func(string, int) int { return 0 },
	}
	for _, folder := range []string{segmentsFolder, manifestsFolder} {
		name := "unsynced names in " + crashKey.path(folder)
		lost["only "+name] = func(label string, most int) int {
			if label == name {
				return 0
			}
			return most
		}
	}
	for cut := range len(r.steps) + 1 {
		for what, draw := range lost {
			if err := verify(t, cut, draw); err != nil {
				t.Fatalf("cut after %d steps, %s lost, next is %s: %v", cut, what, nextStep(r.steps, cut), err)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		cut := rapid.IntRange(0, len(r.steps)).Draw(rt, "cut")
		err := verify(t, cut, func(label string, most int) int { return rapid.IntRange(0, most).Draw(rt, label) })
		if err != nil {
			rt.Fatalf("next is %s: %v", nextStep(r.steps, cut), err)
		}
	})
}

func nextStep(steps []step, cut int) string {
	if cut == len(steps) {
		return "nothing"
	}
	return fmt.Sprint(steps[cut].kind, " ", steps[cut].path)
}

// checkAfterCrash opens what a power cut left, and returns what is wrong with it.
func checkAfterCrash(t testing.TB, dir string, keys KeySource, due promise, contents map[int64]map[string]string) error {
	s, err := Open(dir, keys, Options{Workers: 1})
	if err != nil {
		return err
	}
	defer s.Close()
	list, err := s.List(crashKey)
	if err != nil {
		return err
	}
	left := maps.Clone(due.must)
	for _, gen := range list {
		delete(left, gen.Number)
		if err := checkContent(t, s, gen.Number, contents[gen.Number]); err != nil {
			return fmt.Errorf("after %s, listed: %w", due.finished, err)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("after %s, generations %v are gone", due.finished, slices.Sorted(maps.Keys(left)))
	}
	numbers, err := s.numbers(crashKey)
	if err != nil {
		return err
	}
	if len(numbers) != len(list) {
		return fmt.Errorf("after %s, there are manifests %v of which %d can be restored", due.finished, numbers, len(list))
	}

	// The store goes on from there.
	if next, err := s.Next(crashKey); err != nil || next <= due.latest {
		return fmt.Errorf("number %d is given out again (%w)", next, err)
	}
	staged, content := stageOne(t, 99)
	base := int64(0)
	if len(list) > 0 {
		base = list[0].Number
	}
	gen, err := s.Seal(t.Context(), crashKey, Generation{Number: 99, Base: base}, staged, crashMemory(99, base))
	if err != nil {
		return fmt.Errorf("seal after the crash: %w", err)
	}
	if err := checkContent(t, s, gen.Number, content); err != nil {
		return err
	}
	if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
		return fmt.Errorf("retain after the crash: %w", err)
	}
	if err := checkContent(t, s, gen.Number, content); err != nil {
		return fmt.Errorf("after retain: %w", err)
	}
	return checkNoLeftovers(s, dir)
}

// checkNoLeftovers looks for files that nothing refers to, and compares the
// sizes with what the store has counted.
func checkNoLeftovers(s *Store, dir string) error {
	var total int64
	referred := map[string]bool{}
	files, err := s.Files(crashKey, mustLatest(s))
	if err != nil {
		return err
	}
	for _, f := range files {
		referred[crashKey.path(f.GetName())] = true
	}
	err = filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		total += info.Size()
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		if !referred[relative] && path.Base(relative) != latestName && relative != "lock" {
			return fmt.Errorf("%s is left over", relative)
		}
		return nil
	})
	if err == nil && total != s.Used() {
		err = fmt.Errorf("the files have %d bytes, and %d are counted", total, s.Used())
	}
	return err
}

func mustLatest(s *Store) int64 {
	latest, err := s.latest(crashKey)
	if err != nil {
		panic(err)
	}
	return latest
}

// importFrom gives the store generation 4, from another store.
func importFrom(t testing.TB, s *Store, keys KeySource, contents map[int64]map[string]string) {
	t.Helper()
	other, err := Open(t.TempDir(), keys, Options{SegmentBytes: 8 << 10, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	dir, content := stageOne(t, 4)
	contents[4] = content
	if _, err := other.Seal(t.Context(), crashKey, Generation{Number: 4}, dir, crashMemory(4, 0)); err != nil {
		t.Fatal(err)
	}
	files, err := other.Files(crashKey, 4)
	if err != nil {
		t.Fatal(err)
	}
	imp, err := s.Import(crashKey)
	if err != nil {
		t.Fatal(err)
	}
	defer imp.Close()
	for _, f := range files {
		data, err := other.disk.read(crashKey.path(f.GetName()), maxManifest)
		if err != nil {
			t.Fatal(err)
		}
		in, err := imp.Create(f.GetName(), f.GetSize())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := in.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
