// Package holdertest has the contract that every transfer.Holder keeps, as
// tests, and a proxy that lets connections come to harm.
package holdertest

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// Patience is how long a Fixture's holders wait for an answer before they take
// the holder for stalled. What is configured for production would take minutes.
const Patience = 3 * time.Second

// Fixture is one holder that holds nothing yet.
type Fixture struct {
	// Holder returns it as the node with that store sees it. Wherever it connects
	// to an address of the holder, it connects to what through returns for it.
	Holder func(t testing.TB, own *store.Store, through func(address string) string) transfer.Holder
	// Damage alters a byte in the middle of each segment that the holder has of a pod.
	Damage func(t testing.TB, key store.Key)
}

// Run tests a holder. The function makes an empty one; where it has a store of
// its own, that has the given keys.
func Run(t *testing.T, open func(t testing.TB, keys *storetest.Keys) Fixture) {
	for name, test := range map[string]func(*testing.T, *cluster){
		"generations come back":                    roundTrip,
		"generations are listed newest first":      listing,
		"only what is missing is sent":             difference,
		"an interrupted copy goes on":              interruptedReplicate,
		"an interrupted fetch goes on":             interruptedFetch,
		"a generation is read where it is":         segments,
		"memory is read where it is":               remoteMemory,
		"a held generation stays readable":         openStays,
		"an unknown generation is not found":       unknown,
		"damage never comes back as content":       damage,
		"everything at once":                       concurrent,
		"a call ends with its context":             cancelled,
		"a holder that stops answering is left":    stalled,
		"a holder that cannot be reached is noted": unreachable,
	} {
		t.Run(name, func(t *testing.T) {
			keys := storetest.NewKeys()
			test(t, &cluster{keys: keys, fixture: open(t, keys)})
		})
	}
}

// cluster is a holder, and nodes that use it.
type cluster struct {
	keys    *storetest.Keys
	fixture Fixture
}

// node is a node with a store of its own, and its view of the holder.
type node struct {
	*store.Store
	holder transfer.Holder
}

// segmentBytes makes several segments of a generation.
const segmentBytes = 128 << 10

func (c *cluster) node(t testing.TB) *node {
	t.Helper()
	return c.nodeThrough(t, c.store(t), nil)
}

func (c *cluster) store(t testing.TB) *store.Store {
	t.Helper()
	own, err := store.Open(t.TempDir(), c.keys, store.Options{SegmentBytes: segmentBytes})
	check(t, err)
	t.Cleanup(func() { own.Close() })
	return own
}

// nodeThrough returns a node whose connections come to harm where proxies is not
// nil: it is called with each of them, and may be called while the node is in use.
func (c *cluster) nodeThrough(t testing.TB, own *store.Store, proxies func(*Proxy)) *node {
	t.Helper()
	through := func(address string) string { return address }
	if proxies != nil {
		through = func(address string) string {
			p := NewProxy(t, address)
			proxies(p)
			return p.Address
		}
	}
	return &node{own, c.fixture.Holder(t, own, through)}
}

var pod = store.Key{Namespace: "shop", PodUID: "0d4fcd4e-6d3e-4c43-9b0a-3e1ffb8f5f0b"}

// tree is the staged files of about 1.5 MB, of which a part depends on the seed.
func tree(seed uint64) storetest.Tree {
	pagemap, pages := storetest.Images(1, storetest.Memory{Address: 0x10000, Data: storetest.Pages(1, 350)},
		storetest.Memory{Address: 0x7f0000000000, Data: storetest.Pages(seed+1000, 16)})
	return storetest.Tree{"c/images/pagemap-1.img": pagemap, "c/images/pages-1.img": pages, "c/rootfs.tar": "files"}
}

// processes have some 400 KB of memory that depend on the seed: two of them share a page.
func processes(seed uint64) []memory.Process {
	const start, pages = 0x7f1000000000, 100
	shared := storetest.Pages(7, 1)
	one := append(bytes.Clone(storetest.Pages(seed+2000, pages-1)), shared...)
	end := uint64(start + pages*storetest.PageSize)
	return []memory.Process{
		{Container: "c", PID: 1, Pages: memory.NewSet(memory.Span{Start: start, End: end}), Fresh: []memory.Stretch{{Start: start, Data: one}}},
		{Container: "c", PID: 2, Pages: memory.NewSet(memory.Span{Start: end - storetest.PageSize, End: end}),
			Fresh: []memory.Stretch{{Start: end - storetest.PageSize, Data: shared}}},
	}
}

// seal stores the pod's next generation, without memory of processes.
func (n *node) seal(t testing.TB, key store.Key, seed uint64) store.Generation {
	t.Helper()
	return n.sealWith(t, key, seed, nil)
}

func (n *node) sealWith(t testing.TB, key store.Key, seed uint64, processes []memory.Process) store.Generation {
	t.Helper()
	gen, err := n.Seal(t.Context(), key, store.Generation{
		Epoch: 3, TakenAt: time.Date(2026, 3, 1, 12, 0, int(seed), 0, time.UTC), PodName: "cart-0", Containers: []string{"c"},
	}, tree(seed).Write(t), processes)
	check(t, err)
	return gen
}

// wantTree wants the staged files of a generation in the node's own store.
func (n *node) wantTree(t testing.TB, key store.Key, number int64, seed uint64) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	check(t, n.Materialize(t.Context(), key, number, dir))
	got := storetest.ReadTree(t, dir)
	for name, content := range tree(seed) {
		if got[name] != content {
			t.Fatalf("generation %d of %s: %s differs", number, key, name)
		}
	}
}

// content returns a file of the node's own store.
func (n *node) content(t testing.TB, key store.Key, name string, size int64) []byte {
	t.Helper()
	file, err := n.OpenFile(key, name)
	check(t, err)
	defer file.Close()
	data := make([]byte, size)
	_, err = file.ReadAt(data, 0)
	check(t, err)
	return data
}

// page is one page of one process.
type page struct {
	pid     int
	address uint64
}

// pagesOf returns what processes have in memory, without pages of zeros.
func pagesOf(list []memory.Process) map[page]string {
	out := map[page]string{}
	for _, p := range list {
		for _, stretch := range p.Fresh {
			for at := 0; at < len(stretch.Data); at += storetest.PageSize {
				out[page{p.PID, stretch.Start + uint64(at)}] = string(stretch.Data[at : at+storetest.PageSize])
			}
		}
	}
	return out
}

// readMemory reads all that a generation has of a container's memory.
func readMemory(ctx context.Context, r *store.Reader, container string) (map[page]string, error) {
	places := map[int][]memory.Place{}
	var ids []int
	for _, chunk := range r.Memory(container) {
		places[chunk.ID] = chunk.Places
		ids = append(ids, chunk.ID)
	}
	out := map[page]string{}
	err := r.Read(ctx, ids, func(id int, data []byte) error {
		for _, place := range places[id] {
			for at := 0; at < place.Length; at += storetest.PageSize {
				out[page{place.PID, place.Address + uint64(at)}] = string(data[place.Offset+at:][:storetest.PageSize])
			}
		}
		return nil
	})
	return out, err
}

// wantUnused wants no call of the past to keep hold of a pod in the node's store.
func (n *node) wantUnused(t testing.TB, key store.Key) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = n.Remove(key); !errors.Is(err, store.ErrInUse) {
			break
		}
	}
	check(t, err)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
