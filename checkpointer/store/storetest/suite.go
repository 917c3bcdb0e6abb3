// Package storetest has the contract that every store of checkpoints keeps, as
// tests, and the synthetic checkpoints that they need.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Store is what the contract is about.
type Store interface {
	Seal(ctx context.Context, key store.Key, gen store.Generation, stagedDir string, processes []memory.Process, kept ...store.Kept) (store.Generation, error)
	List(key store.Key) ([]store.Generation, error)
	Pods() ([]store.Key, error)
	Files(key store.Key, number int64) ([]*peerv1.File, error)
	Materialize(ctx context.Context, key store.Key, number int64, dir string) error
	OpenReader(ctx context.Context, key store.Key, number int64, from store.Segments) (*store.Reader, error)
	Verify(ctx context.Context, key store.Key, number int64) error
	Retain(key store.Key, retention store.Retention) error
	Remove(key store.Key) error
}

// Fixture is one empty store, and access to the files below it.
type Fixture struct {
	Store Store
	// Reopen returns the store as another process would find it.
	Reopen func(t testing.TB) Store
	// Dir is the folder with the store's files.
	Dir string
}

// Run tests a store. The function opens an empty one with the given keys.
func Run(t *testing.T, open func(t testing.TB, keys *Keys) Fixture) {
	for name, test := range map[string]func(*testing.T, *Keys, Fixture){
		"what was sealed comes back":          roundTrip,
		"generations are listed newest first": listing,
		"an unchanged page is stored once":    deduplication,
		"numbers grow":                        numbers,
		"old generations go":                  retention,
		"a removed pod is gone":               removal,
		"keys rotate":                         rotation,
		"a wrong key is refused":              wrongKey,
		"nothing is legible on disk":          secrecy,
		"what is not a file is refused":       specialFiles,
		"a cancelled seal leaves nothing":     cancellation,
		"a missing generation is not found":   missingGeneration,
		"only an empty folder is filled":      targets,
		"missing files are damage":            missingFiles,
		"damage never comes back as content":  damage,
		"memory comes back":                   memoryRoundTrip,
		"memory changes in every way":         memoryModel,
		"memory needs its base":               memoryBase,
		"memory that makes no sense":          memoryRefused,
		"processes share memory":              memorySharing,
		"unchanged memory costs little":       memoryCost,
		"what was written last comes first":   memoryOrder,
		"damage never comes back as memory":   memoryDamage,
		"memory of another key is refused":    memoryWrongKey,
		"memory is read from elsewhere":       memoryElsewhere,
		"what is read stays":                  memoryHeld,
	} {
		t.Run(name, func(t *testing.T) {
			keys := NewKeys()
			test(t, keys, open(t, keys))
		})
	}
}

var pod = store.Key{Namespace: "shop", PodUID: "0d4fcd4e-6d3e-4c43-9b0a-3e1ffb8f5f0b"}

// seal stores a tree as the pod's next generation.
func seal(t testing.TB, s Store, key store.Key, tree Tree) store.Generation {
	t.Helper()
	gen, err := s.Seal(context.Background(), key, store.Generation{
		Bytes: 99, NewBytes: 99, // not for the caller to say
		Epoch: 4, TakenAt: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC), PodName: "cart-0",
		Containers: []string{"cart", "proxy"}, Facts: v1alpha1.NodeFacts{Architecture: "amd64", CRIUVersion: "4.2.1"},
	}, tree.Write(t), nil)
	check(t, err)
	return gen
}

// wantTree materializes a generation and compares it.
func wantTree(t testing.TB, s Store, key store.Key, number int64, want Tree) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	if err := s.Materialize(context.Background(), key, number, dir); err != nil {
		t.Fatal(err)
	}
	if !same(ReadTree(t, dir), want.withFolders()) {
		t.Fatalf("generation %d came back with other content", number)
	}
}

