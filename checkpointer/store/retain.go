package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"
)

// Retention says which generations of a pod are kept. The newest whole one always
// is, whatever its age: it is what the pod comes back from.
type Retention struct {
	// Count is how many are kept at most: the newest ones. It is at least 1.
	Count int
	// Age is how long ago the others may have been taken; 0 means no limit.
	Age time.Duration
	// Also are generations that are kept beside those.
	Also []int64
}

// keeps is whether a generation is kept that is the given number of whole ones
// older than the newest.
func (r Retention) keeps(newer int, takenAt, now time.Time) bool {
	return newer == 0 || newer < r.Count && (r.Age == 0 || now.Sub(takenAt) <= r.Age)
}

func (r Retention) validate() error {
	if r.Count < 1 || r.Age < 0 {
		return fmt.Errorf("%d generations of at most %v: keep at least one, and choose an age above 0, or 0 for any: %w", r.Count, r.Age, fs.ErrInvalid)
	}
	return nil
}

// Retain removes those of the pod's generations that need not be kept, with what
// only they refer to. Damaged generations are removed too. One that is being read
// stays until a later Retain.
func (s *Store) Retain(key Key, retention Retention) error {
	if err := errors.Join(key.Validate(), retention.validate()); err != nil {
		return fmt.Errorf("retain: %w", err)
	}
	p := s.pod(key)
	p.writing.Lock()
	defer p.writing.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	if err := s.retain(ctx, key, retention, time.Now()); err != nil {
		return fmt.Errorf("retain the newest generations of %s: %w", key, err)
	}
	return nil
}

func (s *Store) retain(ctx context.Context, key Key, retention Retention, now time.Time) error {
	numbers, err := s.numbers(key)
	if err != nil {
		return err
	}
	var drop []int64
	whole := 0
	for _, number := range numbers {
		m, err := s.summary(ctx, key, number)
		switch {
		case err == nil:
			if !slices.Contains(retention.Also, number) && !retention.keeps(whole, m.generation.TakenAt, now) {
				drop = append(drop, number)
			}
			whole++
		case removable(err):
			drop = append(drop, number)
		}
	}
	return s.collect(ctx, key, drop)
}

// removable is whether an error shows that a generation can never be restored
// from its files. A key that cannot be had, or is another one, may come back.
func removable(err error) bool {
	var damaged *Damaged
	return errors.As(err, &damaged) && !damaged.key
}

// collect removes generations in two passes: first their manifests, for good,
// and then the segments that no manifest refers to any more. So a manifest is
// never without its segments. The pod's writing lock must be held.
func (s *Store) collect(ctx context.Context, key Key, drop []int64) error {
	p := s.pod(key)
	if err := s.remember(key, drop); err != nil {
		return err
	}
	removed := false
	for _, number := range drop {
		dropped, err := s.drop(key, p, number)
		if err != nil {
			return err
		}
		removed = removed || dropped
	}
	if removed {
		if err := s.disk.syncFolder(key.path(manifestsFolder)); err != nil {
			return err
		}
	}
	return s.collectSegments(ctx, key)
}

// remember keeps the highest number of a pod when its manifest goes.
func (s *Store) remember(key Key, drop []int64) error {
	numbers, err := s.numbers(key)
	if err != nil || len(numbers) == 0 || !slices.Contains(drop, numbers[0]) {
		return err
	}
	latest, err := s.latest(key)
	if err != nil {
		return err
	}
	return s.pointTo(key, latest)
}

// drop removes a manifest, unless the generation is being read: whoever holds
// it from now on does not find it.
func (s *Store) drop(key Key, p *pod, number int64) (dropped bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readers[number] > 0 {
		return false, nil
	}
	delete(p.summaries, number)
	return true, s.removeFile(key.path(manifestName(number)))
}

