package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"lukechampine.com/blake3"
)

const (
	// partialSuffix marks the beginning of a segment whose import was interrupted.
	partialSuffix = ".partial"
	// minPartial is the shortest beginning that is worth keeping, in bytes.
	minPartial = 64 << 10
	// partialLifetime is how long a beginning waits for the rest. After it the
	// next collection, or the next Open, removes it.
	partialLifetime = time.Hour
)

// Partial is the beginning of a segment, left by an import that was interrupted.
// It was not synced, and nobody has checked it: compare its hash with that of the
// whole segment before it is gone on with.
type Partial struct {
	// Name is the segment's file, relative to the pod's folder.
	Name string
	// Size is how many bytes of it are there.
	Size int64
}

// Partials lists what interrupted imports of a pod left.
func (s *Store) Partials(key Key) ([]Partial, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	names, err := s.disk.names(key.path(segmentsFolder))
	if err != nil {
		return nil, fmt.Errorf("list interrupted imports of %s: %w", key, err)
	}
	var partials []Partial
	for _, name := range names {
		segment, ok := parsePartialName(segmentsFolder + "/" + name)
		if !ok {
			continue
		}
		size, err := s.disk.size(key.path(partialName(segment)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // an import goes on with it
		}
		if err != nil {
			return nil, fmt.Errorf("list interrupted imports of %s: %w", key, err)
		}
		partials = append(partials, Partial{segment, size})
	}
	return partials, nil
}

// HashSegment returns the BLAKE3 hash, with 32 bytes, of the first size bytes of
// a segment.
func (s *Store) HashSegment(ctx context.Context, key Key, name string, size int64) ([]byte, error) {
	return s.hashBeginning(ctx, key, name, name, size)
}

// HashPartial returns the same of what an interrupted import left of one.
func (s *Store) HashPartial(ctx context.Context, key Key, name string, size int64) ([]byte, error) {
	return s.hashBeginning(ctx, key, name, partialName(name), size)
}

func (s *Store) hashBeginning(ctx context.Context, key Key, segment, name string, size int64) ([]byte, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	if _, ok := parseSegmentName(segment); !ok {
		return nil, errName(segment)
	}
	hash, err := s.hashFile(ctx, key.path(name), size)
	if err != nil {
		return nil, fmt.Errorf("hash %d bytes of %s of %s: %w", size, name, key, err)
	}
	return hash, nil
}

func (s *Store) hashFile(ctx context.Context, name string, size int64) ([]byte, error) {
	file, err := s.disk.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	hasher := blake3.New(32, nil)
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := io.CopyN(hasher, file, min(left, writeSize))
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%d bytes are not there: %w", left-n, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return nil, err
		}
		left -= n
	}
	return hasher.Sum(nil), nil
}

// Resume goes on to receive a segment of the given size in bytes, of which the
// first offset bytes were received before and have the given BLAKE3 hash. When
// that is not so, what is there is removed, and the error wraps
// ErrNoPartial: Create begins anew then.
func (i *Import) Resume(ctx context.Context, name string, size, offset int64, hash []byte) (*Incoming, error) {
	in, err := i.resume(ctx, name, size, offset, hash)
	if err != nil {
		return nil, fmt.Errorf("go on with %s of %s at %d bytes: %w", name, i.key, offset, err)
	}
	return in, nil
}

// ErrNoPartial means that the store does not have the beginning of a segment that
// was to be gone on with.
var ErrNoPartial = errors.New("these first bytes are not there")

func (i *Import) resume(ctx context.Context, name string, size, offset int64, hash []byte) (*Incoming, error) {
	if _, ok := parseSegmentName(name); !ok {
		return nil, errName(name)
	}
	if offset < minPartial || offset >= size {
		return nil, fmt.Errorf("a file of %d bytes is gone on with from %d to its end: %w", size, int64(minPartial), fs.ErrInvalid)
	}
	temporary := i.temporary(name)
	had, err := i.claim(name, temporary)
	if err != nil {
		return nil, err
	}
	// From here on the file counts with its full size, or is removed.
	if err := i.store.reserve(Key{}, size-had); err != nil {
		i.store.used.Add(-had)
		return nil, errors.Join(err, i.store.disk.remove(temporary))
	}
	in := &Incoming{imp: i, name: name, size: size, received: offset}
	if in.file, err = i.reopen(ctx, in, temporary, had, hash); err != nil {
		i.store.used.Add(-size)
		return nil, errors.Join(err, i.store.disk.remove(temporary))
	}
	return in, nil
}

