package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// alter changes one byte of a file of a store.
func alter(t testing.TB, dir, name string) {
	t.Helper()
	full := filepath.Join(dir, name)
	content, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1
	if err := os.WriteFile(full, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// states says what a check found, in the order of pods and generations.
func states(found []Checked) []string {
	var list []string
	for _, c := range found {
		var damaged *Damaged
		state := "whole"
		switch {
		case errors.As(c.Err, &damaged):
			state = "damaged"
		case c.Err != nil:
			state = "error"
		}
		list = append(list, fmt.Sprintf("%s %d %s", c.Key, c.Number, state))
	}
	return list
}

func TestCheckAll(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	other := Key{Namespace: "bank", PodUID: "pod"}
	for n := int64(1); n <= 3; n++ {
		mustSealMemory(t, s, crashKey, n, n-1, time.Now())
	}
	mustSealMemory(t, s, other, 1, 0, time.Now())
	check := func(from *Store, want ...string) []Checked {
		t.Helper()
		found, err := from.CheckAll(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := states(found); !slices.Equal(got, want) {
			t.Fatalf("found %v, want %v", got, want)
		}
		return found
	}
	found := check(s, "bank/pod 1 whole", "shop/pod 3 whole", "shop/pod 2 whole", "shop/pod 1 whole")
	files, err := s.Files(crashKey, 3)
	if err != nil {
		t.Fatal(err)
	}
	var bytes int64
	for _, f := range files {
		bytes += f.GetSize()
	}
	if c := found[1]; c.Files != len(files) || c.Bytes != bytes || c.TakenAt.IsZero() {
		t.Errorf("%+v, but %d files with %d bytes", c, len(files), bytes)
	}

	// Beside the process that has the store open, whatever that does meanwhile.
	beside, err := OpenReadOnly(dir, fixedKeys{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	check(beside, "bank/pod 1 whole", "shop/pod 3 whole", "shop/pod 2 whole", "shop/pod 1 whole")
	if _, err := beside.Seal(t.Context(), crashKey, Generation{}, t.TempDir(), nil); !errors.Is(err, ErrReadOnly) {
		t.Errorf("want ErrReadOnly, got %v", err)
	}
	if err := beside.Retain(crashKey, Retention{Count: 1}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("want ErrReadOnly, got %v", err)
	}
	if err := beside.Remove(crashKey); !errors.Is(err, ErrReadOnly) {
		t.Errorf("want ErrReadOnly, got %v", err)
	}
	if err := s.Retain(crashKey, Retention{Count: 2}); err != nil {
		t.Fatal(err)
	}
	check(beside, "bank/pod 1 whole", "shop/pod 3 whole", "shop/pod 2 whole")

	// Damage, in the file that only generation 3 has, and in a manifest.
	own := segmentsOf(t, s, 3)[len(segmentsOf(t, s, 3))-1]
	alter(t, dir, crashKey.path(own))
	alter(t, dir, other.path(manifestName(1)))
	check(beside, "bank/pod 1 damaged", "shop/pod 3 damaged", "shop/pod 2 whole")
	check(s, "bank/pod 1 damaged", "shop/pod 3 damaged", "shop/pod 2 whole")
	// The store neither lists nor builds on what it found damaged.
	if got := heldNumbers(t, s, crashKey); !slices.Equal(got, []int64{2}) {
		t.Errorf("%v is listed", got)
	}
	if _, err := s.Seal(t.Context(), crashKey, Generation{Number: 4, Base: 3}, t.TempDir(), crashMemory(4, 3)); !errors.Is(err, ErrNoBase) {
		t.Errorf("want ErrNoBase, got %v", err)
	}
	mustSealMemory(t, s, crashKey, 5, 0, time.Now())
	if err := checkCrashMemory(t, s, 5); err != nil {
		t.Error(err)
	}
}

func segmentsOf(t testing.TB, s *Store, number int64) (names []string) {
	t.Helper()
	files, err := s.Files(crashKey, number)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.GetName(), segmentsFolder) {
			names = append(names, f.GetName())
		}
	}
	return names
}

// Generations that go while they are checked are not damaged.
func TestCheckWhileGenerationsGo(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	beside, err := OpenReadOnly(dir, fixedKeys{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := int64(1); n <= 40; n++ {
			mustSealMemory(t, s, crashKey, n, n-1, time.Now())
			if err := s.Retain(crashKey, Retention{Count: 1}); err != nil {
				t.Error(err)
			}
		}
	}()
	checks := 0
	for running := true; running; checks++ {
		select {
		case <-done:
			running = false
		default:
		}
		found, err := beside.CheckAll(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range found {
			if c.Err != nil {
				t.Fatalf("generation %d: %v", c.Number, c.Err)
			}
		}
	}
	t.Logf("%d checks", checks)
}

// A limited check takes its time, and reads what generations share once.
func TestCheckKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openIn(t, t.TempDir(), Options{Workers: 1})
		for n := int64(1); n <= 3; n++ {
			mustSealMemory(t, s, crashKey, n, n-1, time.Now())
		}
		const rate = 1000 // bytes a second; some megabyte is free
		for range 10 {
			mustSealMemory(t, s, Key{Namespace: "shop", PodUID: fmt.Sprint("p", time.Now().UnixNano())}, 1, 0, time.Now())
			time.Sleep(time.Second)
		}
		start := time.Now()
		must(s.CheckAll(t.Context(), rate))
		took := time.Since(start)
		want := time.Duration(float64(s.Used()-checkAtOnce*chunkSize) / rate * float64(time.Second))
		if took < want*9/10 || took > want*11/10 {
			t.Errorf("%d bytes took %v, want about %v", s.Used(), took, want)
		}

		// A scrub reports what went wrong since it began, and ends.
		ctx, cancel := context.WithCancel(t.Context())
		reports := make(chan Checked, 10)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Scrub(ctx, time.Hour, 0, func(c Checked) { reports <- c })
		}()
		time.Sleep(90 * time.Minute)
		if len(reports) > 0 {
			t.Errorf("something is wrong with a whole store: %+v", <-reports)
		}
		alter(t, s.Dir(), crashKey.path(segmentsOf(t, s, 3)[0]))
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(reports) == 0 {
			t.Error("damage was not reported")
		}
		cancel()
		<-ended
	})
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
