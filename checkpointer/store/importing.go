package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
)

// Import receives the files of a pod's generations from another store. The
// manifest of a generation comes after its segments. While an Import is open,
// no segment of the pod is removed. It belongs to one goroutine.
type Import struct {
	store *Store
	key   Key
	pod   *pod
	close func()
}

// Import begins to receive files of a pod. Close ends it.
func (s *Store) Import(key Key) (*Import, error) {
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	p := s.pod(key)
	// Remove takes folders away: none must go between their making and the count.
	p.writing.Lock()
	defer p.writing.Unlock()
	for _, folder := range []string{segmentsFolder, manifestsFolder} {
		if err := s.disk.mkdirAll(key.path(folder)); err != nil {
			return nil, fmt.Errorf("import files of %s: %w", key, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.imports++
	return &Import{store: s, key: key, pod: p, close: sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.imports--
	})}, nil
}

// Close ends the import. What was committed stays, so that a later import of
// the same generation need not repeat it; a collection removes it unless its
// manifest has come by then.
func (i *Import) Close() { i.close() }

// Missing returns the names of those files that the store does not hold in
// full, or in which damage was seen. A manifest counts as held when it has the
// same ID: under the same number there may be another generation. A name that no file of the store can have
// is an error that wraps fs.ErrInvalid.
func (s *Store) Missing(key Key, files []*peerv1.File) ([]string, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	p := s.pod(key)
	var missing []string
	for _, f := range files {
		if !validName(f.GetName()) {
			return nil, errName(f.GetName())
		}
		if id, ok := parseSegmentName(f.GetName()); ok && p.suspect(id) {
			missing = append(missing, f.GetName())
			continue
		}
		if number, ok := parseManifestName(f.GetName()); ok {
			m, err := s.cachedSummary(ctx, key, number)
			var damaged *Damaged
			switch {
			case errors.Is(err, ErrNotFound), errors.As(err, &damaged), err == nil && !bytes.Equal(m.id[:], f.GetId()):
				missing = append(missing, f.GetName())
			case err != nil:
				return nil, err
			}
			continue
		}
		size, err := s.disk.size(key.path(f.GetName()))
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && size != f.GetSize():
			missing = append(missing, f.GetName())
		case err != nil:
			return nil, err
		}
	}
	return missing, nil
}

// Segments lists the segments that the store has of a pod, whichever generation
// they belong to, but for those in which damage was seen.
func (s *Store) Segments(key Key) ([]string, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	names, err := s.disk.names(key.path(segmentsFolder))
	if err != nil {
		return nil, err
	}
	var segments []string
	for _, name := range names {
		name = segmentsFolder + "/" + name
		if id, ok := parseSegmentName(name); ok && !s.pod(key).suspect(id) {
			segments = append(segments, name)
		}
	}
	return segments, nil
}

// Complete returns nil when the store holds a generation in full and has seen
// no damage in it: ErrNotFound or a *Damaged otherwise.
func (s *Store) Complete(ctx context.Context, key Key, number int64) error {
	if err := key.Validate(); err != nil {
		return err
	}
	m, err := s.summary(ctx, key, number)
	if err != nil {
		return err
	}
	for _, seg := range m.segments {
		if s.pod(key).suspect(seg.id) {
			return &Damaged{Generation: number, File: segmentName(seg.id), Detail: "damage was seen in it before"}
		}
	}
	return nil
}

func errName(name string) error {
	return fmt.Errorf("%q is not the name of a file of the store: %w", name, fs.ErrInvalid)
}

func validName(name string) bool {
	_, isSegment := parseSegmentName(name)
	_, isManifest := parseManifestName(name)
	return isSegment || isManifest
}

// Incoming is one file that is being received.
type Incoming struct {
	imp      *Import
	name     string
	file     *diskFile
	size     int64
	received int64
	failed   bool // its content is wrong, or could not be written
	// head is the start of a segment, or all of a manifest.
	head []byte
}

// Create begins to receive a file of the given size in bytes, in place of one
// that is damaged, if there is one.
func (i *Import) Create(name string, size int64) (*Incoming, error) {
	_, isManifest := parseManifestName(name)
	switch {
	case !validName(name):
		return nil, errName(name)
	case size < headerFixed:
		return nil, fmt.Errorf("%s of %d bytes is too short: %w", name, size, fs.ErrInvalid)
	case isManifest && size > maxManifest:
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", name, size, int64(maxManifest), fs.ErrInvalid)
	}
	if err := i.store.reserve(Key{}, size); err != nil {
		return nil, fmt.Errorf("receive %s of %s: %w", name, i.key, err)
	}
	file, err := i.store.disk.create(i.temporary(name))
	if err != nil {
		i.store.used.Add(-size)
		return nil, fmt.Errorf("receive %s of %s: %w", name, i.key, err)
	}
	return &Incoming{imp: i, name: name, file: file, size: size}, nil
}

