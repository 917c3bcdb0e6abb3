package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// mustSealMemory seals the memory of crashMemory, built on base unless that is 0.
func mustSealMemory(t testing.TB, s *Store, key Key, number, base int64, takenAt time.Time) {
	t.Helper()
	if _, err := s.Seal(t.Context(), key, Generation{Number: number, Base: base, TakenAt: takenAt}, t.TempDir(), crashMemory(number, base)); err != nil {
		t.Fatal(err)
	}
}

// The budget holds after every step, with memory as with files. Generations that
// others are built on may go: what is shared stays.
func TestBudgetOfMemory(t *testing.T) {
	const budget = 600_000 // a generation of 32 pages in full takes some 132 kB
	dir := t.TempDir()
	s := openIn(t, dir, Options{MaxBytes: budget, SegmentBytes: 40_000})
	s.disk.before = func(st step) error {
		if total := bytesBelow(t, dir) + int64(len(st.data)); total > budget {
			return fmt.Errorf("%d bytes with %s of %s", total, st.kind, st.path)
		}
		return nil
	}
	other := Key{Namespace: "bank", PodUID: "pod"}
	start := time.Now()
	mustSealMemory(t, s, other, 1, 0, start)
	mustSealMemory(t, s, other, 2, 1, start.Add(time.Second))
	for n := int64(1); n <= 12; n++ {
		mustSealMemory(t, s, crashKey, n, n-1, start.Add(time.Duration(n)*time.Minute))
	}
	if got := heldNumbers(t, s, other); !slices.Equal(got, []int64{2}) {
		t.Errorf("of the pod with the oldest generations %v is left", got)
	}
	got := heldNumbers(t, s, crashKey)
	if len(got) == 0 || got[0] != 12 || len(got) == 12 || !slices.IsSortedFunc(got, func(a, b int64) int { return int(b - a) }) {
		t.Errorf("%v is left", got)
	}
	for i, number := range got {
		if number != 12-int64(i) {
			t.Errorf("%v is left: an older one stayed while a newer one went", got)
		}
		if err := checkCrashMemory(t, s, number); err != nil {
			t.Error(err)
		}
	}

	// What is imported obeys the same budget.
	from := openIn(t, t.TempDir(), Options{})
	third := Key{Namespace: "third", PodUID: "pod"}
	mustSealMemory(t, from, third, 1, 0, start)
	if err := importAll(t, s, from, third, 1); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		key := Key{Namespace: fmt.Sprint("n", i), PodUID: "pod"}
		mustSealMemory(t, from, key, 1, 0, start)
		err := importAll(t, s, from, key, 1)
		if err == nil && i < 9 {
			continue
		}
		if !errors.Is(err, ErrBudget) {
			t.Fatalf("want ErrBudget, got %v", err)
		}
		break
	}
	// Only newest generations are left, and nothing else is counted.
	keys, err := s.Pods()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if got := heldNumbers(t, s, key); len(got) > 1 {
			t.Errorf("of %s %v is left", key, got)
		}
	}
	used := s.Used()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if again := openIn(t, dir, Options{}).Used(); again != used {
		t.Errorf("%d bytes are there, and %d were counted", again, used)
	}
}

func bytesBelow(t testing.TB, dir string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

func importAll(t testing.TB, to, from *Store, key Key, number int64) error {
	t.Helper()
	files, err := from.Files(key, number)
	if err != nil {
		t.Fatal(err)
	}
	imp, err := to.Import(key)
	if err != nil {
		return err
	}
	defer imp.Close()
	for _, f := range files {
		data, err := from.disk.read(key.path(f.GetName()), maxManifest)
		if err != nil {
			t.Fatal(err)
		}
		in, err := imp.Create(f.GetName(), f.GetSize())
		if err != nil {
			return err
		}
		if _, err := in.Write(data); err != nil {
			in.Abort()
			return err
		}
		if err := in.Commit(t.Context()); err != nil {
			return err
		}
	}
	return nil
}

// A real file system that is full in the middle of memory.
func TestDiskFullOfMemory(t *testing.T) {
	dir := smallDisk(t, "size=512k")
	s := openIn(t, dir, Options{SegmentBytes: 64 << 10})
	mustSealMemory(t, s, crashKey, 1, 0, time.Now())
	used := s.Used()
	large := []memory.Process{{Container: "c", PID: 2}}
	for page := range uint64(256) {
		large[0].Fresh = append(large[0].Fresh, memory.Stretch{Start: wearStart + page*pageSize, Data: crashPage(int64(page), 16)})
	}
	large[0].Pages = memory.Set{{Start: wearStart, End: wearStart + 256*pageSize}}
	for i := range large[0].Fresh {
		large[0].Fresh[i].Data[0], large[0].Fresh[i].Data[1] = byte(i), 77 // no two alike
	}
	if _, err := s.Seal(t.Context(), crashKey, Generation{}, t.TempDir(), large); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("want ErrDiskFull, got %v", err)
	}
	if s.Used() != used {
		t.Errorf("%d bytes became %d", used, s.Used())
	}
	if got := heldNumbers(t, s, crashKey); !slices.Equal(got, []int64{1}) {
		t.Errorf("%v is left", got)
	}
	if err := checkCrashMemory(t, s, 1); err != nil {
		t.Error(err)
	}
	mustSealMemory(t, s, crashKey, 2, 1, time.Now())
	if err := checkCrashMemory(t, s, 2); err != nil {
		t.Error(err)
	}
}

func TestRetention(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		ages []time.Duration // of generations, the newest first
		keep Retention
		want int
	}{
		"by count":                          {[]time.Duration{0, 1, 2, 3}, Retention{Count: 2}, 2},
		"fewer than the count":              {[]time.Duration{0, 1}, Retention{Count: 5}, 2},
		"by age":                            {[]time.Duration{0, 10, 20, 30}, Retention{Count: 9, Age: 20}, 3},
		"by both, the count is stricter":    {[]time.Duration{0, 10, 20, 30}, Retention{Count: 2, Age: 20}, 2},
		"by both, the age is stricter":      {[]time.Duration{0, 10, 20, 30}, Retention{Count: 3, Age: 10}, 2},
		"the newest stays, however old":     {[]time.Duration{100, 110}, Retention{Count: 3, Age: 10}, 1},
		"what is wanted beside those":       {[]time.Duration{0, 1, 2, 3}, Retention{Count: 1, Also: []int64{2, 9}}, 2},
		"what a fast clock took is not old": {[]time.Duration{-100, -110}, Retention{Count: 3, Age: 10}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := openIn(t, t.TempDir(), Options{})
			for i, age := range slices.Backward(c.ages) {
				mustSeal(t, s, crashKey, byte(i), now.Add(-age))
			}
			if err := s.retain(t.Context(), crashKey, c.keep, now); err != nil {
				t.Fatal(err)
			}
			got := heldNumbers(t, s, crashKey)
			if len(got) != c.want || got[0] != int64(len(c.ages)) {
				t.Errorf("%v is left, want the newest %d", got, c.want)
			}
		})
	}
	s := openIn(t, t.TempDir(), Options{})
	for _, wrong := range []Retention{{}, {Count: -1}, {Count: 1, Age: -1}} {
		if err := s.Retain(crashKey, wrong); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// smallDisk mounts a small file system.
func smallDisk(t testing.TB, options string) string {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("needs root, to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
