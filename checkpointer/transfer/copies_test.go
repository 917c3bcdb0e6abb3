package transfer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer/holdertest"
)

// newWholePair returns two nodes that put each generation into one segment.
func newWholePair(t testing.TB) (a, b *node) {
	authority, keys := newAuthority(t), storetest.NewKeys()
	options := store.Options{SegmentBytes: 64 << 20}
	return newNode(t, authority, keys, options), newNode(t, authority, keys, options)
}

// partial waits for what a copy that was interrupted left, and returns its file.
func (n *node) partial(t testing.TB) (file string, size int64) {
	t.Helper()
	var list []store.Partial
	waitFor(t, "a part of a segment is left", func() bool {
		var err error
		list, err = n.store.Partials(pod)
		check(t, err)
		return len(list) == 1
	})
	return filepath.Join(n.dir, pod.Namespace, pod.PodUID, list[0].Name+".partial"), list[0].Size
}

func waitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come about that %s", what)
		}
	}
}

func flip(t testing.TB, file string, position int64) {
	t.Helper()
	content, err := os.ReadFile(file)
	check(t, err)
	content[position] ^= 1
	check(t, os.WriteFile(file, content, 0o600))
}

func TestReplicateGoesOnWithinASegment(t *testing.T) {
	for name, hurt := range map[string]bool{"the beginning is right": false, "the beginning is wrong": true} {
		t.Run(name, func(t *testing.T) {
			a, b := newWholePair(t)
			gen := a.seal(t, 1)
			a.client.SetPatience(500 * time.Millisecond)
			way := holdertest.NewProxy(t, b.address)
			way.Break(holdertest.Silence, gen.NewBytes/2)
			if _, err := a.client.Replicate(t.Context(), way.Address, pod, 1); !errors.Is(err, transfer.ErrStalled) {
				t.Fatalf("want %v, got %v", transfer.ErrStalled, err)
			}
			a.client.SetPatience(10 * time.Second)
			// The other node learns of the end when the connection ends.
			way.Break(holdertest.Cut, 0)
			file, size := b.partial(t)
			if hurt {
				flip(t, file, size/2)
			}
			sent, err := a.client.Replicate(t.Context(), b.address, pod, 1)
			check(t, err)
			// What the other node refuses may have been on its way already.
			if again := sent >= gen.NewBytes; again != hurt || !hurt && sent != gen.NewBytes-size {
				t.Errorf("of %d bytes %d were there, and %d were sent again", gen.NewBytes, size, sent)
			}
			b.wantTree(t, 1, 1)
			if left, err := b.store.Partials(pod); err != nil || len(left) > 0 {
				t.Errorf("%v is left over: %v", left, err)
			}
		})
	}
}

func TestFetchGoesOnWithinASegment(t *testing.T) {
	for name, hurt := range map[string]bool{"the beginning is right": false, "the beginning is wrong": true} {
		t.Run(name, func(t *testing.T) {
			a, b := newWholePair(t)
			gen := a.seal(t, 1)
			if err := b.client.Fetch(t.Context(), proxy(t, a.address, holdertest.Cut, gen.NewBytes*2/3), pod, 1); err == nil {
				t.Fatal("the connection was cut, and Fetch did not notice")
			}
			file, size := b.partial(t)
			if hurt {
				flip(t, file, size-1)
				size = 0
			}
			way := holdertest.NewProxy(t, a.address)
			check(t, b.client.Fetch(t.Context(), way.Address, pod, 1))
			// TLS and HTTP/2 take some bytes of their own.
			if passed, least := way.Passed(), gen.NewBytes-size; passed < least || passed > least+least/10+10_000 {
				t.Errorf("of %d bytes %d were there, and %d came", gen.NewBytes, size, passed)
			}
			b.wantTree(t, 1, 1)
		})
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := transfer.NewLimiter(1 << 20)
		check(t, err)
		check(t, limiter.Wait(t.Context(), 1<<20)) // takes what there is at first
		start := time.Now()
		for range 10 {
			check(t, limiter.Wait(t.Context(), 3<<20))
		}
		if took := time.Since(start); took < 29*time.Second || took > 31*time.Second {
			t.Errorf("30 MiB at 1 MiB per second took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := limiter.Wait(ctx, 10<<20); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := limiter.Wait(ctx, 10<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("past the deadline: %v", err)
		}
	})
	if limiter, err := transfer.NewLimiter(0); err != nil || limiter.Wait(t.Context(), 1<<40) != nil {
		t.Errorf("no limit limits: %v", err)
	}
	for _, wrong := range []int64{-1, 1, 1000} {
		if _, err := transfer.NewLimiter(wrong); err == nil {
			t.Errorf("%d bytes per second are taken for a limit", wrong)
		}
	}
}

func TestOnlyReplicateIsLimited(t *testing.T) {
	authority, keys := newAuthority(t), storetest.NewKeys()
	a, b := newNode(t, authority, keys, store.Options{}), newNode(t, authority, keys, store.Options{})
	config, err := authority.ClientTLS("client")
	check(t, err)
	limiter, err := transfer.NewLimiter(2 << 20)
	check(t, err)
	limited := transfer.NewClient(a.store, config, transfer.WithLimiter(limiter))
	defer limited.Close()
	limited.SetPatience(3 * time.Second)
	gen := a.seal(t, 1)
	start := time.Now()
	_, err = limited.Replicate(t.Context(), b.address, pod, 1)
	check(t, err)
	// A quarter of a second's worth may go at once.
	if took, least := time.Since(start), time.Duration(gen.NewBytes-512<<10)*time.Second/(2<<20); took < least {
		t.Errorf("%d bytes at 2 MiB per second took %s, less than %s", gen.NewBytes, took, least)
	}
	check(t, a.store.Remove(pod))
	start = time.Now()
	check(t, limited.Fetch(t.Context(), b.address, pod, 1))
	t.Logf("the way back took %s", time.Since(start))
	// Nothing is left of the bucket: a Fetch that waited for it would take as long.
	if took, limit := time.Since(start), time.Duration(gen.NewBytes-512<<10)*time.Second/(2<<20); took > limit {
		t.Errorf("a fetch of %d bytes took %s", gen.NewBytes, took)
	}
}