// same compares trees without printing their content, which may be large.
func same(a, b Tree) bool {
	if len(a) != len(b) {
		return false
	}
	for name, content := range a {
		if other, ok := b[name]; !ok || other != content {
			return false
		}
	}
	return true
}

// example is a tree with a bit of everything.
func example(seed uint64) Tree {
	pagemap, pages := Images(1,
		Memory{Address: 0x7f0000003000, Data: Pages(seed, 40)},
		Memory{Address: 0x7f0000100000, Data: make([]byte, 20*PageSize)},
		Memory{Address: 0x7f0000200000, Data: make([]byte, 8*PageSize), Absent: true},
		Memory{Address: 0x7f0000300000, Data: []byte(strings.Repeat("lifeboat", 3*PageSize/8))})
	return Tree{
		"cart/images/pagemap-1.img": pagemap,
		"cart/images/pages-1.img":   pages,
		"cart/images/core-1.img":    "core",
		"cart/images/empty.img":     "",
		"cart/rootfs.tar":           string(Pages(seed+1, 17)) + "tail",
		"cart/container.json":       fmt.Sprintf(`{"seed":%d}`, seed),
		"volumes/":                  "",
		"shm.tar":                   strings.Repeat("\x00", 200_000),
	}
}

func roundTrip(t *testing.T, _ *Keys, f Fixture) {
	one, two := example(1), example(2)
	seal(t, f.Store, pod, one)
	seal(t, f.Store, pod, two)
	wantTree(t, f.Store, pod, 1, one)
	wantTree(t, f.Store, pod, 2, two)
	s := f.Reopen(t)
	wantTree(t, s, pod, 1, one)
	wantTree(t, s, pod, 2, two)

	rapid.Check(t, func(rt *rapid.T) {
		tree := drawTree(rt)
		key := store.Key{Namespace: "drawn", PodUID: "pod"}
		gen := seal(t, s, key, tree)
		wantTree(t, s, key, gen.Number, tree)
		check(t, s.Retain(key, store.Retention{Count: 2}))
	})
}

// drawTree draws files of sizes around those at which chunks are cut, some with
// memory images that fit and some that do not.
func drawTree(rt *rapid.T) Tree {
	tree := Tree{}
	size := rapid.OneOf(rapid.IntRange(0, 300), rapid.SampledFrom([]int{65535, 65536, 65537, 131072, 1 << 20, 1<<20 + 1}))
	for i := range rapid.IntRange(0, 4).Draw(rt, "files") {
		content := Pages(rapid.Uint64Range(0, 3).Draw(rt, "seed"), 300)[:size.Draw(rt, "size")]
		tree[fmt.Sprintf("f%d", i)] = string(content)
	}
	var memory []Memory
	address := uint64(0x10000)
	for range rapid.IntRange(0, 6).Draw(rt, "mappings") {
		address += PageSize * rapid.Uint64Range(0, 40).Draw(rt, "gap")
		n := rapid.IntRange(1, 50).Draw(rt, "pages")
		data := make([]byte, n*PageSize)
		if rapid.Bool().Draw(rt, "touched") {
			data = Pages(uint64(n), n)
		}
		memory = append(memory, Memory{Address: address, Data: data, Absent: rapid.Bool().Draw(rt, "absent")})
		address += uint64(len(data))
	}
	pagemap, pages := Images(7, memory...)
	if rapid.Bool().Draw(rt, "mismatch") {
		pages += "x"
	}
	tree["c/images/pagemap-9.img"], tree["c/images/pages-7.img"] = pagemap, pages
	return tree
}

