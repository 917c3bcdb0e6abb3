package store

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type tarEntry struct {
	name    string
	content []byte
}

func tarOf(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.content)), Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// randomBytes do not compress, and are the same for the same seed.
func randomBytes(seed uint64, n int) []byte {
	content := make([]byte, n)
	source := rand.New(rand.NewPCG(seed, 0))
	for i := range content {
		content[i] = byte(source.Uint32())
	}
	return content
}

// A file that grows must not make everything new that comes behind it in the archive.
func TestArchiveThatShifts(t *testing.T) {
	s := openIn(t, t.TempDir(), Options{})
	key := Key{Namespace: "shop", PodUID: "pod"}
	seal := func(entries ...tarEntry) Generation {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "data.tar"), tarOf(t, entries...), 0o600); err != nil {
			t.Fatal(err)
		}
		gen, err := s.Seal(t.Context(), key, Generation{TakenAt: time.Now()}, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return gen
	}
	large := []tarEntry{{"table", randomBytes(1, 3<<20+100)}, {"index", randomBytes(2, 1<<20)}}
	var small []tarEntry
	for i := range 300 {
		small = append(small, tarEntry{fmt.Sprintf("small/%d", i), randomBytes(uint64(10+i), 8000)})
	}
	first := seal(append([]tarEntry{{"a", randomBytes(3, 100)}, large[0]}, append(small, large[1])...)...)
	if first.NewBytes < 6<<20 {
		t.Fatalf("the first generation stored %d bytes", first.NewBytes)
	}
	// The first file grows by a block, and one comes and one goes among the small ones.
	changed := append([]tarEntry{{"a", randomBytes(3, 700)}, large[0], {"new", randomBytes(4, 5000)}}, append(small[1:], large[1])...)
	second := seal(changed...)
	if second.NewBytes > 512<<10 {
		t.Errorf("a changed kilobyte of %d bytes made %d bytes new", second.Bytes, second.NewBytes)
	}
}

func FuzzCutByEntries(f *testing.F) {
	file := tarOf(f, tarEntry{"a", make([]byte, 10)}, tarEntry{"b", make([]byte, 200<<10)}, tarEntry{"c", nil}, tarEntry{"d", make([]byte, 64<<10)})
	f.Add(file, 0)
	f.Add(file[:100<<10], 0)
	f.Add(file[:1000], 1<<20)
	f.Fuzz(func(t *testing.T, file []byte, more int) {
		if more < 0 || more > 16<<20 {
			return
		}
		size := int64(len(file) + more) // it may have become shorter meanwhile
		var total int64
		for _, length := range cutByEntries(bytes.NewReader(file), size) {
			if length == 0 || length > chunkSize {
				t.Fatalf("chunk of %d bytes", length)
			}
			total += int64(length)
		}
		if total != size {
			t.Fatalf("%d bytes were cut into %d", size, total)
		}
	})
}
