package store

import (
	"context"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
)

// Inspect opens the content of a manifest's file that lies elsewhere, and
// returns the generation and the files that it needs as Files does, the manifest
// last. It does not look at whether this store has them. The error is a *Damaged
// when the content is not the manifest of this generation of this pod.
func (s *Store) Inspect(ctx context.Context, key Key, number int64, content []byte) (Generation, []*peerv1.File, error) {
	if err := key.Validate(); err != nil {
		return Generation{}, nil, err
	}
	text, h, _, err := s.decryptManifest(ctx, key, number, content)
	if err != nil {
		return Generation{}, nil, err
	}
	m, _, err := decodeIntro(text)
	if err == nil {
		err = m.belongsTo(key, h)
	}
	if err != nil {
		return Generation{}, nil, &Damaged{Generation: number, File: manifestName(number), Detail: err.Error()}
	}
	m.generation.NewBytes += int64(len(content))
	var files []*peerv1.File
	for _, seg := range m.segments {
		files = append(files, &peerv1.File{Name: segmentName(seg.id), Size: seg.size})
	}
	return m.generation, append(files, &peerv1.File{Name: manifestName(number), Size: int64(len(content)), Id: h.id[:]}), nil
}

// Permanent is whether the files themselves are damaged. When they only lack the
// key that they were written with, they may become readable again.
func (d *Damaged) Permanent() bool { return !d.key }

// MaxManifest is the size of the largest manifest that is read, in bytes.
const MaxManifest int64 = maxManifest

// ManifestName returns the name of a generation's manifest, relative to the pod's folder.
func ManifestName(number int64) string { return manifestName(number) }

// ParseManifestName returns the number of the generation whose manifest has the
// name, relative to the pod's folder.
func ParseManifestName(name string) (number int64, ok bool) { return parseManifestName(name) }

// IsSegmentName is whether a segment can have the name, relative to the pod's folder.
func IsSegmentName(name string) bool {
	_, ok := parseSegmentName(name)
	return ok
}
