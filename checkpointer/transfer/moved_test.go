package transfer_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// TestMovedPodIsRefused: whenever in a copy the news comes that the pod was moved,
// its holder has no new generation, keeps the one that its successor comes from, and
// the sender knows why. Other pods are taken.
func TestMovedPodIsRefused(t *testing.T) {
	refusals := 0
	for late := int64(0); ; late++ {
		a, b := newPair(t)
		a.seal(t, 1)
		_, err := a.client.Replicate(t.Context(), b.address, pod, 1)
		check(t, err)
		var asked atomic.Int64
		transfer.RefuseMoved(func(key store.Key) bool { return key == pod && asked.Add(1) > late })(b.server)
		a.seal(t, 2)
		_, err = a.client.Replicate(t.Context(), b.address, pod, 2)
		held, listErr := b.store.List(pod)
		check(t, listErr)
		if err == nil {
			if len(held) != 2 {
				t.Errorf("told nothing, the holder has %d generations", len(held))
			}
			break // the news came after the last question
		}
		refusals++
		if !errors.Is(err, transfer.ErrMoved) {
			t.Errorf("the sender is told: %v", err)
		}
		if len(held) != 1 || held[0].Number != 1 {
			t.Errorf("with the news after %d questions the holder has %v", late, held)
		}
	}
	if refusals < 3 {
		t.Errorf("a copy asks %d times only: it is not asked before each file", refusals)
	}
}
