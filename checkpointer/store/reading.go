package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// maxManifest is the largest manifest that is read, in bytes: of some 500 GB of
// memory, and of a tenth of that where single pages changed everywhere.
const maxManifest = 256 << 20

// readManifest returns the content of a manifest's file.
func (s *Store) readManifest(key Key, number int64) ([]byte, error) {
	data, err := s.disk.read(key.path(manifestName(number)), maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("generation %d of %s: %w", number, key, err)
	}
	return data, nil
}

// decryptManifest opens the content of a manifest's file. It returns a Damaged
// when that is not a manifest of this generation of this pod.
func (s *Store) decryptManifest(ctx context.Context, key Key, number int64, data []byte) (text []byte, h header, namespaceKey [32]byte, err error) {
	damaged := func(format string, args ...any) *Damaged {
		return &Damaged{Generation: number, File: manifestName(number), Detail: fmt.Sprintf(format, args...)}
	}
	otherKey := func(format string, args ...any) *Damaged {
		d := damaged(format, args...)
		d.key = true
		return d
	}
	h, sealed, err := parseHeader(manifestKind, data)
	if version := wrongVersion(0); errors.As(err, &version) && version > formatVersion {
		return nil, h, namespaceKey, otherKey("%v", version)
	}
	if err != nil {
		return nil, h, namespaceKey, damaged("header: %v", err)
	}
	if h.generation != number {
		return nil, h, namespaceKey, damaged("it is of generation %d", h.generation)
	}
	namespaceKey, err = s.keys.KeyByID(ctx, key.Namespace, h.keyID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, h, namespaceKey, otherKey("written with key %q, which namespace %s does not have", h.keyID, key.Namespace)
	}
	if err != nil {
		return nil, h, namespaceKey, fmt.Errorf("key %q of namespace %s: %w", h.keyID, key.Namespace, err)
	}
	if h.check != keyCheck(namespaceKey) {
		return nil, h, namespaceKey, otherKey("written with another key than the %q that namespace %s has now", h.keyID, key.Namespace)
	}
	n := nonce(0)
	text, err = newFileCipher(namespaceKey, h.id, manifestKeyInfo).Open(nil, n[:], sealed, appendIdentity(h.append(nil), key))
	if err != nil {
		return nil, h, namespaceKey, damaged("it was altered or cut short")
	}
	return text, h, namespaceKey, nil
}

// sealManifest is the other direction: it returns the content of the file.
func sealManifest(m *manifest, keyID string, namespaceKey [32]byte) ([]byte, error) {
	text, err := m.encode()
	if err != nil {
		return nil, err
	}
	h := header{kind: manifestKind, check: keyCheck(namespaceKey), id: newFileID(), generation: m.generation.Number, keyID: keyID}
	clear := h.append(nil)
	n := nonce(0)
	sealed := newFileCipher(namespaceKey, h.id, manifestKeyInfo).Seal(clear, n[:], text, appendIdentity(h.append(nil), m.key))
	if len(sealed) > maxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, more than %d", len(sealed), maxManifest)
	}
	return sealed, nil
}

// summary returns a manifest without its body, after a look at whether each
// segment is there with its full size, and no damage was seen in it.
func (s *Store) summary(ctx context.Context, key Key, number int64) (*manifest, error) {
	m, err := s.cachedSummary(ctx, key, number)
	if err != nil {
		return nil, err
	}
	p := s.pod(key)
	for _, seg := range m.segments {
		if err := s.checkSize(key, number, seg); err != nil {
			return nil, err
		}
		if p.suspect(seg.id) {
			return nil, &Damaged{Generation: number, File: segmentName(seg.id), Detail: "damage was seen when it was read"}
		}
	}
	return m, nil
}

func (s *Store) cachedSummary(ctx context.Context, key Key, number int64) (*manifest, error) {
	info, err := s.disk.root.Lstat(key.path(manifestName(number)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("generation %d of %s: %w", number, key, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	p := s.pod(key)
	p.mu.Lock()
	cached, ok := p.summaries[number]
	p.mu.Unlock()
	if ok && cached.size == info.Size() && cached.modified.Equal(info.ModTime()) {
		return cached.manifest, nil
	}
	data, err := s.readManifest(key, number)
	if err != nil {
		return nil, err
	}
	text, h, _, err := s.decryptManifest(ctx, key, number, data)
	if err != nil {
		return nil, err
	}
	m, _, err := decodeIntro(text)
	if err == nil {
		err = m.belongsTo(key, h)
	}
	if err != nil {
		return nil, &Damaged{Generation: number, File: manifestName(number), Detail: err.Error()}
	}
	m.id = h.id
	m.generation.NewBytes += info.Size()
	p.mu.Lock()
	p.summaries[number] = cachedSummary{info.Size(), info.ModTime(), m}
	p.mu.Unlock()
	return m, nil
}

func (m *manifest) belongsTo(key Key, h header) error {
	if m.key != key || m.generation.Number != h.generation {
		return fmt.Errorf("it is of generation %d of %s", m.generation.Number, m.key)
	}
	return nil
}

func (s *Store) checkSize(key Key, number int64, seg segment) error {
	name := segmentName(seg.id)
	size, err := s.disk.size(key.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Damaged{Generation: number, File: name, Detail: "it is missing"}
	case err != nil:
		return err
	case size != seg.size:
		return &Damaged{Generation: number, File: name, Detail: fmt.Sprintf("it has %d bytes in place of %d", size, seg.size)}
	}
	return nil
}

// fullManifest returns a manifest in full, and the key that it and its segments
// are written with.
func (s *Store) fullManifest(ctx context.Context, key Key, number int64) (*manifest, header, [32]byte, error) {
	data, err := s.readManifest(key, number)
	if err != nil {
		return nil, header{}, [32]byte{}, err
	}
	return s.parseManifest(ctx, key, number, data)
}

// parseManifest is fullManifest for the content of a file.
func (s *Store) parseManifest(ctx context.Context, key Key, number int64, data []byte) (*manifest, header, [32]byte, error) {
	text, h, namespaceKey, err := s.decryptManifest(ctx, key, number, data)
	if err != nil {
		return nil, h, namespaceKey, err
	}
	m, err := decodeManifest(text)
	if err == nil {
		err = m.belongsTo(key, h)
	}
	if err != nil {
		return nil, h, namespaceKey, &Damaged{Generation: number, File: manifestName(number), Detail: err.Error()}
	}
	m.id = h.id
	return m, h, namespaceKey, nil
}

// checkSegmentHeader reads the header of a segment's file, and compares it with
// what the manifest says.
func checkSegmentHeader(file io.ReaderAt, seg segment, manifestHeader header) error {
	want := header{kind: segmentKind, check: manifestHeader.check, id: seg.id, generation: seg.generation, keyID: manifestHeader.keyID}
	data := make([]byte, want.size())
	if _, err := file.ReadAt(data, 0); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if string(data) != string(want.append(nil)) {
		return errors.New("its header is not the one that the manifest expects")
	}
	return nil
}
