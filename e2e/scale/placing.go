package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// placements watches pods appear and get their nodes.
type placements struct {
	mu     sync.Mutex
	seen   map[string]time.Time // by the pod's name
	placed map[string]placement
	ended  error // why nothing more is seen
	more   chan struct{}
}

// placement is where a pod was placed, and when that was seen.
type placement struct {
	node string
	at   time.Time
}

// watchPlacements sees what happens from now on, until ctx ends.
func watchPlacements(ctx context.Context, api client.WithWatch) (*placements, error) {
	p := &placements{seen: map[string]time.Time{}, placed: map[string]placement{}, more: make(chan struct{}, 1)}
	return p, follow(ctx, api, &corev1.PodList{}, p.note, p.end, client.InNamespace(namespace))
}

func (p *placements) note(event watch.Event) {
	pod, ok := event.Object.(*corev1.Pod)
	if !ok {
		return
	}
	now := time.Now()
	p.mu.Lock()
	if _, ok := p.seen[pod.Name]; !ok {
		p.seen[pod.Name] = now
	}
	if _, ok := p.placed[pod.Name]; !ok && pod.Spec.NodeName != "" {
		p.placed[pod.Name] = placement{pod.Spec.NodeName, now}
	}
	p.mu.Unlock()
	p.kick()
}

func (p *placements) end(err error) {
	p.mu.Lock()
	p.ended = errors.Join(p.ended, err)
	p.mu.Unlock()
	p.kick()
}

func (p *placements) kick() {
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// all waits until so many pods have nodes, as long as one more gets a node in every
// patience.
func (p *placements) all(ctx context.Context, n int, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for before := -1; ; {
		p.mu.Lock()
		placed, ended := len(p.placed), p.ended
		p.mu.Unlock()
		if placed >= n {
			return nil
		}
		if ended != nil {
			return ended
		}
		if placed > before {
			before = placed
			timer.Reset(patience)
		}
		select {
		case <-p.more:
		case <-timer.C:
			return fmt.Errorf("%d of %d pods have nodes, and in %s no other got one", placed, n, patience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// span is the time from the first placement of some pods to the last.
func (p *placements) span(names []string) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first, last time.Time
	for _, name := range names {
		at := p.placed[name].at
		if at.IsZero() {
			return 0, fmt.Errorf("pod %s has no node", name)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	if last.Sub(first) <= 0 {
		return 0, fmt.Errorf("%d pods got their nodes in no time", len(names))
	}
	return last.Sub(first), nil
}

// latencies are how long some pods were there without a node.
func (p *placements) latencies(names []string) ([]time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	latencies := make([]time.Duration, len(names))
	for i, name := range names {
		seen, ok := p.seen[name]
		at := p.placed[name].at
		if !ok || at.IsZero() {
			return nil, fmt.Errorf("pod %s has no node", name)
		}
		latencies[i] = at.Sub(seen)
	}
	return latencies, nil
}

// nodeOf is where a pod was placed.
func (p *placements) nodeOf(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.placed[name].node
}
