package holdertest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

func roundTrip(t *testing.T, c *cluster) {
	a, b := c.node(t), c.node(t)
	if a.holder.Name() == "" {
		t.Error("the holder has no name")
	}
	a.sealWith(t, pod, 1, processes(1))
	a.seal(t, pod, 2)
	for number := range int64(2) {
		_, err := a.holder.Replicate(t.Context(), pod, number+1)
		check(t, err)
	}
	for _, number := range []int64{2, 1} {
		check(t, b.holder.Fetch(t.Context(), pod, number))
		b.wantTree(t, pod, number, uint64(number))
		check(t, b.holder.Fetch(t.Context(), pod, number)) // nothing is left to do
	}
	r, err := b.OpenReader(t.Context(), pod, 1, nil)
	check(t, err)
	defer r.Close()
	got, err := readMemory(t.Context(), r, "c")
	check(t, err)
	if !cmp.Equal(got, pagesOf(processes(1))) {
		t.Error("the processes' memory came back with other content")
	}
}

func listing(t *testing.T, c *cluster) {
	a, b := c.node(t), c.node(t)
	if held, err := b.holder.Held(t.Context(), pod); err != nil || len(held) != 0 {
		t.Fatalf("of a pod without generations %v is held: %v", held, err)
	}
	other := store.Key{Namespace: "bank", PodUID: "other"}
	a.seal(t, other, 1)
	_, err := a.holder.Replicate(t.Context(), other, 1)
	check(t, err)
	var want []store.Generation
	for i := range int64(3) {
		want = append(want, a.seal(t, pod, uint64(i)))
		_, err := a.holder.Replicate(t.Context(), pod, i+1)
		check(t, err)
	}
	slices.Reverse(want)
	held, err := b.holder.Held(t.Context(), pod)
	check(t, err)
	if diff := cmp.Diff(want, held, cmpopts.IgnoreFields(store.Generation{}, "NewBytes", "Facts", "Base")); diff != "" {
		t.Errorf("Held (-want +got):\n%s", diff)
	}
}

func difference(t *testing.T, c *cluster) {
	a := c.node(t)
	for i := range uint64(2) {
		gen := a.seal(t, pod, i)
		sent, err := a.holder.Replicate(t.Context(), pod, gen.Number)
		check(t, err)
		if sent != gen.NewBytes {
			t.Errorf("generation %d added %d bytes, and took %d", gen.Number, gen.NewBytes, sent)
		}
		if sent, err := a.holder.Replicate(t.Context(), pod, gen.Number); err != nil || sent != 0 {
			t.Errorf("a generation that was there took %d bytes: %v", sent, err)
		}
	}
}

func interruptedReplicate(t *testing.T, c *cluster) {
	for _, fault := range []Fault{Silence, Cut} {
		t.Run(fault.String(), func(t *testing.T) {
			key := pod
			key.PodUID = fault.String()
			a := c.node(t)
			gen := a.seal(t, key, 1)
			broken := c.nodeThrough(t, a.Store, func(p *Proxy) { p.Break(fault, gen.NewBytes/2) })
			if _, err := broken.holder.Replicate(t.Context(), key, 1); err == nil {
				t.Fatal("half of the bytes arrived, and Replicate did not notice")
			}
			if held, err := a.holder.Held(t.Context(), key); err != nil || len(held) > 0 {
				t.Fatalf("half a generation is held: %v, %v", held, err)
			}
			sent, err := a.holder.Replicate(t.Context(), key, 1)
			check(t, err)
			// What was under way when the connection was cut may be lost.
			if fault == Silence && sent > gen.NewBytes*3/4 {
				t.Errorf("half of %d bytes arrived, and %d were sent again", gen.NewBytes, sent)
			}
			b := c.node(t)
			check(t, b.holder.Fetch(t.Context(), key, 1))
			b.wantTree(t, key, 1, 1)
			a.wantUnused(t, key)
		})
	}
}

