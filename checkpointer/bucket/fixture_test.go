package bucket

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

var testPod = store.Key{Namespace: "shop", PodUID: "0d4fcd4e-6d3e-4c43-9b0a-3e1ffb8f5f0b"}

// node is a node with a store of its own, and its view of the bucket.
type node struct {
	*store.Store
	*Bucket
	keys *storetest.Keys
}

func newNode(t testing.TB, config Config, keys *storetest.Keys, segmentBytes int64) *node {
	t.Helper()
	if keys == nil {
		keys = storetest.NewKeys()
	}
	own, err := store.Open(t.TempDir(), keys, store.Options{SegmentBytes: segmentBytes})
	check(t, err)
	t.Cleanup(func() { own.Close() })
	return &node{own, newBucket(t, config, own), keys}
}

// again is the node after its process has begun anew: it knows nothing of the bucket.
func (n *node) again(t testing.TB) *node {
	t.Helper()
	return &node{n.Store, newBucket(t, n.config, n.Store), n.keys}
}

// noise is staged files that do not compress: one of some pages for each seed.
func noise(pages int, seeds ...uint64) storetest.Tree {
	tree := storetest.Tree{}
	for _, seed := range seeds {
		tree[string(rune('a'+seed%26))+"/"+time.Duration(seed).String()] = string(storetest.Pages(seed, pages))
	}
	return tree
}

func (n *node) seal(t testing.TB, tree storetest.Tree) store.Generation {
	t.Helper()
	gen, err := n.Seal(t.Context(), testPod, store.Generation{Epoch: 3, TakenAt: time.Now(), PodName: "cart-0", Containers: []string{"c"}}, tree.Write(t), nil)
	check(t, err)
	return gen
}

// copied seals a generation, and copies it to the bucket.
func (n *node) copied(t testing.TB, tree storetest.Tree) store.Generation {
	t.Helper()
	gen := n.seal(t, tree)
	_, err := n.Replicate(t.Context(), testPod, gen.Number)
	check(t, err)
	return gen
}

// wantFetched wants a node with an empty store to get the generation out of the bucket.
func (n *node) wantFetched(t testing.TB, number int64, tree storetest.Tree) {
	t.Helper()
	fresh := newNode(t, n.config, n.keys, 0)
	check(t, fresh.Fetch(t.Context(), testPod, number))
	dir := filepath.Join(t.TempDir(), "restored")
	check(t, fresh.Materialize(t.Context(), testPod, number, dir))
	got := storetest.ReadTree(t, dir)
	for name, content := range tree {
		if got[name] != content {
			t.Fatalf("generation %d: %s differs", number, name)
		}
	}
}

// wantHeld wants the bucket to list generations, newest first.
func (n *node) wantHeld(t testing.TB, numbers ...int64) {
	t.Helper()
	list, err := n.Held(t.Context(), testPod)
	check(t, err)
	var got []int64
	for _, gen := range list {
		got = append(got, gen.Number)
	}
	if len(got) != len(numbers) {
		t.Fatalf("held are %v, want %v", got, numbers)
	}
	for i := range got {
		if got[i] != numbers[i] {
			t.Fatalf("held are %v, want %v", got, numbers)
		}
	}
}

// objects lists what the bucket has of the pod.
func (n *node) objects(t testing.TB, folder string) map[string]object {
	t.Helper()
	objects, err := n.list(t.Context(), testPod, folder)
	check(t, err)
	return objects
}
