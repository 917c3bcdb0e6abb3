package main

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// generations measures what a workload's generations take: in the store, on the
// network, and of a processor.
func (r *rig) generations(ctx context.Context, rows []row) (err error) {
	home, err := r.peers.add(ctx, "home")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.close()) }()
	holder, err := r.peers.add(ctx, "holder")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, holder.close()) }()
	s, err := r.started(ctx, rows[0].workload)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	target, err := s.target()
	if err != nil {
		return err
	}
	l := protect(r.engine, home, target)
	defer func() { err = errors.Join(err, l.close()) }()

	first, err := r.generation(ctx, l)
	if err != nil {
		return err
	}
	if _, err := home.client.Holder("peer", holder.address).Replicate(ctx, l.key, first.Number); err != nil {
		return err
	}
	for _, at := range rows {
		r.progress("%s: %d generations", at.name(), at.Runs)
		size, err := s.resident()
		if err != nil {
			return err
		}
		r.sample(at, ours, resident, 0, float64(size))
		r.sample(at, ours, firstNew, 0, float64(first.NewBytes))
		for run := range at.Runs {
			if err := s.rewrite(ctx, at.Dirty); err != nil {
				return err
			}
			if err := r.oneGeneration(ctx, at, l, holder, run); err != nil {
				return err
			}
		}
		if at.Dirty == 0 {
			if err := r.unchanged(ctx, at, l); err != nil {
				return err
			}
		}
		r.tell(event{Done: &at})
	}
	return nil
}

func (r *rig) oneGeneration(ctx context.Context, at row, l *lifeboat, holder *peer, run int) error {
	before, err := processorTime()
	if err != nil {
		return err
	}
	generation, err := r.generation(ctx, l)
	if err != nil {
		return err
	}
	after, err := processorTime()
	if err != nil {
		return err
	}
	sent, err := l.home.client.Holder("peer", holder.address).Replicate(ctx, l.key, generation.Number)
	if err != nil {
		return err
	}
	if err := holder.store.Retain(l.key, kept); err != nil {
		return err
	}
	r.sample(at, ours, processor, run, (after - before).Seconds())
	r.sample(at, ours, storedNew, run, float64(generation.NewBytes))
	r.sample(at, ours, sentNew, run, float64(sent))
	return nil
}

// unchangedRuns is how often an unchanged generation is sealed by one processor.
const unchangedRuns = 3

// unchanged measures how fast one processor seals memory that has not changed.
func (r *rig) unchanged(ctx context.Context, at row, l *lifeboat) error {
	for run := range unchangedRuns {
		t, err := l.checkpoint(ctx)
		if err != nil {
			return err
		}
		took, err := onOneProcessor(func() error {
			_, err := l.seal(ctx, t)
			return err
		})
		if err != nil {
			return err
		}
		r.sample(at, ours, sealAlone, run, took.Seconds())
	}
	return nil
}

// onOneProcessor measures do while no other goroutine runs beside it.
func onOneProcessor(do func() error) (time.Duration, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	begin := time.Now()
	err := do()
	return time.Since(begin), err
}