func interruptedFetch(t *testing.T, c *cluster) {
	a := c.node(t)
	gen := a.seal(t, pod, 1)
	_, err := a.holder.Replicate(t.Context(), pod, 1)
	check(t, err)
	for _, fault := range []Fault{Silence, Cut} {
		t.Run(fault.String(), func(t *testing.T) {
			own := c.store(t)
			broken := c.nodeThrough(t, own, func(p *Proxy) { p.Break(fault, gen.NewBytes*2/3) })
			if err := broken.holder.Fetch(t.Context(), pod, 1); err == nil {
				t.Fatal("a part of the bytes arrived, and Fetch did not notice")
			}
			if list, err := own.List(pod); err != nil || len(list) > 0 {
				t.Fatalf("a part of a generation is there: %v, %v", list, err)
			}
			var proxy *Proxy
			whole := c.nodeThrough(t, own, func(p *Proxy) { proxy = p })
			check(t, whole.holder.Fetch(t.Context(), pod, 1))
			if passed := proxy.Passed(); passed > gen.NewBytes*3/4 {
				t.Errorf("two thirds of %d bytes arrived, and %d came again", gen.NewBytes, passed)
			}
			whole.wantTree(t, pod, 1, 1)
			whole.wantUnused(t, pod)
		})
	}
}

func unknown(t *testing.T, c *cluster) {
	a := c.node(t)
	for range 2 { // of an unknown pod, and of a pod that has another generation
		_, err := a.holder.Replicate(t.Context(), pod, 9)
		wantNotFound(t, "Replicate", err)
		wantNotFound(t, "Fetch", a.holder.Fetch(t.Context(), pod, 9))
		_, err = a.holder.Segments(t.Context(), pod, 9)
		wantNotFound(t, "Segments", err)
		a.seal(t, pod, 1)
		_, err = a.holder.Replicate(t.Context(), pod, 1)
		check(t, err)
	}
	for _, key := range []store.Key{{}, {Namespace: "..", PodUID: "x"}, {Namespace: "a", PodUID: "../b"}} {
		if _, err := a.holder.Held(t.Context(), key); err == nil {
			t.Errorf("%v was taken for a pod", key)
		}
		if err := a.holder.Fetch(t.Context(), key, 1); err == nil {
			t.Errorf("%v was taken for a pod", key)
		}
		if _, err := a.holder.Segments(t.Context(), key, 1); err == nil {
			t.Errorf("%v was taken for a pod", key)
		}
	}
}

func wantNotFound(t testing.TB, call string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%s of a generation that is nowhere: %v", call, err)
	}
}

func damage(t *testing.T, c *cluster) {
	a, b := c.node(t), c.node(t)
	a.sealWith(t, pod, 1, processes(1))
	_, err := a.holder.Replicate(t.Context(), pod, 1)
	check(t, err)
	c.fixture.Damage(t, pod)
	// Whether the holder notices is its own affair; whoever reads it must.
	if err := b.holder.Fetch(t.Context(), pod, 1); err == nil {
		wantDamaged(t, "a damaged copy", b.Verify(t.Context(), pod, 1))
	}
	from, err := b.holder.Segments(t.Context(), pod, 1)
	check(t, err)
	r, err := b.OpenReader(t.Context(), pod, 1, from)
	check(t, err)
	defer r.Close()
	_, err = readMemory(t.Context(), r, "c")
	wantDamaged(t, "memory of a damaged copy", err)
}

func wantDamaged(t testing.TB, what string, err error) {
	t.Helper()
	var damaged *store.Damaged
	if !errors.As(err, &damaged) {
		t.Errorf("%s: want Damaged, got %v", what, err)
	}
}

func concurrent(t *testing.T, c *cluster) {
	a, b := c.node(t), c.node(t)
	var keys []store.Key
	for i := range 4 {
		key := store.Key{Namespace: "shop", PodUID: fmt.Sprint("pod-", i)}
		a.sealWith(t, key, uint64(i), processes(uint64(i)))
		keys = append(keys, key)
	}
	var calls sync.WaitGroup
	for _, key := range keys {
		for range 2 { // the same generation twice at once
			calls.Go(func() {
				if _, err := a.holder.Replicate(t.Context(), key, 1); err != nil {
					t.Error(err)
					return
				}
				held, err := b.holder.Held(t.Context(), key)
				if err != nil || len(held) != 1 {
					t.Errorf("held: %v, %v", held, err)
				}
				if err := b.holder.Fetch(t.Context(), key, 1); err != nil {
					t.Error(err)
					return
				}
				b.wantSegments(t, a, key, 1)
			})
		}
	}
	calls.Wait()
	for i, key := range keys {
		b.wantTree(t, key, 1, uint64(i))
	}
}
