package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// asked is how many pages the first question to a restored workload is about.
	asked = 64
	// checked is how many pages are compared once all memory is filled in.
	checked = 512
	// before is how many generations are taken ahead of the one that is restored.
	before = 3
	// restoreTime bounds one restore, with its first answer.
	restoreTime = 3 * time.Minute
)

// source is what containers are restored from.
type source struct {
	subject *subject // it is gone, but what was in its memory is known
	home    *peer
	key     store.Key
	number  int64
}

// restores measures how fast a workload is back: runc's restore of runc's images,
// Lifeboat's from the node's own store, and Lifeboat's from another node's.
func (r *rig) restores(ctx context.Context, rows []row) (err error) {
	home, err := r.peers.add(ctx, "home")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.close()) }()
	for _, at := range rows {
		from, err := r.source(ctx, at, home)
		if err != nil {
			return err
		}
		r.progress("%s: %d restores of each kind", at.name(), at.Runs)
		for run := range at.Runs {
			for _, side := range []side{stock, ours, away} {
				if err := r.oneRestore(ctx, at, from, side, run); err != nil {
					return fmt.Errorf("restore by %s: %w", side, err)
				}
			}
		}
		r.tell(event{Done: &at})
	}
	return nil
}

// source takes checkpoints of a workload, and runc's at the same state, and ends it.
func (r *rig) source(ctx context.Context, at row, home *peer) (_ *source, err error) {
	s, err := r.started(ctx, at.workload)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	target, err := s.target()
	if err != nil {
		return nil, err
	}
	l := protect(r.engine, home, target)
	from := &source{subject: s, home: home, key: l.key}
	for range before {
		if _, err := r.generation(ctx, l); err != nil {
			return nil, err
		}
		if err := s.rewrite(ctx, at.Dirty); err != nil {
			return nil, err
		}
	}
	newest, err := r.generation(ctx, l)
	if err != nil {
		return nil, err
	}
	from.number = newest.Number
	if err := errors.Join(removeStock(), stockCheckpoint(s)); err != nil {
		return nil, fmt.Errorf("checkpoint with runc: %w", err)
	}
	return from, nil
}

// oneRestore restores the source in a new pod, and measures until it answers right.
func (r *rig) oneRestore(ctx context.Context, at row, from *source, by side, run int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, restoreTime)
	defer cancel()
	s, err := newSubject(at.workload)
	if err != nil {
		return err
	}
	s.versions = from.subject.versions
	where, holder := from.home, (*peer)(nil)
	if by == away {
		// As after a failure on a node that held no copy.
		if where, err = r.peers.add(ctx, "new"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, where.close()) }()
		holder = from.home
	}
	memory, took, err := r.timed(ctx, s, func() (*restored, error) {
		if by == stock {
			return nil, stockRestore(s)
		}
		return restore(ctx, r.engine, where, holder, from.key, from.number, s)
	})
	defer func() { err = errors.Join(err, s.remove()) }()
	if err != nil {
		return err
	}
	r.sample(at, by, firstAnswer, run, took.Seconds())
	if memory != nil {
		for _, p := range memory.phases {
			r.sample(at, by, phasePrefix+p.name, run, p.took.Seconds())
		}
		drain, err := memory.drained()
		if err != nil {
			return err
		}
		r.sample(at, by, drainBytes, run, float64(drain.bytes))
		r.sample(at, by, drainTime, run, drain.took.Seconds())
		r.sample(at, by, faults, run, float64(drain.faults))
	}
	all := s.question(checked)
	_, err = s.firstAnswer(ctx, all.line(), all.check)
	return err
}

// timed restores a subject, and measures from the moment of the runtime's create
// until it has given the right answer to a question about its memory.
func (r *rig) timed(ctx context.Context, s *subject, restore func() (*restored, error)) (*restored, time.Duration, error) {
	type answer struct {
		at  time.Time
		err error
	}
	answers := make(chan answer, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	question := s.question(asked)
	begin := time.Now()
	go func() {
		at, err := s.firstAnswer(ctx, question.line(), question.check)
		answers <- answer{at, err}
	}()
	memory, err := restore()
	if err != nil {
		cancel() // nobody will answer
		<-answers
		return nil, 0, err
	}
	first := <-answers
	if first.err != nil {
		return memory, 0, fmt.Errorf("wait for the first answer: %w", first.err)
	}
	return memory, first.at.Sub(begin), nil
}
