package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// packedChunk is a chunk on its way into the store.
type packedChunk struct {
	length uint32
	zero   bool
	hash   chunkHash
	// kept is a part of the base that stands in its place, and is all that is known of it.
	kept *part
	// places are where it belongs, when it is of a process's memory.
	places []extent
	// payload is what to encrypt when the chunk is new: its bytes, or their
	// compressed form when that is shorter. It is nil when the chunk is known.
	payload []byte
}

// piece is a stretch of one file, or some windows of memory, with the chunks
// that it holds. Pieces are used again: there are only as many as are in work at
// the same time.
type piece struct {
	file     *plannedFile // set in the first piece of each file
	windows  []window     // when it is of memory: chunks are then one for each
	data     []byte
	chunks   []packedChunk
	packed   []byte
	finished chan struct{}
}

// pieceSize is the most that a piece holds, in bytes. The space of a hash leaf
// behind it lets the last chunk be hashed in place.
const pieceSize = 1 << 20

// mostChunks bounds the chunks of a piece, since those that are kept have no content there.
const mostChunks = 1024

func newPiece() *piece {
	return &piece{data: make([]byte, 0, pieceSize+hashLeaf), finished: make(chan struct{}, 1)}
}

// readAndPack reads the planned files piece by piece, and then the fresh memory,
// hashes and compresses them on several goroutines, and gives the chunks to the
// builder in order. What it holds in memory does not grow with them.
func (s *Store) readAndPack(ctx context.Context, staged *os.Root, files []plannedFile, base baseParts, layouts []layout, h *hasher, b *builder) error {
	group, ctx := errgroup.WithContext(ctx)
	inWork := 2*s.options.Workers + 1
	free := make(chan *piece, inWork)
	for range inWork {
		free <- newPiece()
	}
	work := make(chan *piece, inWork)
	inOrder := make(chan *piece, inWork)

	group.Go(func() error {
		defer close(work)
		defer close(inOrder)
		send := func(p *piece) {
			work <- p
			inOrder <- p
		}
		for i := range files {
			if err := readPieces(ctx, staged, &files[i], base, free, send); err != nil {
				return err
			}
		}
		return cutPieces(ctx, layouts, free, send)
	})
	for range s.options.Workers {
		group.Go(func() error {
			pk, err := newPacker(*h, b.known)
			if err != nil {
				return err
			}
			for p := range work {
				pk.pack(p)
				p.finished <- struct{}{}
			}
			return nil
		})
	}
	group.Go(func() error {
		for p := range inOrder {
			select {
			case <-p.finished:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if p.file != nil {
				b.startFile(*p.file)
			}
			for i, c := range p.chunks {
				var err error
				if p.windows != nil {
					err = b.addMemory(p.windows[i].process, c)
				} else {
					err = b.add(c)
				}
				if err != nil {
					return err
				}
			}
			free <- p
		}
		return context.Cause(ctx)
	})
	return group.Wait()
}

// readPieces reads one file into free pieces, and sends them on.
func readPieces(ctx context.Context, staged *os.Root, f *plannedFile, base baseParts, free <-chan *piece, send func(*piece)) error {
	p, err := nextPiece(ctx, free)
	if err != nil {
		return err
	}
	p.file = f
	var file *os.File
	if len(f.lengths) > 0 {
		if file, err = staged.Open(f.path); err != nil {
			return err
		}
		defer file.Close()
	}
	lengths, kept := f.lengths, f.kept
	for at := int64(0); len(lengths) > 0 || len(kept) > 0; {
		if len(kept) > 0 && at == kept[0].offset {
			if p, err = base.take(ctx, p, kept[0].parts, free, send); err != nil {
				return fmt.Errorf("take over %s: %w", f.path, err)
			}
			at, kept = at+kept[0].length, kept[1:]
			continue
		}
		begin, end := len(p.data), at
		for len(lengths) > 0 && len(p.data)+int(lengths[0]) <= pieceSize && len(p.chunks) < mostChunks && (len(kept) == 0 || end < kept[0].offset) {
			p.chunks = append(p.chunks, packedChunk{length: lengths[0]})
			p.data = p.data[:len(p.data)+int(lengths[0])]
			end += int64(lengths[0])
			lengths = lengths[1:]
		}
		if end == at { // the piece is full
			send(p)
			if p, err = nextPiece(ctx, free); err != nil {
				return err
			}
			continue
		}
		if _, err := io.ReadFull(io.NewSectionReader(file, at, end-at), p.data[begin:]); err != nil {
			return fmt.Errorf("read %s: %w", f.path, err)
		}
		at = end
	}
	send(p)
	return nil
}

func nextPiece(ctx context.Context, free <-chan *piece) (*piece, error) {
	select {
	case p := <-free:
		p.file, p.windows, p.data, p.chunks = nil, nil, p.data[:0], p.chunks[:0]
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// cutPieces distributes fresh memory over free pieces, and sends them on.
func cutPieces(ctx context.Context, layouts []layout, free <-chan *piece, send func(*piece)) error {
	var p *piece
	err := windows(layouts, func(w window) error {
		if p == nil {
			var err error
			if p, err = nextPiece(ctx, free); err != nil {
				return err
			}
		}
		p.windows = append(p.windows, w)
		p.chunks = append(p.chunks, packedChunk{})
		if len(p.windows) == pieceSize/chunkSize {
			send(p)
			p = nil
		}
		return nil
	})
	if err == nil && p != nil {
		send(p)
	}
	return err
}

// packer hashes and compresses chunks. It belongs to one goroutine.
type packer struct {
	hasher hasher
	known  map[chunkHash]int32 // only read
	zstd   *zstd.Encoder
}

func newPacker(h hasher, known map[chunkHash]int32) (*packer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(chunkSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &packer{hasher: h, known: known, zstd: encoder}, nil
}

// zeros is what a hole has.
var zeros [chunkSize]byte

func (pk *packer) pack(p *piece) {
	if cap(p.packed) == 0 {
		p.packed = make([]byte, 0, pieceSize)
	}
	p.packed = p.packed[:0]
	if p.windows != nil {
		for i, w := range p.windows {
			p.chunks[i] = packedChunk{}
			data := p.gather(w, &p.chunks[i])
			p.packed = pk.packChunk(&p.chunks[i], data, p.packed)
		}
		return
	}
	rest := p.data
	for i := range p.chunks {
		c := &p.chunks[i]
		if c.kept != nil {
			continue
		}
		data := rest[:c.length]
		rest = rest[c.length:]
		p.packed = pk.packChunk(c, data, p.packed)
	}
}

// packChunk hashes and compresses the content of a chunk, behind packed.
func (pk *packer) packChunk(c *packedChunk, data, packed []byte) []byte {
	if bytes.Equal(data, zeros[:len(data)]) {
		c.zero = true
		return packed
	}
	c.hash = pk.hasher.sum(data)
	if _, ok := pk.known[c.hash]; ok {
		return packed
	}
	start := len(packed)
	packed = pk.zstd.EncodeAll(data, packed)
	if c.payload = packed[start:]; len(c.payload) >= len(data) {
		c.payload = data
		packed = packed[:start]
	}
	return packed
}

// gather returns those pages of a window that are not all zeros, behind one
// another, and notes where they belong. Pages that lie together already are not copied.
func (p *piece) gather(w window, c *packedChunk) []byte {
	start := len(p.data)
	for _, part := range w.parts {
		for offset := 0; offset < len(part.Data); offset += pageSize {
			page := part.Data[offset : offset+pageSize]
			if bytes.Equal(page, zeros[:pageSize]) {
				continue
			}
			c.addPlace(extent{address: part.Start + uint64(offset), length: pageSize, offset: c.length})
			c.length += pageSize
		}
	}
	if len(w.parts) == 1 && len(c.places) == 1 {
		offset := c.places[0].address - w.parts[0].Start
		return w.parts[0].Data[offset : offset+uint64(c.length)]
	}
	for _, e := range c.places {
		for _, part := range w.parts {
			if from, to := max(e.address, part.Start), min(e.end(), part.Span().End); from < to {
				p.data = append(p.data, part.Data[from-part.Start:to-part.Start]...)
			}
		}
	}
	return p.data[start:]
}

// addPlace notes where the next bytes of a chunk belong.
func (c *packedChunk) addPlace(e extent) {
	if n := len(c.places); n > 0 && c.places[n-1].end() == e.address && c.places[n-1].offset+c.places[n-1].length == e.offset {
		c.places[n-1].length += e.length
		return
	}
	c.places = append(c.places, e)
}