// temporary is a name of its own for each attempt, because the same file may be
// on its way from two nodes.
func (i *Import) temporary(name string) string {
	return i.key.path(name) + "." + newFileID().String() + temporarySuffix
}

func (in *Incoming) Write(data []byte) (int, error) {
	if int64(len(data)) > in.size-in.received {
		in.failed = true
		return 0, fmt.Errorf("%s is longer than the %d bytes it was announced with: %w", in.name, in.size, fs.ErrInvalid)
	}
	if _, isManifest := parseManifestName(in.name); isManifest {
		in.head = append(in.head, data...)
	} else if room := maxHeader - len(in.head); room > 0 {
		in.head = append(in.head, data[:min(room, len(data))]...)
	}
	n, err := in.file.Write(data)
	in.received += int64(n)
	in.failed = in.failed || err != nil
	return n, err
}

// Commit checks the file, and puts it in place on stable storage. A segment
// must start with the header of its name. A manifest must be one of this pod and of
// its number, and all its segments must be there. Create's reservation ends
// here or in Abort; one of them must be called.
func (in *Incoming) Commit(ctx context.Context) error {
	if err := in.commit(ctx); err != nil {
		in.abandon()
		return fmt.Errorf("receive %s of %s: %w", in.name, in.imp.key, err)
	}
	return nil
}

func (in *Incoming) commit(ctx context.Context) error {
	if err := in.file.finish(); err != nil {
		return err
	}
	if in.received != in.size {
		return fmt.Errorf("%d bytes in place of the %d it was announced with: %w", in.received, in.size, fs.ErrInvalid)
	}
	number, isManifest := parseManifestName(in.name)
	if !isManifest {
		id, _ := parseSegmentName(in.name)
		h, _, err := parseHeader(segmentKind, in.head)
		if err != nil {
			return fmt.Errorf("header: %w: %w", err, fs.ErrInvalid)
		}
		if h.id != id {
			return fmt.Errorf("it is segment %s: %w", h.id, fs.ErrInvalid)
		}
		p, name := in.imp.pod, in.imp.key.path(in.name)
		if size, err := in.imp.store.disk.size(name); err == nil && size == in.size && !p.suspect(id) {
			in.abandon() // what is there may be in use, and is as good
			return nil
		}
		if err := in.place(segmentsFolder); err != nil {
			return err
		}
		p.setSuspect(id, false)
		return nil
	}

	s, key := in.imp.store, in.imp.key
	in.imp.pod.writing.Lock()
	defer in.imp.pod.writing.Unlock()
	m, _, _, err := s.parseManifest(ctx, key, number, in.head)
	if err != nil {
		return err
	}
	for _, seg := range m.segments {
		if err := s.checkSize(key, number, seg); err != nil {
			return err
		}
	}
	if err := s.mayReplace(ctx, key, number, in.head); err != nil {
		return err
	}
	return in.place(manifestsFolder)
}

// mayReplace refuses a generation that is not the one that the store has under
// the same number: a number that was used twice must not hide what came first.
func (s *Store) mayReplace(ctx context.Context, key Key, number int64, content []byte) error {
	_, err := s.summary(ctx, key, number)
	if err != nil {
		return nil // none, or none that could be restored
	}
	have, err := s.disk.read(key.path(manifestName(number)), maxManifest)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, content) {
		return fmt.Errorf("another generation %d is held already: %w", number, fs.ErrExist)
	}
	return nil
}

// place gives the file its name, and makes that last.
func (in *Incoming) place(folder string) error {
	s, name := in.imp.store, in.imp.key.path(in.name)
	old, err := s.disk.size(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.disk.rename(in.file.name, name); err != nil {
		return err
	}
	s.used.Add(-old)
	return s.disk.syncFolder(in.imp.key.path(folder))
}

// Abort gives the file up. What was received of a segment stays for Resume.
func (in *Incoming) Abort() {
	in.file.Close()
	if !in.keep() {
		in.abandon()
	}
}

func (in *Incoming) abandon() {
	s := in.imp.store
	if _, err := s.disk.root.Lstat(in.file.name); err != nil {
		return // it is in place: then its size counts
	}
	s.used.Add(-in.size)
	if err := s.disk.remove(in.file.name); err != nil {
		s.options.Logger.Warn("a file that was not received in full is left over",
			"pod", in.imp.key.String(), "file", in.name, "error", err)
	}
}