func listing(t *testing.T, _ *Keys, f Fixture) {
	if list, err := f.Store.List(pod); err != nil || len(list) != 0 {
		t.Fatalf("an empty store lists %v, %v", list, err)
	}
	tree := example(1)
	var want []store.Generation
	for range 3 {
		want = append(want, seal(t, f.Store, pod, tree))
	}
	slices.Reverse(want)
	for range 2 {
		got, err := f.Store.List(pod)
		check(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("List (-want +got):\n%s", diff)
		}
		f.Store = f.Reopen(t)
	}
	size := int64(0)
	for _, content := range tree {
		size += int64(len(content))
	}
	if want[0].Bytes != size {
		t.Errorf("a generation of %d bytes says that it has %d", size, want[0].Bytes)
	}
	other := store.Key{Namespace: "bank", PodUID: "x"}
	seal(t, f.Store, other, tree)
	pods, err := f.Store.Pods()
	check(t, err)
	if diff := cmp.Diff([]store.Key{other, pod}, pods); diff != "" {
		t.Errorf("Pods (-want +got):\n%s", diff)
	}
}

func deduplication(t *testing.T, _ *Keys, f Fixture) {
	const pages = 16 << 8 // 16 MiB
	memory := Pages(1, pages)
	tree := func(before int) Tree {
		// What comes before moves everything behind it in the pages image.
		pagemap, image := Images(1, Memory{Address: 0x400000, Data: Pages(uint64(before), before)},
			Memory{Address: 0x7f0000000000, Data: memory})
		return Tree{"c/images/pagemap-1.img": pagemap, "c/images/pages-1.img": image}
	}
	first := seal(t, f.Store, pod, tree(1))
	// One hundredth of the memory changes, in one place.
	copy(memory[pages/2*PageSize:], Pages(99, pages/100))
	second := seal(t, f.Store, pod, tree(2))
	if share := float64(second.NewBytes) / float64(first.NewBytes); share > 0.02 {
		t.Errorf("1 %% of the memory changed, and %.1f %% was stored", 100*share)
	}
	third := seal(t, f.Store, pod, tree(2))
	if third.NewBytes > first.NewBytes/500 {
		t.Errorf("nothing changed, and %d bytes were stored", third.NewBytes)
	}
	wantTree(t, f.Store, pod, 2, tree(2))
}

func numbers(t *testing.T, _ *Keys, f Fixture) {
	tree := Tree{"file": "content"}
	if gen := seal(t, f.Store, pod, tree); gen.Number != 1 {
		t.Fatalf("the first generation has number %d", gen.Number)
	}
	_, err := f.Store.Seal(context.Background(), pod, store.Generation{Number: 7}, tree.Write(t), nil)
	check(t, err)
	if gen := seal(t, f.Store, pod, tree); gen.Number != 8 {
		t.Fatalf("after generation 7 comes %d", gen.Number)
	}
	for _, used := range []int64{1, 7, 8, -1} {
		if _, err := f.Store.Seal(context.Background(), pod, store.Generation{Number: used}, tree.Write(t), nil); err == nil {
			t.Errorf("number %d was used again", used)
		}
	}
	for _, key := range []store.Key{{}, {Namespace: "..", PodUID: "x"}, {Namespace: "a", PodUID: "../b"}, {Namespace: "a", PodUID: ""}, {Namespace: "a/b", PodUID: "x"}} {
		if _, err := f.Store.Seal(context.Background(), key, store.Generation{}, tree.Write(t), nil); err == nil {
			t.Errorf("%v was taken for a pod", key)
		}
	}
}

func retention(t *testing.T, _ *Keys, f Fixture) {
	var trees []Tree
	for i := range 5 {
		tree := example(1)
		tree["changing"] = string(Pages(uint64(100+i), 64))
		trees = append(trees, tree)
		seal(t, f.Store, pod, tree)
	}
	before := diskUse(t, f.Dir)
	check(t, f.Store.Retain(pod, store.Retention{Count: 2}))
	list, err := f.Store.List(pod)
	check(t, err)
	if len(list) != 2 || list[0].Number != 5 || list[1].Number != 4 {
		t.Fatalf("of 5 generations, %v are left", list)
	}
	// The first generation's segment stays: the others share its chunks.
	wantTree(t, f.Store, pod, 5, trees[4])
	wantTree(t, f.Store, pod, 4, trees[3])
	if freed := before - diskUse(t, f.Dir); freed < 2*64*PageSize {
		t.Errorf("only %d bytes became free", freed)
	}
	wantTree(t, f.Reopen(t), pod, 5, trees[4])
}

