package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// archiveOf is a tar file of large files, and where each one's content lies in it.
type archiveOf struct {
	content []byte
	places  map[string]Kept // as a stretch of this archive: its base's are not set
}

const archiveName = "volumes/data.tar"

func newArchive(t testing.TB, entries ...tarEntry) archiveOf {
	t.Helper()
	a := archiveOf{content: tarOf(t, entries...), places: map[string]Kept{}}
	for _, e := range entries {
		at := bytes.Index(a.content, e.content)
		a.places[e.name] = Kept{Path: archiveName, Offset: int64(at), Length: (int64(len(e.content)) + tarBlock - 1) / tarBlock * tarBlock}
	}
	return a
}

// seal stores the archive with the named files kept: their content is not in what is staged.
func (a archiveOf) seal(t testing.TB, s *Store, key Key, base int64, before archiveOf, keep ...string) (Generation, error) {
	t.Helper()
	staged := bytes.Clone(a.content)
	var kept []Kept
	for _, name := range keep {
		k := a.places[name]
		k.BasePath, k.BaseOffset = archiveName, before.places[name].Offset
		kept = append(kept, k)
		clear(staged[k.Offset:][:k.Length])
		rand.Shuffle(len(kept), func(i, j int) { kept[i], kept[j] = kept[j], kept[i] })
	}
	dir := t.TempDir()
	file := filepath.Join(dir, archiveName)
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, staged, 0o600)); err != nil {
		t.Fatal(err)
	}
	return s.Seal(t.Context(), key, Generation{TakenAt: time.Now(), Base: base}, dir, nil, kept...)
}

func (a archiveOf) check(t testing.TB, s *Store, key Key, number int64) {
	t.Helper()
	r, err := s.OpenReader(t.Context(), key, number, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dir := filepath.Join(t.TempDir(), "generation")
	if err := r.Materialize(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, archiveName))
	if err != nil || !bytes.Equal(got, a.content) {
		t.Fatalf("generation %d has another archive (%d of %d bytes): %v", number, len(got), len(a.content), err)
	}
}

// TestKept seals generation after generation of an archive in which some files change, one
// grows, and the others, whose content is not even staged, move. Segments wear out meanwhile.
func TestKept(t *testing.T) {
	s := openIn(t, t.TempDir(), Options{SegmentBytes: 1 << 20})
	key := Key{Namespace: "shop", PodUID: "pod"}
	random := rand.New(rand.NewPCG(7, 7))
	var entries []tarEntry
	for i := range 12 {
		entries = append(entries, tarEntry{fmt.Sprintf("file%d", i), randomBytes(uint64(i), chunkSize+random.IntN(400<<10))})
	}
	entries = append(entries, tarEntry{"holes", append(make([]byte, 300<<10), append(randomBytes(99, 100<<10), make([]byte, 200<<10)...)...)})
	before := newArchive(t, entries...)
	gen, err := before.seal(t, s, key, 0, archiveOf{})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 25 {
		changed := map[string]bool{}
		for range 1 + random.IntN(3) {
			e := &entries[random.IntN(12)]
			e.content = randomBytes(random.Uint64(), chunkSize+random.IntN(400<<10))
			changed[e.name] = true
		}
		random.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		now := newArchive(t, entries...)
		var keep []string
		var fresh int64
		for _, e := range entries {
			if changed[e.name] {
				fresh += int64(len(e.content))
			} else if random.IntN(8) > 0 { // any other may be staged, too
				keep = append(keep, e.name)
			}
		}
		next, err := now.seal(t, s, key, gen.Number, before, keep...)
		if err != nil {
			t.Fatal(err)
		}
		now.check(t, s, key, next.Number)
		// What is copied out of worn segments comes on top of what is new.
		if next.NewBytes > 3*fresh+256<<10 {
			t.Errorf("round %d: %d bytes are new, and %d were written", round, fresh, next.NewBytes)
		}
		before, gen = now, next
	}
}

func TestKeptThatTheBaseHasNot(t *testing.T) {
	s := openIn(t, t.TempDir(), Options{})
	key := Key{Namespace: "shop", PodUID: "pod"}
	a := newArchive(t, tarEntry{"a", randomBytes(1, 200<<10)}, tarEntry{"b", randomBytes(2, 200<<10)})
	gen, err := a.seal(t, s, key, 0, archiveOf{})
	if err != nil {
		t.Fatal(err)
	}
	shifted := func(by int64) archiveOf {
		k := a.places["a"]
		k.Offset += by
		return archiveOf{places: map[string]Kept{"a": k}}
	}
	for name, c := range map[string]struct {
		base   int64
		before archiveOf
		keep   string
	}{
		"no base":            {0, a, "a"},
		"a base that is not": {gen.Number + 5, a, "a"},
		"within a chunk":     {gen.Number, shifted(512), "a"},
		"past its end":       {gen.Number, shifted(10 << 20), "a"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := a.seal(t, s, key, c.base, c.before, c.keep); !errors.Is(err, ErrNoBase) {
				t.Errorf("%v, want ErrNoBase", err)
			}
		})
	}
	latest, err := s.latest(key)
	if err != nil || latest != gen.Number {
		t.Errorf("the newest generation is %d: %v", latest, err)
	}
}
