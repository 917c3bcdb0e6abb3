package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// tooFewHolders means that a generation is not durable: not enough nodes took a copy.
type tooFewHolders struct {
	want, have int
	err        error
}

func (e *tooFewHolders) Error() string {
	text := fmt.Sprintf("%d of %d other nodes took a copy", e.have, e.want)
	if e.err != nil {
		return text + ": " + e.err.Error()
	}
	return text + "; no other node with a checkpointer is there"
}

func (e *tooFewHolders) Unwrap() error { return e.err }

// replicate copies a generation to as many other nodes as asked for, and returns which
// and how many bytes were sent. It returns tooFewHolders when it cannot.
func (a *Agent) replicate(ctx context.Context, key store.Key, number int64, replicas int, previous []string) (holders []string, sent int64, err error) {
	var fences v1alpha1.FenceList
	if err := a.cache.List(ctx, &fences); err != nil {
		return nil, 0, fmt.Errorf("list fences: %w", err)
	}
	var last error
	for _, h := range chooseHolders(a.cfg.NodeName, key.PodUID, previous, fences.Items) {
		if len(holders) == replicas {
			break
		}
		bytes, err := a.peers.Holder(h.node, h.address).Replicate(ctx, key, number)
		sent += bytes
		if errors.Is(err, transfer.ErrMoved) {
			return holders, sent, err // others would say the same, or not know it yet
		}
		if err != nil {
			last = fmt.Errorf("copy generation %d to node %s: %w", number, h.node, err)
			continue
		}
		holders = append(holders, h.node)
	}
	if len(holders) < replicas {
		return holders, sent, &tooFewHolders{want: replicas, have: len(holders), err: last}
	}
	return holders, sent, nil
}
