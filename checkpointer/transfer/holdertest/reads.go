package holdertest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

func segments(t *testing.T, c *cluster) {
	a, b := c.node(t), c.node(t)
	a.seal(t, pod, 1)
	_, err := a.holder.Replicate(t.Context(), pod, 1)
	check(t, err)
	b.wantSegments(t, a, pod, 1)
	if list, err := b.List(pod); err != nil || len(list) > 0 {
		t.Errorf("what was only read is in the own store: %v, %v", list, err)
	}
}

// wantSegments wants the files that the node can read at the holder to be those
// of another node's store.
func (n *node) wantSegments(t testing.TB, of *node, key store.Key, number int64) {
	t.Helper()
	files, err := of.Files(key, number)
	if err != nil {
		t.Error(err)
		return
	}
	from, err := n.holder.Segments(t.Context(), key, number)
	if err != nil {
		t.Error(err)
		return
	}
	manifest, err := from.Manifest(t.Context())
	last := files[len(files)-1]
	if err != nil || !bytes.Equal(manifest, of.content(t, key, last.GetName(), last.GetSize())) {
		t.Errorf("the manifest is another one: %v", err)
	}
	var reads sync.WaitGroup
	for seed, f := range files[:len(files)-1] {
		want := of.content(t, key, f.GetName(), f.GetSize())
		reads.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), 0))
			for i := range 20 {
				offset := r.Int64N(f.GetSize())
				length := 1 + r.Int64N(f.GetSize()-offset)
				if i == 0 {
					offset, length = 0, f.GetSize()
				}
				buf := make([]byte, length)
				if err := from.ReadAt(t.Context(), f.GetName(), buf, offset); err != nil {
					t.Error(err)
				} else if !bytes.Equal(buf, want[offset:offset+length]) {
					t.Errorf("%d bytes at %d of %s differ", length, offset, f.GetName())
				}
			}
		})
	}
	reads.Wait()
	segment := files[0]
	for what, read := range map[string]struct {
		name   string
		offset int64
	}{
		"beyond the end":          {segment.GetName(), segment.GetSize() - 5},
		"far beyond the end":      {segment.GetName(), 1 << 40},
		"before the beginning":    {segment.GetName(), -1},
		"another segment":         {"segments/" + strings.Repeat("ab", 16) + ".seg", 0},
		"a file above":            {"../../../../etc/passwd", 0},
		"a path through a folder": {"segments/../" + segment.GetName(), 0},
		"no file":                 {"", 0},
	} {
		if err := from.ReadAt(t.Context(), read.name, make([]byte, 10), read.offset); err == nil {
			t.Errorf("a read succeeds: %s", what)
		}
	}
	// None of it ends the access.
	if err := from.ReadAt(t.Context(), segment.GetName(), make([]byte, 10), segment.GetSize()-10); err != nil {
		t.Error(err)
	}
	if err := from.Close(); err != nil {
		t.Error(err)
	}
	if err := from.ReadAt(t.Context(), segment.GetName(), make([]byte, 10), 0); err == nil {
		t.Error("a read succeeds after Close")
	}
}

func remoteMemory(t *testing.T, c *cluster) {
	a, b := c.node(t), c.node(t)
	a.sealWith(t, pod, 1, processes(1))
	_, err := a.holder.Replicate(t.Context(), pod, 1)
	check(t, err)
	from, err := b.holder.Segments(t.Context(), pod, 1)
	check(t, err)
	r, err := b.OpenReader(t.Context(), pod, 1, from)
	check(t, err)
	defer r.Close()
	var reads sync.WaitGroup
	for range 3 {
		reads.Go(func() {
			got, err := readMemory(t.Context(), r, "c")
			if err != nil {
				t.Error(err)
			}
			if !cmp.Equal(got, pagesOf(processes(1))) {
				t.Error("the processes' memory has other content")
			}
		})
	}
	reads.Wait()
}

// The copies that a holder keeps change while one of them is read.
func openStays(t *testing.T, c *cluster) {
	a, b := c.node(t), c.node(t)
	a.seal(t, pod, 1)
	_, err := a.holder.Replicate(t.Context(), pod, 1)
	check(t, err)
	from, err := b.holder.Segments(t.Context(), pod, 1)
	check(t, err)
	defer from.Close()
	for i := range int64(3) {
		a.seal(t, pod, uint64(i+2))
		_, err := a.holder.Replicate(t.Context(), pod, i+2)
		check(t, err)
	}
	files, err := a.Files(pod, 1)
	check(t, err)
	for _, f := range files[:len(files)-1] {
		buf := make([]byte, f.GetSize())
		check(t, from.ReadAt(t.Context(), f.GetName(), buf, 0))
		if !bytes.Equal(buf, a.content(t, pod, f.GetName(), f.GetSize())) {
			t.Errorf("%s differs", f.GetName())
		}
	}
}
