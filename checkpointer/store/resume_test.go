package store_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

// interrupted is a store in which the import of a segment was given up after
// half of it.
type interrupted struct {
	t       *testing.T
	keys    *storetest.Keys
	dir     string
	store   *store.Store
	key     store.Key
	name    string
	content []byte
	half    int64
	hash    []byte
}

func interrupt(t *testing.T, options store.Options) *interrupted {
	t.Helper()
	s := &interrupted{t: t, keys: storetest.NewKeys(), dir: t.TempDir(), key: store.Key{Namespace: "shop", PodUID: "pod"}}
	fromDir := t.TempDir()
	from := s.openIn(fromDir, store.Options{})
	_, err := from.Seal(t.Context(), s.key, store.Generation{}, storetest.Tree{"file": string(storetest.Pages(1, 100))}.Write(t), nil)
	s.check(err)
	files, err := from.Files(s.key, 1)
	s.check(err)
	s.name = files[0].GetName()
	s.content, err = os.ReadFile(filepath.Join(fromDir, s.key.Namespace, s.key.PodUID, s.name))
	s.check(err)
	s.half = int64(len(s.content) / 2)
	s.hash, err = from.HashSegment(t.Context(), s.key, s.name, s.half)
	s.check(err)

	s.store = s.openIn(s.dir, options)
	imp := s.begin()
	in, err := imp.Create(s.name, int64(len(s.content)))
	s.check(err)
	_, err = in.Write(s.content[:s.half])
	s.check(err)
	in.Abort()
	imp.Close()
	s.wantPartial(s.half)
	return s
}

func (s *interrupted) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *interrupted) openIn(dir string, options store.Options) *store.Store {
	s.t.Helper()
	opened, err := store.Open(dir, s.keys, options)
	s.check(err)
	s.t.Cleanup(func() { opened.Close() })
	return opened
}

func (s *interrupted) begin() *store.Import {
	s.t.Helper()
	imp, err := s.store.Import(s.key)
	s.check(err)
	return imp
}

// wantPartial wants a partial of that size, or none for 0, and no other file.
func (s *interrupted) wantPartial(size int64) {
	s.t.Helper()
	partials, err := s.store.Partials(s.key)
	s.check(err)
	switch {
	case size == 0 && len(partials) > 0, size > 0 && (len(partials) != 1 || partials[0] != store.Partial{Name: s.name, Size: size}):
		s.t.Fatalf("want %d bytes left of %s, got %v", size, s.name, partials)
	}
	s.wantUsed()
}

// wantUsed wants the store to count the files that are there.
func (s *interrupted) wantUsed() {
	s.t.Helper()
	var bytes int64
	for name, content := range storetest.ReadTree(s.t, s.dir) {
		bytes += int64(len(content))
		if filepath.Ext(name) == ".tmp" {
			s.t.Errorf("%s is left over", name)
		}
	}
	if used := s.store.Used(); used != bytes {
		s.t.Fatalf("the store says that it uses %d bytes, and has %d", used, bytes)
	}
}

func TestImportGoesOn(t *testing.T) {
	s := interrupt(t, store.Options{})
	imp := s.begin()
	defer imp.Close()
	in, err := imp.Resume(t.Context(), s.name, int64(len(s.content)), s.half, s.hash)
	s.check(err)
	// What one import goes on with, no other does.
	if _, err := imp.Resume(t.Context(), s.name, int64(len(s.content)), s.half, s.hash); !errors.Is(err, store.ErrNoPartial) {
		t.Errorf("another import goes on with it as well: %v", err)
	}
	third := s.half + s.half/2
	_, err = in.Write(s.content[s.half:third])
	s.check(err)
	in.Abort()
	s.wantPartial(third)
	// It may go on from any place before, too.
	in, err = imp.Resume(t.Context(), s.name, int64(len(s.content)), s.half, s.hash)
	s.check(err)
	_, err = in.Write(s.content[s.half:])
	s.check(err)
	s.check(in.Commit(t.Context()))
	s.wantPartial(0)
	got, err := os.ReadFile(filepath.Join(s.dir, s.key.Namespace, s.key.PodUID, s.name))
	s.check(err)
	if string(got) != string(s.content) {
		t.Error("the two halves do not make the whole")
	}
}

