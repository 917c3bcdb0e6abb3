package store

import (
	"errors"
	"syscall"
	"testing"
)

// A step that fails leaves the store as it was, and the next seal works.
func TestFailureAtAnyStep(t *testing.T) {
	broken := errors.New("broken")
	t.Run("for any reason", func(t *testing.T) { failAtEachStep(t, broken, broken) })
	t.Run("for lack of space", func(t *testing.T) { failAtEachStep(t, syscall.ENOSPC, ErrDiskFull) })
}

func failAtEachStep(t *testing.T, cause, want error) {
	keys := fixedKeys{}
	for at := 0; ; at++ {
		dir := t.TempDir()
		s, err := Open(dir, keys, Options{SegmentBytes: 8 << 10, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		first, content := stageOne(t, 1)
		if _, err := s.Seal(t.Context(), crashKey, Generation{}, first, crashMemory(1, 0)); err != nil {
			t.Fatal(err)
		}
		used := s.Used()
		n := 0
		s.disk.before = func(st step) error {
			n++
			// Only removal still works: it needs no space.
			if n > at && st.kind != stepRemove && st.kind != stepSyncFolder {
				return cause
			}
			return nil
		}
		second, secondContent := stageOne(t, 2)
		_, err = s.Seal(t.Context(), crashKey, Generation{Base: 1}, second, crashMemory(2, 1))
		s.disk.before = nil
		if err == nil {
			t.Logf("%d steps", n)
			s.Close()
			break
		}
		if !errors.Is(err, want) {
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
		if _, err := s.Seal(t.Context(), crashKey, Generation{Base: 1}, second, crashMemory(2, 1)); err != nil {
			t.Fatalf("step %d: the next seal: %v", at, err)
		}
		if err := checkContent(t, s, 2, secondContent); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		s.Close()
	}
}

// Where there is room for what is new, but not for what is copied out of worn
// segments, nothing is copied.
func TestNoRoomToCompact(t *testing.T) {
	for _, room := range []struct {
		name string
		want error
		set  func(s *Store, bytes int64)
	}{
		{"disk", ErrDiskFull, func(s *Store, bytes int64) {
			sizes := map[string]int64{}
			s.disk.before = func(st step) error {
				switch n := int64(len(st.data)); st.kind {
				case stepWrite:
					if n > bytes {
						return syscall.ENOSPC
					}
					bytes -= n
					sizes[st.path] += n
				case stepRemove, stepCreate:
					bytes += sizes[st.path]
					delete(sizes, st.path)
				case stepRename:
					sizes[st.to] = sizes[st.path]
					delete(sizes, st.path)
				default:
				}
				return nil
			}
		}},
		{"budget", ErrBudget, func(s *Store, bytes int64) { s.options.MaxBytes = s.Used() + bytes }},
	} {
		t.Run(room.name, func(t *testing.T) {
			s := openIn(t, t.TempDir(), Options{})
			staged := t.TempDir()
			if _, err := s.Seal(t.Context(), crashKey, Generation{}, staged, crashMemory(1, 0)); err != nil {
				t.Fatal(err)
			}
			// Generation 2 has 30 new pages, and 2 that are worth copying.
			const fresh = 30*(pageSize+sealOverhead) + 3000
			room.set(s, fresh)
			gen, err := s.Seal(t.Context(), crashKey, Generation{Base: 1}, staged, crashMemory(2, 1))
			if err != nil {
				t.Fatal(err)
			}
			if gen.NewBytes > fresh {
				t.Errorf("%d bytes were written", gen.NewBytes)
			}
			if err := checkCrashMemory(t, s, 2); err != nil {
				t.Error(err)
			}
			s.disk.before = nil
			room.set(s, 10*pageSize)
			if _, err := s.Seal(t.Context(), crashKey, Generation{Base: 2, Number: 9}, staged, crashMemory(9, 2)); !errors.Is(err, room.want) {
				t.Errorf("want %v, got %v", room.want, err)
			}
		})
	}
}
