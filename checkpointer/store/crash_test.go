package store

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// recorder takes down every step that a store makes.
type recorder struct {
	steps []step
}

func (r *recorder) before(s step) error {
	s.data = slices.Clone(s.data)
	r.steps = append(r.steps, s)
	return nil
}

// platter is a model of a disk with a write-back cache. A file's content lasts
// from its sync on; a name that was made, changed or removed lasts from the sync of
// its folder on. Before that, each may or may not have reached the disk, but
// changes of one folder reach it in their order.
type platter struct {
	folders map[string]*modelFolder
}

type modelFolder struct {
	entries map[string]*modelFile // as on the disk; a folder has a nil file
	pending []func(map[string]*modelFile)
	live    map[string]*modelFile // as a process sees it
}

type modelFile struct {
	content []byte
	synced  int // bytes of content that last
}

func newPlatter() *platter {
	return &platter{folders: map[string]*modelFolder{".": {entries: map[string]*modelFile{}, live: map[string]*modelFile{}}}}
}

func (p *platter) apply(s step) {
	folder := p.folders[path.Dir(s.path)]
	base := path.Base(s.path)
	change := func(f func(map[string]*modelFile)) {
		f(folder.live)
		folder.pending = append(folder.pending, f)
	}
	switch s.kind {
	case stepMkdir:
		p.folders[s.path] = &modelFolder{entries: map[string]*modelFile{}, live: map[string]*modelFile{}}
		change(func(m map[string]*modelFile) { m[base] = nil })
	case stepCreate:
		f := &modelFile{}
		change(func(m map[string]*modelFile) { m[base] = f })
	case stepWrite:
		f := folder.live[base]
		f.content = append(f.content, s.data...)
	case stepSync:
		f := folder.live[base]
		f.synced = len(f.content)
	case stepRename:
		f, to := folder.live[base], path.Base(s.to)
		change(func(m map[string]*modelFile) {
			delete(m, base)
			m[to] = f
		})
	case stepSyncFolder:
		own := p.folders[s.path]
		for _, f := range own.pending {
			f(own.entries)
		}
		own.pending = nil
	case stepRemove:
		change(func(m map[string]*modelFile) { delete(m, base) })
	}
}

// crash writes what is on the disk after a power cut into a real folder. Of what
// was not made to last, draw decides what is there.
func (p *platter) crash(dir string, draw func(label string, most int) int) error {
	var write func(name string, entries map[string]*modelFile) error
	write = func(name string, entries map[string]*modelFile) error {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
		for _, base := range slices.Sorted(maps.Keys(entries)) {
			full, f := path.Join(name, base), entries[base]
			if f == nil {
				if err := write(full, p.survivors(full, draw)); err != nil {
					return err
				}
				continue
			}
			n := f.synced + draw("unsynced bytes of "+full, len(f.content)-f.synced)
			if err := os.WriteFile(filepath.Join(dir, full), f.content[:n], 0o600); err != nil {
				return err
			}
		}
		return nil
	}
	return write(".", p.survivors(".", draw))
}

func (p *platter) survivors(name string, draw func(string, int) int) map[string]*modelFile {
	folder := p.folders[name]
	entries := maps.Clone(folder.entries)
	for _, f := range folder.pending[:draw("unsynced names in "+name, len(folder.pending))] {
		f(entries)
	}
	return entries
}

var crashKey = Key{Namespace: "shop", PodUID: "pod"}

// noise returns 20 kB that do not compress: more than a segment of these tests.
func noise(seed byte) string {
	data := make([]byte, 20_000)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return string(data)
}

// stageOne writes a small staged generation that shares half of its content
// with every other.
func stageOne(t testing.TB, n int) (dir string, content map[string]string) {
	t.Helper()
	dir = t.TempDir()
	content = map[string]string{
		"shared": noise(0),
		"own":    noise(byte(n)),
	}
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, content
}

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
	seal := func(n int64) {
		dir, content := stageOne(t, int(n))
		contents[n] = content
		if _, err := s.Seal(t.Context(), crashKey, Generation{Number: n, TakenAt: time.Now()}, dir, nil); err != nil {
			t.Fatal(err)
		}
	}
	seal(1)
	promised("seal 1", 1, 1)
	seal(2)
	promised("seal 2, retain begins", 2, 2)
	if err := s.Retain(crashKey, 1); err != nil {
		t.Fatal(err)
	}
	promised("retain", 2, 2)
	seal(3)
	promised("seal 3", 3, 2, 3)
	importFrom(t, s, keys, contents)
	promised("import 4", 4, 2, 3, 4)
	promised("remove begins", 0)
	if err := s.Remove(crashKey); err != nil {
		t.Fatal(err)
	}
	seal(5)
	promised("seal 5", 5, 5)
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
	staged, content := stageOne(t, 99)
	gen, err := s.Seal(t.Context(), crashKey, Generation{}, staged, nil)
	if err != nil {
		return fmt.Errorf("seal after the crash: %w", err)
	}
	if gen.Number <= due.latest {
		return fmt.Errorf("number %d is given out again", gen.Number)
	}
	if err := checkContent(t, s, gen.Number, content); err != nil {
		return err
	}
	if err := s.Retain(crashKey, 1); err != nil {
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

func checkContent(t testing.TB, s *Store, number int64, want map[string]string) error {
	dir := filepath.Join(t.TempDir(), "restored")
	if err := s.Materialize(t.Context(), crashKey, number, dir); err != nil {
		return err
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if string(got) != text {
			return fmt.Errorf("generation %d came back with other content", number)
		}
	}
	return os.RemoveAll(dir)
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
	if _, err := other.Seal(t.Context(), crashKey, Generation{Number: 4}, dir, nil); err != nil {
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

// A step that fails leaves the store as it was, and the next seal works.
func TestFailureAtAnyStep(t *testing.T) {
	keys := fixedKeys{}
	broken := errors.New("broken")
	for at := 0; ; at++ {
		dir := t.TempDir()
		s, err := Open(dir, keys, Options{SegmentBytes: 8 << 10, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		first, content := stageOne(t, 1)
		if _, err := s.Seal(t.Context(), crashKey, Generation{}, first, nil); err != nil {
			t.Fatal(err)
		}
		used := s.Used()
		n := 0
		s.disk.before = func(st step) error {
			n++
			// Only removal still works: it needs no space.
			if n > at && st.kind != stepRemove && st.kind != stepSyncFolder {
				return broken
			}
			return nil
		}
		second, secondContent := stageOne(t, 2)
		_, err = s.Seal(t.Context(), crashKey, Generation{}, second, nil)
		s.disk.before = nil
		if err == nil {
			t.Logf("%d steps", n)
			s.Close()
			break
		}
		if !errors.Is(err, broken) {
			t.Fatalf("step %d: %v", at, err)
		}
		list, err := s.List(crashKey)
		if err != nil || len(list) != 1 || list[0].Number != 1 {
			t.Fatalf("step %d: the store lists %v: %v", at, list, err)
		}
		if err := checkContent(t, s, 1, content); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		if err := checkNoLeftovers(s, dir); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		if s.Used() != used {
			t.Fatalf("step %d: %d bytes became %d", at, used, s.Used())
		}
		if _, err := s.Seal(t.Context(), crashKey, Generation{}, second, nil); err != nil {
			t.Fatalf("step %d: the next seal: %v", at, err)
		}
		if err := checkContent(t, s, 2, secondContent); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		s.Close()
	}
}
