package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Checked is what a check found of one generation.
type Checked struct {
	Key    Key
	Number int64
	// TakenAt, Files and Bytes are of no use when the manifest could not be read.
	TakenAt time.Time
	Files   int
	Bytes   int64 // of all its files, those that it shares with others included
	// Err is nil when all of the generation is as it was written. A *Damaged says
	// what is wrong with it; with any other error it could not be checked.
	Err error
}

// CheckAll reads every generation of every pod, and compares all of it with its
// hashes: at most that many bytes in each second, or as fast as it can when that
// is 0. What generations share is read once. What it finds damaged is from then on
// neither listed nor built upon. Generations that are dropped meanwhile are left out.
//
// The error says why the check ended early; what it found until then is returned too.
func (s *Store) CheckAll(ctx context.Context, bytesPerSecond int64) ([]Checked, error) {
	var pace *rate.Limiter
	if bytesPerSecond > 0 {
		pace = rate.NewLimiter(rate.Limit(bytesPerSecond), checkAtOnce*(chunkSize+sealOverhead))
	}
	keys, err := s.Pods()
	if err != nil {
		return nil, fmt.Errorf("check the store: %w", err)
	}
	var found []Checked
	for _, key := range keys {
		numbers, err := s.numbers(key)
		if err != nil {
			return found, fmt.Errorf("check %s: %w", key, err)
		}
		v := &verification{pace: pace, read: map[fileID][]uint64{}}
		for _, number := range numbers {
			c := s.checkOne(ctx, key, number, v)
			if ctx.Err() != nil {
				return found, fmt.Errorf("check generation %d of %s: %w", number, key, context.Cause(ctx))
			}
			if c.Err != nil && !s.holds(key, number) {
				continue
			}
			found = append(found, c)
		}
	}
	return found, nil
}

// holds is whether a generation's manifest is there. Where it is not, its
// segments may go too.
func (s *Store) holds(key Key, number int64) bool {
	_, err := s.disk.size(key.path(manifestName(number)))
	return err == nil
}

func (s *Store) checkOne(ctx context.Context, key Key, number int64, v *verification) Checked {
	c := Checked{Key: key, Number: number}
	r, err := s.openLocal(ctx, key, number)
	if err != nil {
		c.Err = err
		return c
	}
	defer r.Close()
	c.TakenAt, c.Files = r.manifest.generation.TakenAt, len(r.manifest.segments)+1
	c.Bytes, c.Err = s.disk.size(key.path(manifestName(number)))
	for _, seg := range r.manifest.segments {
		c.Bytes += seg.size
	}
	if c.Err == nil {
		c.Err = r.verify(ctx, v)
	}
	return c
}

// Scrub checks the store again and again, with a pause between, until the context
// ends. It passes what is not whole to report.
func (s *Store) Scrub(ctx context.Context, every time.Duration, bytesPerSecond int64, report func(Checked)) {
	pause := time.NewTicker(every)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		found, err := s.CheckAll(ctx, bytesPerSecond)
		for _, c := range found {
			if c.Err != nil {
				report(c)
			}
		}
		if err != nil && ctx.Err() == nil {
			s.options.Logger.Warn("check of the store ended early", "err", err)
		}
		pause.Reset(every)
	}
}

// verification is what several generations of a pod are verified with.
type verification struct {
	pace *rate.Limiter // nil for no limit

	mu sync.Mutex
	// read has a bit for each chunk that was found whole, by its number in its segment.
	read map[fileID][]uint64
}

func (v *verification) has(id fileID, index uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	bits := v.read[id]
	return index/64 < uint64(len(bits)) && bits[index/64]>>(index%64)&1 != 0
}

func (v *verification) add(id fileID, index uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	bits := v.read[id]
	for uint64(len(bits)) <= index/64 {
		bits = append(bits, 0)
	}
	bits[index/64] |= 1 << (index % 64)
	v.read[id] = bits
}

// wait waits until so many bytes may be read.
func (v *verification) wait(ctx context.Context, bytes int) error {
	if v.pace == nil {
		return nil
	}
	if err := v.pace.WaitN(ctx, bytes); err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return nil
}
