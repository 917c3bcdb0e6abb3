package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

// TestDraftBecomesAnyGeneration: a draft that is brought up from one generation to another
// is what Materialize makes of that one.
func TestDraftBecomesAnyGeneration(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := opened(t)
	key := store.Key{Namespace: "shop", PodUID: "11111111-2222-3333-4444-555555555555"}
	tree := storetest.Tree{"main/images/inventory.img": "first", "main/images/empty": "", "main/work/": ""}
	const last = 25
	for number := int64(1); number <= last; number++ {
		tree = changedTree(random, tree)
		if _, err := s.Seal(t.Context(), key, store.Generation{Number: number, TakenAt: time.Now(), PodName: "p", Containers: []string{"main"}}, tree.Write(t), nil); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "draft")
	d, err := reader(t, s, key, 1).Draft(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		number := 1 + random.Int64N(last)
		from := d.Number()
		if err := reader(t, s, key, number).Refresh(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		plain := filepath.Join(t.TempDir(), "plain")
		if err := s.Materialize(t.Context(), key, number, plain); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(storetest.ReadTree(t, plain), storetest.ReadTree(t, dir)); diff != "" || d.Number() != number {
			t.Fatalf("a draft of generation %d that was brought up to %d is one of %d (-want +got):\n%.2000s", from, number, d.Number(), diff)
		}
	}
	if err := d.Take(dir + "-taken"); err != nil {
		t.Error(err)
	}
	if got := len(storetest.ReadTree(t, dir+"-taken")); got == 0 {
		t.Error("what was taken is empty")
	}
}

// changedTree changes files in every way that two generations can differ.
func changedTree(random *rand.Rand, tree storetest.Tree) storetest.Tree {
	next := maps.Clone(tree)
	bytes := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			if random.IntN(3) == 0 {
				b.WriteString(strings.Repeat("\x00", min(n-b.Len(), random.IntN(200_000))))
				continue
			}
			piece := make([]byte, min(n-b.Len(), 1+random.IntN(100_000)))
			for i := range piece {
				piece[i] = byte(random.Uint32())
			}
			b.Write(piece)
		}
		return b.String()
	}
	for range 3 {
		name := fmt.Sprintf("main/f%d", random.IntN(8))
		content, found := next[name]
		delete(next, name+"/")
		delete(next, name+"/inner")
		switch choice := random.IntN(9); {
		case !found || choice == 0:
			next[name] = bytes(random.IntN(2_000_000))
		case choice < 4 && len(content) > 0: // some of it
			at := random.IntN(len(content))
			piece := bytes(min(len(content)-at, 1+random.IntN(150_000)))
			next[name] = content[:at] + piece + content[at+len(piece):]
		case choice == 4: // it grows
			next[name] = content + bytes(random.IntN(300_000))
		case choice == 5: // it shrinks
			next[name] = content[:random.IntN(len(content)+1)]
		case choice == 6: // something comes before the rest
			next[name] = bytes(random.IntN(5000)) + content
		case choice == 7:
			delete(next, name)
		default: // it becomes a folder
			delete(next, name)
			next[name+"/inner"] = bytes(1000)
		}
	}
	return next
}

func reader(t *testing.T, s *store.Store, key store.Key, number int64) *store.Reader {
	t.Helper()
	r, err := s.OpenReader(t.Context(), key, number, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestDraftThatFails: of a draft that could not be brought up nothing is left.
func TestDraftThatFails(t *testing.T) {
	s := opened(t)
	key := store.Key{Namespace: "shop", PodUID: "11111111-2222-3333-4444-555555555555"}
	other := store.Key{Namespace: "shop", PodUID: "99999999-2222-3333-4444-555555555555"}
	for number, content := range []string{"", "first", "second"} {
		for _, k := range []store.Key{key, other} {
			if number == 0 {
				continue
			}
			if _, err := s.Seal(t.Context(), k, store.Generation{Number: int64(number), TakenAt: time.Now(), PodName: "p", Containers: []string{"main"}},
				storetest.Tree{"main/f": strings.Repeat(content, 20_000)}.Write(t), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "draft")
	d, err := reader(t, s, key, 1).Draft(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := reader(t, s, other, 1).Refresh(t.Context(), d); err == nil || d.Number() != 1 {
		t.Errorf("a draft of another pod: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "main", "f")); err != nil {
		t.Fatal(err)
	}
	if err := reader(t, s, key, 2).Refresh(t.Context(), d); err == nil || !strings.Contains(err.Error(), "draft of generation 1 up to 2") {
		t.Errorf("a draft whose file is gone: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the draft is there: %v", err)
	}
}

func opened(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir(), storetest.NewKeys(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
