package holdertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// calls are those that a node makes to a holder that worked until now: each needs
// an answer of it.
func (c *cluster) calls(t *testing.T) (calls map[string]func(context.Context) error, silence func(), nodes []*node) {
	t.Helper()
	a := c.node(t)
	a.seal(t, pod, 1)
	_, err := a.holder.Replicate(t.Context(), pod, 1)
	check(t, err)
	var proxies []*Proxy
	sender := c.nodeThrough(t, a.Store, func(p *Proxy) { proxies = append(proxies, p) })
	reader := c.nodeThrough(t, c.store(t), func(p *Proxy) { proxies = append(proxies, p) })
	// Every connection is made while the holder answers.
	_, err = sender.holder.Replicate(t.Context(), pod, 1)
	check(t, err)
	check(t, reader.holder.Fetch(t.Context(), pod, 1))
	check(t, reader.Remove(pod))
	from, err := reader.holder.Segments(t.Context(), pod, 1)
	check(t, err)
	t.Cleanup(func() { from.Close() })
	files, err := a.Files(pod, 1)
	check(t, err)
	small, large := make([]byte, 4096), make([]byte, files[0].GetSize())
	check(t, from.ReadAt(t.Context(), files[0].GetName(), small, 0))
	check(t, from.ReadAt(t.Context(), files[0].GetName(), large, 0))
	a.seal(t, pod, 2)
	return map[string]func(context.Context) error{
			"Held":         func(ctx context.Context) error { _, err := reader.holder.Held(ctx, pod); return err },
			"Replicate":    func(ctx context.Context) error { _, err := sender.holder.Replicate(ctx, pod, 2); return err },
			"Fetch":        func(ctx context.Context) error { return reader.holder.Fetch(ctx, pod, 1) },
			"Segments":     func(ctx context.Context) error { _, err := reader.holder.Segments(ctx, pod, 1); return err },
			"Manifest":     func(ctx context.Context) error { _, err := from.Manifest(ctx); return err },
			"a small read": func(ctx context.Context) error { return from.ReadAt(ctx, files[0].GetName(), small, 0) },
			"a large read": func(ctx context.Context) error { return from.ReadAt(ctx, files[0].GetName(), large, 0) },
		}, func() {
			for _, p := range proxies {
				p.Break(Silence, 0)
			}
		}, []*node{sender, reader}
}

func cancelled(t *testing.T, c *cluster) {
	calls, silence, nodes := c.calls(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls {
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled before: %v", name, err)
		}
	}
	silence()
	var waiting sync.WaitGroup
	for name, call := range calls {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		waiting.Go(func() {
			start := time.Now()
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, cancelled while it waits: %v", name, err)
			}
			if took := time.Since(start); took > Patience/2 {
				t.Errorf("%s, cancelled after 50 ms, took %s", name, took)
			}
		})
	}
	waiting.Wait()
	for _, n := range nodes {
		n.wantUnused(t, pod)
	}
}

func stalled(t *testing.T, c *cluster) {
	calls, silence, nodes := c.calls(t)
	silence()
	var waiting sync.WaitGroup
	for name, call := range calls {
		waiting.Go(func() {
			start := time.Now()
			if err := call(t.Context()); !errors.Is(err, transfer.ErrStalled) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(start); took > 3*Patience {
				t.Errorf("%s took %s to notice", name, took)
			}
		})
	}
	waiting.Wait()
	for _, n := range nodes {
		n.wantUnused(t, pod)
	}
}

func unreachable(t *testing.T, c *cluster) {
	a := c.node(t)
	a.seal(t, pod, 1)
	for _, fault := range []Fault{Silence, Cut} {
		t.Run(fault.String(), func(t *testing.T) {
			own := c.store(t)
			lost := c.nodeThrough(t, own, func(p *Proxy) { p.Break(fault, 0) })
			sender := c.nodeThrough(t, a.Store, func(p *Proxy) { p.Break(fault, 0) })
			for name, call := range map[string]func() error{
				"Held":      func() error { _, err := lost.holder.Held(t.Context(), pod); return err },
				"Replicate": func() error { _, err := sender.holder.Replicate(t.Context(), pod, 1); return err },
				"Fetch":     func() error { return lost.holder.Fetch(t.Context(), pod, 1) },
				"Segments":  func() error { _, err := lost.holder.Segments(t.Context(), pod, 1); return err },
			} {
				start := time.Now()
				if err := call(); err == nil || errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
				if took := time.Since(start); took > 3*Patience {
					t.Errorf("%s took %s to notice", name, took)
				}
			}
		})
	}
}
