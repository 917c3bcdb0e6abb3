package track

import (
	"errors"
	"testing"
)

func TestArena(t *testing.T) {
	a := NewArena(10 << 20)
	defer a.Close()
	if err := a.Reserve(11 << 20); !errors.Is(err, ErrArenaFull) {
		t.Fatalf("more than it may have: %v", err)
	}
	if err := a.Reserve(3 << 20); err != nil {
		t.Fatal(err)
	}
	first, err := a.take(6 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.take(5 << 20); !errors.Is(err, ErrArenaFull) {
		t.Fatalf("no room left: %v", err)
	}
	second, err := a.take(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	first[len(first)-1], second[0] = 1, 2
	if first[len(first)-1] != 1 {
		t.Fatal("two parts overlap")
	}
	a.Reset()
	if again, err := a.take(10 << 20); err != nil || &again[0] != &first[0] {
		t.Fatalf("its memory is not used again: %v", err)
	}
}

func TestArenaGivesBack(t *testing.T) {
	a := NewArena(64 << 20)
	defer a.Close()
	for use := range 2 * arenaMemory {
		size := int64(3 << 20)
		if use == 0 {
			size = 60 << 20
		}
		if _, err := a.take(size); err != nil {
			t.Fatal(err)
		}
		a.Reset()
		want := int64(60 << 20)
		if use >= arenaMemory {
			want = 4 << 20
		}
		if a.ready != want {
			t.Fatalf("after use %d it keeps %d bytes, not %d", use, a.ready, want)
		}
	}
}
