package main

import (
	"bufio"
	"fmt"
	"sync"
	"sync/atomic"
)

// finding is a history that failed.
type finding struct {
	history uint64
	failure string
}

func (f *finding) String() string { return fmt.Sprintf("history %d: %s", f.history, f.failure) }

// campaign plays histories 0 to count-1 on several cores, and returns what they
// counted and the failure with the lowest number, nil if there is none. After a
// failure only the histories before it are played.
func campaign(o options, count uint64, workers int) (stats, *finding) {
	var next, limit atomic.Uint64
	limit.Store(count)
	var mu sync.Mutex
	var first *finding
	total := newStats()
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			w := newWorld(o)
			for {
				history := next.Add(1) - 1
				if history >= limit.Load() {
					break
				}
				failure := w.play(history)
				if failure == "" {
					continue
				}
				mu.Lock()
				if first == nil || history < first.history {
					first = &finding{history, failure}
					limit.Store(history) // those before it are played to the end
				}
				mu.Unlock()
			}
			mu.Lock()
			total.add(&w.stats)
			mu.Unlock()
		})
	}
	group.Wait()
	return total, first
}

// retell plays one history and writes what happens in it.
func retell(o options, history uint64, out *bufio.Writer) (failure string) {
	w := newWorld(o)
	w.trace = out
	return w.play(history)
}