func TestPartialIsNotTrusted(t *testing.T) {
	size := func(s *interrupted) int64 { return int64(len(s.content)) }
	for name, c := range map[string]struct {
		hurt   func(t *testing.T, file string)
		offset func(s *interrupted) int64
		want   error
	}{
		"another content": {hurt: func(t *testing.T, file string) {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("what a power cut left"), 70_000); err != nil {
				t.Fatal(err)
			}
		}, want: store.ErrNoPartial},
		"fewer bytes": {hurt: func(t *testing.T, file string) {
			if err := os.Truncate(file, 100); err != nil {
				t.Fatal(err)
			}
		}, want: store.ErrNoPartial},
		"no bytes": {hurt: func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}, want: store.ErrNoPartial},
		"a negative offset":     {offset: func(*interrupted) int64 { return -1 }, want: fs.ErrInvalid},
		"an offset of nothing":  {offset: func(*interrupted) int64 { return 0 }, want: fs.ErrInvalid},
		"an offset at the end":  {offset: size, want: fs.ErrInvalid},
		"an offset beyond that": {offset: func(s *interrupted) int64 { return size(s) + 1 }, want: fs.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := interrupt(t, store.Options{})
			if c.hurt != nil {
				c.hurt(t, filepath.Join(s.dir, s.key.Namespace, s.key.PodUID, s.name+".partial"))
				s.store.Close()
				s.store = s.openIn(s.dir, store.Options{}) // as after a restart
			}
			offset := s.half
			if c.offset != nil {
				offset = c.offset(s)
			}
			imp := s.begin()
			defer imp.Close()
			if _, err := imp.Resume(t.Context(), s.name, size(s), offset, s.hash); !errors.Is(err, c.want) {
				t.Fatalf("want %v, got %v", c.want, err)
			}
			if c.hurt != nil {
				s.wantPartial(0) // it would be in the way of every further attempt
			}
			s.wantUsed()
			in, err := imp.Create(s.name, size(s))
			s.check(err)
			_, err = in.Write(s.content)
			s.check(err)
			s.check(in.Commit(t.Context()))
		})
	}
}

func TestStalePartialsGo(t *testing.T) {
	age := func(s *interrupted) {
		old := time.Now().Add(-2 * time.Hour)
		s.check(os.Chtimes(filepath.Join(s.dir, s.key.Namespace, s.key.PodUID, s.name+".partial"), old, old))
	}
	t.Run("with a collection", func(t *testing.T) {
		s := interrupt(t, store.Options{})
		s.check(s.store.Retain(s.key, store.Retention{Count: 1}))
		s.wantPartial(s.half) // the next attempt may be under way
		age(s)
		s.check(s.store.Retain(s.key, store.Retention{Count: 1}))
		s.wantPartial(0)
	})
	t.Run("when the store opens", func(t *testing.T) {
		s := interrupt(t, store.Options{})
		s.store.Close()
		s.store = s.openIn(s.dir, store.Options{})
		s.wantPartial(s.half)
		age(s)
		s.store.Close()
		s.store = s.openIn(s.dir, store.Options{})
		s.wantPartial(0)
	})
	t.Run("with the pod", func(t *testing.T) {
		s := interrupt(t, store.Options{})
		s.check(s.store.Remove(s.key))
		s.wantPartial(0)
	})
	t.Run("when space is needed", func(t *testing.T) {
		s := interrupt(t, store.Options{MaxBytes: 500 << 10})
		other := store.Key{Namespace: "shop", PodUID: "other"}
		_, err := s.store.Seal(t.Context(), other, store.Generation{}, storetest.Tree{"file": string(storetest.Pages(2, 80))}.Write(t), nil)
		s.check(err)
		s.wantPartial(0)
	})
	t.Run("when the segment came whole", func(t *testing.T) {
		s := interrupt(t, store.Options{})
		imp := s.begin()
		in, err := imp.Create(s.name, int64(len(s.content)))
		s.check(err)
		_, err = in.Write(s.content)
		s.check(err)
		s.check(in.Commit(t.Context()))
		imp.Close()
		s.check(s.store.Retain(s.key, store.Retention{Count: 1}))
		s.wantPartial(0)
	})
}

func TestJunkIsNotKept(t *testing.T) {
	s := interrupt(t, store.Options{})
	imp := s.begin()
	defer imp.Close()
	other := "segments/" + "abababababababababababababababab" + ".seg"
	for name, content := range map[string][]byte{"no segment": make([]byte, 100_000), "another segment": s.content[:100_000]} {
		in, err := imp.Create(other, 200_000)
		s.check(err)
		if n, err := in.Write(content); err != nil || n != len(content) {
			t.Fatal(n, io.ErrShortWrite, err)
		}
		in.Abort()
		partials, err := s.store.Partials(s.key)
		s.check(err)
		if len(partials) != 1 || partials[0].Name != s.name {
			t.Errorf("%s is kept: %v", name, partials)
		}
	}
}
