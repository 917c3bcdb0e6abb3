package storetest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// readAll reads all of a generation: its files, and its memory.
func readAll(t testing.TB, s Store, number int64, from store.Segments) (Tree, Spaces, error) {
	t.Helper()
	r, err := s.OpenReader(context.Background(), pod, number, from)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	spaces, memoryErr := ReadMemory(context.Background(), t, r)
	if memoryErr != nil {
		return nil, nil, memoryErr
	}
	dir := filepath.Join(t.TempDir(), "restored")
	if err := r.Materialize(context.Background(), dir); err != nil {
		wantNothing(t, dir)
		return nil, nil, err
	}
	return ReadTree(t, dir), spaces, nil
}

// memoryDamage alters every byte of every file of a generation in turn, and wants
// that nothing wrong is read, from this store or from elsewhere.
func memoryDamage(t *testing.T, _ *Keys, f Fixture) {
	one := Spaces{cart: {}}
	text := bytes.Repeat([]byte("lifeboat"), PageSize/8)
	one[cart].Write(heap, text)
	one[cart].Write(heap+PageSize, append(bytes.Clone(text[8:]), "tfosaved"...))
	one[cart].Write(stack, Pages(1, 1)[:PageSize])
	two := one.Clone()
	two[cart].Write(heap, bytes.Repeat([]byte("restored"), PageSize/8))
	sealMemory(t, f.Store, pod, 0, nil, one)
	sealMemory(t, f.Store, pod, 1, one, two)
	elsewhere := func() *Elsewhere { return &Elsewhere{Dir: f.Dir, Key: pod, Number: 2} }
	wantRight := func(from store.Segments) error {
		tree, spaces, err := readAll(t, f.Store, 2, from)
		if err == nil && (!same(tree, memoryTree.withFolders()) || !spaces.same(two)) {
			t.Fatal("wrong content was read")
		}
		return err
	}
	check(t, wantRight(nil))
	for _, name := range stored(t, f.Dir) {
		if strings.HasSuffix(name, "/1.man") {
			continue
		}
		full := filepath.Join(f.Dir, name)
		content, err := os.ReadFile(full)
		check(t, err)
		for i := range content {
			content[i] ^= 1 << (i % 8)
			check(t, os.WriteFile(full, content, 0o600))
			err := wantRight(nil)
			var damaged *store.Damaged
			// One page of generation 1 is of use to nobody any more.
			if !errors.As(err, &damaged) && f.Store.Verify(context.Background(), pod, 1) == nil {
				t.Fatalf("nobody missed byte %d of %s: %v", i, name, err)
			}
			if i%16 > 0 {
				content[i] ^= 1 << (i % 8)
				continue
			}
			if err := wantRight(elsewhere()); err != nil && !errors.As(err, &damaged) {
				t.Fatalf("byte %d of %s, elsewhere: %v", i, name, err)
			}
			content[i] ^= 1 << (i % 8)
		}
		check(t, os.WriteFile(full, content, 0o600))
		check(t, wantRight(nil))
	}
}

func memoryWrongKey(t *testing.T, keys *Keys, f Fixture) {
	one := exampleMemory(1)
	sealMemory(t, f.Store, pod, 0, nil, one)
	keys.Rotate(pod.Namespace)
	WantMemory(t, f.Store, pod, 1, one)
	sealMemory(t, f.Store, pod, 0, nil, one)
	keys.Forget(pod.Namespace)
	s := f.Reopen(t)
	for number := int64(1); number <= 2; number++ {
		for _, from := range []store.Segments{nil, &Elsewhere{Dir: f.Dir, Key: pod, Number: number}} {
			var damaged *store.Damaged
			if _, err := s.OpenReader(context.Background(), pod, number, from); !errors.As(err, &damaged) || damaged.Permanent() {
				t.Errorf("with another key: %v", err)
			}
		}
	}
}

// memoryElsewhere reads a generation of which this store has nothing.
func memoryElsewhere(t *testing.T, _ *Keys, f Fixture) {
	const pages = 4 << 10
	one := Spaces{cart: {}}
	one[cart].Write(heap, Pages(1, pages))
	tree := example(1)
	_, err := f.Store.Seal(context.Background(), pod, store.Generation{}, tree.Write(t), one.Processes(nil))
	check(t, err)
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS(f.Dir)))
	check(t, f.Store.Remove(pod))

	from := &Elsewhere{Dir: dir, Key: pod, Number: 1}
	r, err := f.Store.OpenReader(context.Background(), pod, 1, from)
	check(t, err)
	if r.Generation().Number != 1 || r.Generation().Bytes == 0 {
		t.Errorf("it is generation %+v", r.Generation())
	}
	before := from.Accesses.Load()
	got, err := ReadMemory(context.Background(), t, r)
	check(t, err)
	if !got.same(one) {
		t.Error("other memory came back")
	}
	if n := from.Accesses.Load() - before; n > pages*PageSize>>20+2 {
		t.Errorf("%d MiB that lie together took %d accesses", pages*PageSize>>20, n)
	}
	target := filepath.Join(t.TempDir(), "restored")
	check(t, r.Materialize(context.Background(), target))
	if !same(ReadTree(t, target), tree.withFolders()) {
		t.Error("other files came back")
	}
	check(t, r.Close())
	if !from.Closed.Load() {
		t.Error("what was read from is still open")
	}
	other := &Elsewhere{Dir: dir, Key: pod, Number: 1}
	if _, err := f.Store.OpenReader(context.Background(), pod, 2, other); err == nil {
		t.Error("generation 1 passes for generation 2")
	}
	key := store.Key{Namespace: pod.Namespace, PodUID: "another"}
	var damaged *store.Damaged
	if _, err := f.Store.OpenReader(context.Background(), key, 1, other); !errors.As(err, &damaged) {
		t.Errorf("one pod's generation passes for another's: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, err = f.Store.OpenReader(ctx, pod, 1, other)
	check(t, err)
	defer r.Close()
	cancel()
	if err := r.Read(ctx, []int{0}, func(int, []byte) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read ended with %v", err)
	}
}

// memoryHeld reads from several goroutines, while the generation is dropped.
func memoryHeld(t *testing.T, _ *Keys, f Fixture) {
	one := exampleMemory(1)
	sealMemory(t, f.Store, pod, 0, nil, one)
	r, err := f.Store.OpenReader(context.Background(), pod, 1, nil)
	check(t, err)
	two := exampleMemory(100)
	sealMemory(t, f.Store, pod, 0, nil, two)
	check(t, f.Store.Retain(pod, store.Retention{Count: 1}))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if got, err := ReadMemory(context.Background(), t, r); err != nil || !got.same(one) {
				t.Errorf("a generation that is open was not read as it was: %v", err)
			}
		})
	}
	group.Wait()
	if err := f.Store.Remove(pod); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a pod that is read was removed: %v", err)
	}
	check(t, r.Close())
	check(t, f.Store.Retain(pod, store.Retention{Count: 1}))
	if _, err := f.Store.OpenReader(context.Background(), pod, 1, nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("want ErrNotFound, got %v", err)
	}
}
