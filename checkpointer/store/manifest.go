package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// manifest is one generation in full.
type manifest struct {
	// id is the random ID of the manifest's file; it is not part of the text.
	id         fileID
	key        Key
	generation Generation
	// segments are the files that the chunks are in, older generations' included.
	segments []segment
	// chunks are what files and processes consist of, ascending by segment and
	// offset. Both refer to them by their index here.
	chunks    []chunk
	files     []stagedFile
	processes []process
}

// segment is a file of chunks, and the generation that wrote it.
type segment struct {
	id         fileID
	generation int64
	size       int64
}

// chunk is at most chunkSize bytes that a segment holds.
type chunk struct {
	segment int32 // index into manifest.segments
	length  uint32
	// stored is the chunk's length in the segment, where it is compressed
	// exactly when that makes it shorter, and then encrypted.
	stored uint32
	offset int64
	index  uint64 // the chunk's number in its segment
	// written is the generation that its content is of: that of its segment, or an
	// older one when it was copied from a worn segment.
	written int64
	hash    chunkHash
}

// stagedFile is a file or folder of a staged generation, by its path below the
// staging folder, with forward slashes.
type stagedFile struct {
	path   string
	folder bool
	size   int64
	parts  []part
}

// part is a piece of a file: a chunk, or a hole of zeros.
type part struct {
	chunk  int32 // index into manifest.chunks, or hole
	length int64
}

const hole = -1

// process is the memory of one process. Pages without an extent are zeros.
type process struct {
	container string
	pid       int
	pages     memory.Set
	extents   []extent // ascending by address
}

// extent says where the content of consecutive pages is: a part of a chunk.
type extent struct {
	address uint64
	length  uint32
	chunk   int32  // index into manifest.chunks
	offset  uint32 // within the chunk
}

func (e extent) end() uint64 { return e.address + uint64(e.length) }

// pageSize is the unit in which memory is stored, in bytes. A machine's pages
// are a multiple of it.
const pageSize = 4096

// summary is the part of a manifest that comes first, as JSON: it is small,
// and fields will be added.
type summary struct {
	Key        Key
	Generation Generation
}

const (
	// maxBody is the most that the body of a manifest takes uncompressed, in bytes.
	maxBody = 1 << 30
	// maxPath is the longest path of a staged file, in bytes.
	maxPath = 4096
	// maxName is the longest name of a container that is read, in bytes.
	maxName = 1024
)

// encode returns the manifest's text. All numbers are unsigned varints, all
// texts and lists follow their length. After the summary and the segments, which
// are read most often, comes the body, compressed.
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
	body := m.encodeBody()
	if len(body) > maxBody {
		return nil, fmt.Errorf("manifest with a body of %d bytes, more than %d", len(body), maxBody)
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer encoder.Close()
	return encoder.EncodeAll(body, buf), nil
}

const (
	kindFile   = 0
	kindFolder = 1
)

func (m *manifest) encodeBody() []byte {
	buf := make([]byte, 0, 24*len(m.chunks)+1<<10)
	buf = m.appendChunks(buf)
	buf = binary.AppendUvarint(buf, uint64(len(m.files)))
	var last reference
	for _, f := range m.files {
		buf = binary.AppendUvarint(buf, uint64(len(f.path)))
		buf = append(buf, f.path...)
		if f.folder {
			buf = append(buf, kindFolder)
			continue
		}
		buf = append(buf, kindFile)
		buf = binary.AppendUvarint(buf, uint64(f.size))
		buf = binary.AppendUvarint(buf, uint64(len(f.parts)))
		for _, p := range f.parts {
			if p.chunk == hole {
				buf = append(buf, 0)
				buf = binary.AppendUvarint(buf, uint64(p.length))
				continue
			}
			buf = binary.AppendUvarint(buf, last.encode(p.chunk)+1)
		}
	}
	return m.appendProcesses(buf)
}

// reference codes indexes of chunks by how far each is from the one behind the
// last: a list that goes through the chunks in their order is all zeros.
type reference int32

func (r *reference) encode(chunk int32) uint64 {
	delta := int64(chunk) - int64(*r)
	*r = reference(chunk + 1)
	return uint64(delta)<<1 ^ uint64(delta>>63)
}

// decode returns false when there is no such chunk.
func (r *reference) decode(code uint64, chunks int) (int32, bool) {
	delta := int64(code>>1) ^ -int64(code&1)
	chunk := int64(*r) + delta
	if code > math.MaxUint32 || chunk < 0 || chunk >= int64(chunks) {
		return 0, false
	}
	*r = reference(chunk + 1)
	return int32(chunk), true
}

// decodeManifest reads what encode wrote, and checks that it makes sense: that
// paths stay inside, chunks lie in their segments and add up to their file, and
// processes have the pages that are said to be somewhere.
func decodeManifest(text []byte) (*manifest, error) {
	m, r, err := decodeIntro(text)
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	body, err := decoder.DecodeAll(r.rest, nil)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if err := m.decodeBody(body); err != nil {
		return nil, err
	}
	return m, nil
}

// decodeBody allocates no more than a small multiple of the body's length.
func (m *manifest) decodeBody(body []byte) error {
	r := &reader{rest: body}
	m.chunks = r.chunks(m.segments)
	paths := map[string]bool{} // whether a path is a folder
	var last reference
	for range r.count(3) {
		f := stagedFile{path: string(r.take(r.number(maxPath)))}
		switch kind := r.take(1); {
		case r.err != nil:
			return r.err
		case kind[0] == kindFolder:
			f.folder = true
		case kind[0] == kindFile:
			f.size = int64(r.number(math.MaxInt64))
			f.parts = r.parts(f.size, m.chunks, &last)
		default:
			return fmt.Errorf("%q is neither file nor folder", f.path)
		}
		if r.err != nil {
			return r.err
		}
		if !fs.ValidPath(f.path) || f.path == "." {
			return fmt.Errorf("%q is not a path below the staging folder", f.path)
		}
		if _, twice := paths[f.path]; twice {
			return fmt.Errorf("%q is there twice", f.path)
		}
		if parent := parentOf(f.path); parent != "" && !paths[parent] {
			return fmt.Errorf("%q comes before its folder", f.path)
		}
		paths[f.path] = f.folder
		m.files = append(m.files, f)
	}
	m.processes = r.processes(m.chunks)
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d bytes too many", len(r.rest))
	}
	return r.err
}

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

// parts reads what a file of the given size consists of.
func (r *reader) parts(size int64, chunks []chunk, last *reference) []part {
	n := r.count(1)
	list := make([]part, 0, n)
	for range n {
		p := part{chunk: hole}
		if code := r.number(math.MaxUint64); code == 0 {
			p.length = int64(r.number(uint64(size)))
		} else if at, ok := last.decode(code-1, len(chunks)); ok {
			p = part{chunk: at, length: int64(chunks[at].length)}
		} else {
			r.fail("a file refers to a chunk that is not there")
		}
		if size -= p.length; size < 0 || p.length == 0 {
			r.fail("a part of %d bytes does not fit its file", p.length)
		}
		if r.err != nil {
			return nil
		}
		list = append(list, p)
	}
	if size != 0 {
		r.fail("parts lack %d bytes of their file", size)
	}
	return list
}

func parentOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}
