package main

import (
	"testing"
	"time"
)

func TestTheProbeKnowsTheGapThatEndsWithTheQuestion(t *testing.T) {
	var p probe
	go p.run()
	p.gap()
	const hold = 50 * time.Millisecond
	for range 5 {
		// While it is held the probe can make no look.
		p.mu.Lock()
		time.Sleep(hold)
		p.mu.Unlock()
		if gap := p.gap(); gap < hold {
			t.Errorf("the probe was held for %v, and says %v", hold, gap)
		}
	}
	if gap := p.gap(); gap >= hold {
		t.Errorf("nothing held the probe, and it says %v", gap)
	}
}
