package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
)

// manifest is one generation in full.
type manifest struct {
	// id is the random ID of the manifest's file; it is not part of the text.
	id         fileID
	key        Key
	generation Generation
	// segments are the files that the chunks are in, older generations' included.
	segments []segment
	files    []stagedFile
}

// segment is a file of chunks, and the generation that wrote it.
type segment struct {
	id         fileID
	generation int64
	size       int64
}

// stagedFile is a file or folder of a staged generation, by its path below the
// staging folder, with forward slashes.
type stagedFile struct {
	path   string
	folder bool
	size   int64
	chunks []chunk
}

// chunk is a piece of a file: a hole of zeros, or at most chunkSize bytes that
// a segment holds.
type chunk struct {
	length  int64
	segment int32 // index into manifest.segments, or hole
	// stored is the chunk's length in the segment, where it is compressed
	// exactly when that makes it shorter, and then encrypted.
	stored uint32
	offset int64
	index  uint64 // the chunk's number in its segment
	hash   chunkHash
}

const hole = -1

// summary is the part of a manifest that comes first, as JSON: it is small,
// and fields will be added.
type summary struct {
	Key        Key
	Generation Generation
}

// encode returns the manifest's text. All numbers are unsigned varints, all
// texts and lists follow their length.
func (m *manifest) encode() ([]byte, error) {
	intro, err := json.Marshal(summary{m.key, m.generation})
	if err != nil {
		return nil, err
	}
	buf := binary.AppendUvarint(nil, uint64(len(intro)))
	buf = append(buf, intro...)
	buf = binary.AppendUvarint(buf, uint64(len(m.segments)))
	for _, s := range m.segments {
		buf = append(buf, s.id[:]...)
		buf = binary.AppendUvarint(buf, uint64(s.generation))
		buf = binary.AppendUvarint(buf, uint64(s.size))
	}
	buf = binary.AppendUvarint(buf, uint64(len(m.files)))
	for _, f := range m.files {
		buf = binary.AppendUvarint(buf, uint64(len(f.path)))
		buf = append(buf, f.path...)
		if f.folder {
			buf = append(buf, kindFolder)
			continue
		}
		buf = append(buf, kindFile)
		buf = binary.AppendUvarint(buf, uint64(f.size))
		buf = binary.AppendUvarint(buf, uint64(len(f.chunks)))
		for _, c := range f.chunks {
			buf = binary.AppendUvarint(buf, uint64(c.segment+1))
			buf = binary.AppendUvarint(buf, uint64(c.length))
			if c.segment == hole {
				continue
			}
			buf = binary.AppendUvarint(buf, uint64(c.stored))
			buf = binary.AppendUvarint(buf, uint64(c.offset))
			buf = binary.AppendUvarint(buf, c.index)
			buf = append(buf, c.hash[:]...)
		}
	}
	return buf, nil
}

const (
	kindFile   = 0
	kindFolder = 1
)

// decodeManifest reads what encode wrote, and checks that it makes sense: that
// paths stay inside, chunks lie in their segments, and add up to their file.
// It allocates no more than a small multiple of the text's length.
func decodeManifest(text []byte) (*manifest, error) {
	m, r, err := decodeIntro(text)
	if err != nil {
		return nil, err
	}
	paths := map[string]bool{} // whether a path is a folder
	for range r.count(3) {
		f := stagedFile{path: string(r.take(r.number(maxPath)))}
		switch kind := r.take(1); {
		case r.err != nil:
			return nil, r.err
		case kind[0] == kindFolder:
			f.folder = true
		case kind[0] == kindFile:
			f.size = int64(r.number(math.MaxInt64))
			f.chunks = r.chunks(f.size, m.segments)
		default:
			return nil, fmt.Errorf("%q is neither file nor folder", f.path)
		}
		if r.err != nil {
			return nil, r.err
		}
		if !fs.ValidPath(f.path) || f.path == "." {
			return nil, fmt.Errorf("%q is not a path below the staging folder", f.path)
		}
		if _, twice := paths[f.path]; twice {
			return nil, fmt.Errorf("%q is there twice", f.path)
		}
		if parent := parentOf(f.path); parent != "" && !paths[parent] {
			return nil, fmt.Errorf("%q comes before its folder", f.path)
		}
		paths[f.path] = f.folder
		m.files = append(m.files, f)
	}
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d bytes too many", len(r.rest))
	}
	return m, r.err
}

// maxPath is the longest path of a staged file, in bytes.
const maxPath = 4096

// decodeIntro reads the summary and the segments alone.
func decodeIntro(text []byte) (*manifest, *reader, error) {
	r := &reader{rest: text}
	var intro summary
	if err := json.Unmarshal(r.take(r.number(math.MaxInt32)), &intro); r.err == nil && err != nil {
		r.fail("summary: %w", err)
	}
	m := &manifest{key: intro.Key, generation: intro.Generation}
	known := map[fileID]bool{}
	for range r.count(len(fileID{}) + 2) {
		var s segment
		copy(s.id[:], r.take(uint64(len(s.id))))
		s.generation = int64(r.number(maxGeneration))
		s.size = int64(r.number(math.MaxInt64))
		if known[s.id] {
			r.fail("segment %s is there twice", s.id)
		}
		known[s.id] = true
		m.segments = append(m.segments, s)
	}
	return m, r, r.err
}

// chunks reads the chunks of a file of the given size.
func (r *reader) chunks(size int64, segments []segment) []chunk {
	n := r.count(2)
	list := make([]chunk, 0, n)
	for range n {
		c := chunk{segment: int32(r.number(uint64(len(segments)))) - 1, length: int64(r.number(uint64(size)))}
		size -= c.length
		if c.segment != hole {
			c.stored = uint32(r.number(chunkSize + sealOverhead))
			c.offset = int64(r.number(math.MaxInt64))
			c.index = r.number(math.MaxUint64)
			copy(c.hash[:], r.take(uint64(len(c.hash))))
			switch {
			case r.err != nil:
			case c.length > chunkSize || c.stored <= sealOverhead || int64(c.stored) > c.length+sealOverhead:
				r.fail("chunk of %d bytes is stored in %d", c.length, c.stored)
			case c.offset > segments[c.segment].size-int64(c.stored):
				r.fail("chunk lies outside its segment")
			}
		}
		if r.err == nil && c.length == 0 {
			r.fail("empty chunk")
		}
		if r.err != nil {
			return nil
		}
		list = append(list, c)
	}
	if size != 0 {
		r.fail("chunks lack %d bytes of their file", size)
	}
	return list
}

// reader reads a text from front to back. After an error it returns zeros.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.rest = nil
}

var errCutShort = errors.New("cut short")

func (r *reader) number(limit uint64) uint64 {
	if r.err != nil {
		return 0
	}
	value, n := binary.Uvarint(r.rest)
	switch {
	case n <= 0:
		r.fail("number: %w", errCutShort)
		return 0
	case value > limit:
		r.fail("%d is more than %d", value, limit)
		return 0
	}
	r.rest = r.rest[n:]
	return value
}

func (r *reader) take(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.rest)) {
		r.fail("%w: %d bytes of %d", errCutShort, len(r.rest), n)
		return nil
	}
	part := r.rest[:n]
	r.rest = r.rest[n:]
	return part
}

// count reads the length of a list whose elements take at least size bytes each.
func (r *reader) count(size int) int {
	return int(r.number(uint64(len(r.rest) / size)))
}

func parentOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}