func removal(t *testing.T, _ *Keys, f Fixture) {
	other := store.Key{Namespace: pod.Namespace, PodUID: "other"}
	tree := example(1)
	seal(t, f.Store, pod, tree)
	seal(t, f.Store, other, tree)
	check(t, f.Store.Remove(pod))
	check(t, f.Store.Remove(pod)) // there is nothing left to do
	if list, err := f.Store.List(pod); err != nil || len(list) != 0 {
		t.Errorf("a removed pod still lists %v, %v", list, err)
	}
	pods, err := f.Store.Pods()
	check(t, err)
	if diff := cmp.Diff([]store.Key{other}, pods); diff != "" {
		t.Errorf("Pods (-want +got):\n%s", diff)
	}
	wantTree(t, f.Store, other, 1, tree)
}

func diskUse(t testing.TB, dir string) (total int64) {
	t.Helper()
	for _, name := range files(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		check(t, err)
		total += info.Size()
	}
	return total
}

// files lists the files below a folder, sorted.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	for name := range ReadTree(t, dir) {
		if !strings.HasSuffix(name, "/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func missingGeneration(t *testing.T, _ *Keys, f Fixture) {
	dir := filepath.Join(t.TempDir(), "restored")
	if err := f.Store.Materialize(context.Background(), pod, 1, dir); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Materialize of nothing: %v", err)
	}
	if _, err := f.Store.Files(pod, 1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Files of nothing: %v", err)
	}
	wantNothing(t, dir)
}

// wantNothing fails when anything is left of a folder that could not be materialized.
func wantNothing(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Dir(dir))
	check(t, err)
	if len(left) > 0 {
		t.Errorf("%s is left over", left[0].Name())
	}
}

func targets(t *testing.T, _ *Keys, f Fixture) {
	seal(t, f.Store, pod, Tree{"file": "content"})
	dir := filepath.Join(t.TempDir(), "restored")
	check(t, os.MkdirAll(filepath.Join(dir+".partial", "of an interrupted one"), 0o700))
	check(t, os.Mkdir(dir, 0o700))
	check(t, f.Store.Materialize(context.Background(), pod, 1, dir))
	if err := f.Store.Materialize(context.Background(), pod, 1, dir); err == nil {
		t.Error("a folder with files was filled")
	}
	if !same(ReadTree(t, filepath.Dir(dir)), Tree{"restored/": "", "restored/file": "content"}) {
		t.Error("the folder is not what it was")
	}
}

func cancellation(t *testing.T, _ *Keys, f Fixture) {
	tree := example(1)
	seal(t, f.Store, pod, tree)
	before := files(t, f.Dir)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Store.Seal(ctx, pod, store.Generation{}, example(2).Write(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled seal ended with %v", err)
	}
	if diff := cmp.Diff(before, files(t, f.Dir)); diff != "" {
		t.Errorf("a cancelled seal changed the store (-before +after):\n%s", diff)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	if err := f.Store.Materialize(ctx, pod, 1, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled materialize ended with %v", err)
	}
	wantNothing(t, dir)
	wantTree(t, f.Store, pod, 1, tree)
}

func specialFiles(t *testing.T, _ *Keys, f Fixture) {
	dir := Tree{"file": "content"}.Write(t)
	check(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	if _, err := f.Store.Seal(context.Background(), pod, store.Generation{}, dir, nil); err == nil {
		t.Error("a symbolic link was sealed")
	}
}

// random draws from a seed that a failure prints.
func random(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
