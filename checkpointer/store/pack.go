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

// packedChunk is a chunk of a staged file on its way into the store.
type packedChunk struct {
	length uint32
	zero   bool
	hash   chunkHash
	// payload is what to encrypt when the chunk is new: its bytes, or their
	// compressed form when that is shorter. It is nil when the chunk is known.
	payload []byte
}

// piece is a stretch of one file, with the chunks that it holds. Pieces are
// used again: there are only as many as are in work at the same time.
type piece struct {
	file     *plannedFile // set in the first piece of each file
	data     []byte
	chunks   []packedChunk
	packed   []byte
	finished chan struct{}
}

// pieceSize is the most that a piece holds, in bytes. The space of a hash leaf
// behind it lets the last chunk be hashed in place.
const pieceSize = 1 << 20

func newPiece() *piece {
	return &piece{data: make([]byte, 0, pieceSize+hashLeaf), finished: make(chan struct{}, 1)}
}

// readAndPack reads the planned files piece by piece, hashes and compresses
// them on several goroutines, and gives the chunks to the builder in order.
// What it holds in memory does not grow with the files.
func (s *Store) readAndPack(ctx context.Context, staged *os.Root, files []plannedFile, h *hasher, b *builder) error {
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
		for i := range files {
			err := readPieces(ctx, staged, &files[i], free, func(p *piece) {
				work <- p
				inOrder <- p
			})
			if err != nil {
				return err
			}
		}
		return nil
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
			for _, c := range p.chunks {
				if err := b.add(c); err != nil {
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
func readPieces(ctx context.Context, staged *os.Root, f *plannedFile, free <-chan *piece, send func(*piece)) error {
	var file *os.File
	if len(f.lengths) > 0 {
		var err error
		if file, err = staged.Open(f.path); err != nil {
			return err
		}
		defer file.Close()
	}
	lengths := f.lengths
	for first := true; first || len(lengths) > 0; first = false {
		var p *piece
		select {
		case p = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		p.file, p.data, p.chunks = nil, p.data[:0], p.chunks[:0]
		if first {
			p.file = f
		}
		size := 0
		for len(lengths) > 0 && size+int(lengths[0]) <= pieceSize {
			p.chunks = append(p.chunks, packedChunk{length: lengths[0]})
			size += int(lengths[0])
			lengths = lengths[1:]
		}
		p.data = p.data[:size]
		if size > 0 {
			if _, err := io.ReadFull(file, p.data); err != nil {
				return fmt.Errorf("read %s: %w", f.path, err)
			}
		}
		send(p)
	}
	return nil
}

// packer hashes and compresses chunks. It belongs to one goroutine.
type packer struct {
	hasher hasher
	known  map[chunkHash]place // only read
	zstd   *zstd.Encoder
}

func newPacker(h hasher, known map[chunkHash]place) (*packer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(chunkSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &packer{hasher: h, known: known, zstd: encoder}, nil
}

var zeros [chunkSize]byte

func (pk *packer) pack(p *piece) {
	if cap(p.packed) == 0 {
		p.packed = make([]byte, 0, pieceSize)
	}
	p.packed = p.packed[:0]
	rest := p.data
	for i := range p.chunks {
		c := &p.chunks[i]
		data := rest[:c.length]
		rest = rest[c.length:]
		if bytes.Equal(data, zeros[:len(data)]) {
			c.zero = true
			continue
		}
		c.hash = pk.hasher.sum(data)
		if _, ok := pk.known[c.hash]; ok {
			continue
		}
		start := len(p.packed)
		p.packed = pk.zstd.EncodeAll(data, p.packed)
		if c.payload = p.packed[start:]; len(c.payload) >= len(data) {
			c.payload = data
			p.packed = p.packed[:start]
		}
	}
}