// claim gives a partial the name of a file that is being received, so that no
// other import goes on with it, and returns its size.
func (i *Import) claim(name, temporary string) (int64, error) {
	i.pod.mu.Lock()
	defer i.pod.mu.Unlock()
	from := i.key.path(partialName(name))
	size, err := i.store.disk.size(from)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrNoPartial
	}
	if err != nil {
		return 0, err
	}
	return size, i.store.disk.rename(from, temporary)
}

// reopen checks the bytes that are there, and opens the file behind them.
func (i *Import) reopen(ctx context.Context, in *Incoming, name string, had int64, hash []byte) (*diskFile, error) {
	if had < in.received {
		return nil, fmt.Errorf("%w: there are %d", ErrNoPartial, had)
	}
	have, err := i.store.hashFile(ctx, name, in.received)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(have, hash) {
		return nil, fmt.Errorf("%w: they have another hash", ErrNoPartial)
	}
	file, err := i.store.disk.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	in.head = make([]byte, maxHeader) // minPartial is longer
	_, err = io.ReadFull(file, in.head)
	if err == nil {
		err = file.Truncate(in.received)
	}
	if err == nil {
		_, err = file.Seek(in.received, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &diskFile{disk: i.store.disk, name: name, file: file}, nil
}

// keep leaves what was received as a partial, unless it is not worth it or a
// longer one is there. It reports whether it did.
func (in *Incoming) keep() bool {
	id, isSegment := parseSegmentName(in.name)
	if !isSegment || in.failed || in.received < minPartial || in.received >= in.size {
		return false
	}
	if h, _, err := parseHeader(segmentKind, in.head); err != nil || h.id != id {
		return false
	}
	s, p := in.imp.store, in.imp.pod
	p.mu.Lock()
	defer p.mu.Unlock()
	name := in.imp.key.path(partialName(in.name))
	old, err := s.disk.size(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || old >= in.received {
		return false
	}
	if err := s.disk.rename(in.file.name, name); err != nil {
		return false
	}
	s.used.Add(in.received - in.size - old)
	return true
}

// collectPartials removes the partials that a pod has no use for any more. The
// pod's mu must be held.
func (s *Store) collectPartials(key Key) error {
	return s.removePartials(key, func(segment string, info fs.FileInfo) bool {
		_, err := s.disk.size(key.path(segment))
		return err == nil || isStalePartial(info)
	})
}

// isStalePartial is whether a file is a partial whose rest did not come.
func isStalePartial(info fs.FileInfo) bool {
	return strings.HasSuffix(info.Name(), partialSuffix) && time.Since(info.ModTime()) > partialLifetime
}

// dropPartials removes all partials of pods.
func (s *Store) dropPartials(keys []Key) error {
	for _, key := range keys {
		p := s.pod(key)
		p.mu.Lock()
		err := s.removePartials(key, func(string, fs.FileInfo) bool { return true })
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("drop interrupted imports of %s: %w", key, err)
		}
	}
	return nil
}

func (s *Store) removePartials(key Key, stale func(segment string, info fs.FileInfo) bool) error {
	names, err := s.disk.names(key.path(segmentsFolder))
	if err != nil {
		return err
	}
	for _, name := range names {
		segment, ok := parsePartialName(segmentsFolder + "/" + name)
		if !ok {
			continue
		}
		info, err := s.disk.root.Lstat(key.path(partialName(segment)))
		if err != nil {
			return err
		}
		if !stale(segment, info) {
			continue
		}
		if err := s.removeFile(key.path(partialName(segment))); err != nil {
			return err
		}
	}
	return nil
}

func partialName(segment string) string { return segment + partialSuffix }

// parsePartialName returns the name of the segment that a file is the beginning of.
func parsePartialName(name string) (segment string, ok bool) {
	segment, ok = strings.CutSuffix(name, partialSuffix)
	if !ok {
		return "", false
	}
	_, ok = parseSegmentName(segment)
	return segment, ok
}