// collectSegments is the second pass. It does nothing while a manifest cannot
// be read, because it could refer to anything, and while files are being
// received, because their manifest comes last.
func (s *Store) collectSegments(ctx context.Context, key Key) error {
	p := s.pod(key)
	p.mu.Lock()
	defer p.mu.Unlock() // no import begins meanwhile
	if p.imports > 0 {
		return nil
	}
	if err := s.collectPartials(key); err != nil {
		return err
	}
	numbers, err := s.numbers(key)
	if err != nil {
		return err
	}
	referred := map[fileID]bool{}
	for _, number := range numbers {
		m, ok := p.summaries[number]
		if !ok {
			p.mu.Unlock()
			_, err := s.cachedSummary(ctx, key, number)
			p.mu.Lock()
			if err != nil || p.imports > 0 {
				return nil
			}
			m = p.summaries[number]
		}
		for _, seg := range m.manifest.segments {
			referred[seg.id] = true
		}
	}
	names, err := s.disk.names(key.path(segmentsFolder))
	if err != nil {
		return err
	}
	removed := false
	for _, name := range names {
		id, ok := parseSegmentName(segmentsFolder + "/" + name)
		if !ok || referred[id] {
			continue
		}
		if err := s.removeFile(key.path(segmentName(id))); err != nil {
			return err
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return s.disk.syncFolder(key.path(segmentsFolder))
}

// removeFile removes a file, and its size from the store's.
func (s *Store) removeFile(name string) error {
	size, err := s.disk.size(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.disk.remove(name); err != nil {
		return err
	}
	s.used.Add(-size)
	return nil
}

// Remove removes all that the store has of a pod. It returns ErrInUse when a
// generation of it is being read or received.
func (s *Store) Remove(key Key) error {
	if err := key.Validate(); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	p := s.pod(key)
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.imports > 0 || len(p.readers) > 0 {
		return fmt.Errorf("remove %s: %w", key, ErrInUse)
	}
	clear(p.summaries)
	// Manifests go first: what is interrupted leaves no generation without its segments.
	for _, folder := range []string{manifestsFolder, segmentsFolder} {
		if err := s.removeFolder(key.path(folder)); err != nil {
			return fmt.Errorf("remove %s: %w", key, err)
		}
	}
	if err := s.removeFolder(key.folder()); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// removeFolder removes a folder of files, if it is there.
func (s *Store) removeFolder(folder string) error {
	if _, err := s.disk.root.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	names, err := s.disk.names(folder)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.removeFile(path.Join(folder, name)); err != nil {
			return err
		}
	}
	if err := s.disk.syncFolder(folder); err != nil {
		return err
	}
	if err := s.disk.remove(folder); err != nil {
		return err
	}
	return s.disk.syncFolder(path.Dir(folder))
}

// reserve counts bytes that are about to be written. Where they would exceed
// the budget it first drops old generations; writer is the pod whose writing
// lock the caller holds, if any.
func (s *Store) reserve(writer Key, bytes int64) error {
	used := s.used.Add(bytes)
	if s.options.MaxBytes == 0 || used <= s.options.MaxBytes {
		return nil
	}
	err := s.makeRoom(writer)
	if err == nil && s.used.Load() <= s.options.MaxBytes {
		return nil
	}
	s.used.Add(-bytes)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %d bytes are allowed, and the newest generation of each pod is all that is left: "+
		"raise the limit, or protect fewer pods on this node", ErrBudget, s.options.MaxBytes)
}

// makeRoom drops generations, oldest first, until the budget is kept. The
// newest whole generation of each pod stays.
func (s *Store) makeRoom(writer Key) error {
	keys, err := s.Pods()
	if err != nil {
		return err
	}
	if err := s.dropPartials(keys); err != nil {
		return err
	}
	type candidate struct {
		key     Key
		number  int64
		takenAt time.Time
	}
	var candidates []candidate
	for _, key := range keys {
		list, err := s.List(key)
		if err != nil {
			continue // its keys cannot be had now: nothing of it is dropped
		}
		for i, gen := range list {
			if i > 0 {
				candidates = append(candidates, candidate{key, gen.Number, gen.TakenAt})
			}
		}
	}
	slices.SortFunc(candidates, func(a, b candidate) int { return a.takenAt.Compare(b.takenAt) })
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	// A little more than is needed now, so that the next chunk has room too.
	enough := s.options.MaxBytes - s.options.MaxBytes/64
	for _, c := range candidates {
		if s.used.Load() <= enough {
			return nil
		}
		p := s.pod(c.key)
		if c.key != writer {
			// Its writer may be waiting for ours: no waiting for it here.
			if !p.writing.TryLock() {
				continue
			}
		}
		err := s.collect(ctx, c.key, []int64{c.number})
		if c.key != writer {
			p.writing.Unlock()
		}
		if err != nil {
			return fmt.Errorf("drop generation %d of %s: %w", c.number, c.key, err)
		}
	}
	return nil
}
