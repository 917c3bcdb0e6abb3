package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// quietWindows and quietWindow are how the noise is measured: the longest gap
	// in moments without a checkpoint.
	quietWindows = 5
	quietWindow  = 200 * time.Millisecond
)

// checkpoints measures the pauses of a workload, Lifeboat's and stock's in turn.
func (r *rig) checkpoints(ctx context.Context, rows []row) (err error) {
	home, err := r.peers.add(ctx, "home")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.close()) }()
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
	// The first checkpoint takes all memory, and is none of those that repeat.
	if _, err := r.generation(ctx, l); err != nil {
		return err
	}
	for _, at := range rows {
		r.progress("%s: %d checkpoints", at.name(), at.Runs)
		if err := r.quiet(ctx, at, s); err != nil {
			return err
		}
		for run := range at.Runs {
			if err := s.rewrite(ctx, at.Dirty); err != nil {
				return err
			}
			if at.withStock(run) {
				if err := r.stockPause(ctx, at, s, run); err != nil {
					return fmt.Errorf("checkpoint with runc: %w", err)
				}
			}
			if err := r.ourPause(ctx, at, s, l, run); err != nil {
				return err
			}
		}
		r.tell(event{Done: &at})
	}
	return nil
}

// generation takes a checkpoint, and stores it.
func (r *rig) generation(ctx context.Context, l *lifeboat) (store.Generation, error) {
	t, err := l.checkpoint(ctx)
	if err != nil {
		return store.Generation{}, err
	}
	return l.seal(ctx, t)
}

// quiet measures the gaps that are there without any checkpoint.
func (r *rig) quiet(ctx context.Context, at row, s *subject) error {
	for run := range quietWindows {
		if _, err := s.gap(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quietWindow):
		}
		gap, err := s.gap(ctx)
		if err != nil {
			return err
		}
		r.sample(at, ours, quietGap, run, gap.Seconds())
	}
	return nil
}

func (r *rig) stockPause(ctx context.Context, at row, s *subject, run int) error {
	if _, err := s.gap(ctx); err != nil {
		return err
	}
	begin := time.Now()
	if err := stockCheckpoint(s); err != nil {
		return err
	}
	took := time.Since(begin)
	gap, err := s.gap(ctx)
	if err != nil {
		return err
	}
	r.sample(at, stock, pauseGap, run, gap.Seconds())
	r.sample(at, stock, total, run, took.Seconds())
	return removeStock()
}

func (r *rig) ourPause(ctx context.Context, at row, s *subject, l *lifeboat, run int) error {
	if _, err := s.gap(ctx); err != nil {
		return err
	}
	begin := time.Now()
	t, err := l.checkpoint(ctx)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	gap, err := s.gap(ctx)
	if err != nil {
		return err
	}
	r.sample(at, ours, pauseGap, run, gap.Seconds())
	r.sample(at, ours, pauseEngine, run, t.pause.Seconds())
	r.sample(at, ours, total, run, took.Seconds())
	for _, p := range t.phases {
		r.sample(at, ours, phasePrefix+p.name, run, p.took.Seconds())
	}
	// It is what the next one is based on.
	_, err = l.seal(ctx, t)
	return err
}
