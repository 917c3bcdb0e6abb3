package store

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// openSegment is one segment that a Reader reads. It is opened at its first use.
type openSegment struct {
	segment
	mu   sync.Mutex
	file *os.File // when it is this store's
	aead cipher.AEAD
}

// open returns the file and the cipher of a segment. The file is nil when the
// segments lie elsewhere.
func (r *Reader) open(seg *openSegment) (*os.File, cipher.AEAD, error) {
	seg.mu.Lock()
	defer seg.mu.Unlock()
	if seg.aead != nil {
		return seg.file, seg.aead, nil
	}
	if r.from == nil {
		file, err := r.store.disk.root.Open(r.key.path(segmentName(seg.id)))
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil, r.damaged(seg.segment, "it is missing")
		}
		if err != nil {
			return nil, nil, err
		}
		if err := checkSegmentHeader(file, seg.segment, r.header); err != nil {
			file.Close()
			return nil, nil, r.damaged(seg.segment, "%v", err)
		}
		seg.file = file
	}
	seg.aead = newFileCipher(r.namespaceKey, seg.id, segmentKeyInfo)
	return seg.file, seg.aead, nil
}

// damaged returns a *Damaged. When the file is this store's it is remembered: it
// is then neither built upon nor kept when another node sends it.
func (r *Reader) damaged(seg segment, format string, args ...any) error {
	if r.from == nil {
		r.store.pod(r.key).setSuspect(seg.id, true)
	}
	return &Damaged{Generation: r.manifest.generation.Number, File: segmentName(seg.id), Detail: fmt.Sprintf(format, args...)}
}

const (
	// readSize is the most that is read with one access, in bytes.
	readSize = 1 << 20
	// readGap is how many unwanted bytes are read for the sake of one access less.
	readGap = 16 << 10
)

// readSorted reads chunks in the order in which they lie in segments, each one
// once, and passes the verified content to visit, which must not keep it.
func (r *Reader) readSorted(ctx context.Context, numbers []int32, visit func(number int32, data []byte) error) error {
	numbers = slices.Clone(numbers)
	slices.Sort(numbers) // as the table of chunks is sorted
	numbers = slices.Compact(numbers)
	u := r.unpackers.Get().(*unpacker)
	defer r.unpackers.Put(u)
	chunks := r.manifest.chunks
	for len(numbers) > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		first := chunks[numbers[0]]
		end, n := first.offset+int64(first.stored), 1
		for ; n < len(numbers); n++ {
			c := chunks[numbers[n]]
			if c.segment != first.segment || c.offset > end+readGap || c.offset+int64(c.stored) > first.offset+readSize {
				break
			}
			end = c.offset + int64(c.stored)
		}
		if err := u.read(ctx, r, numbers[:n], end, visit); err != nil {
			return err
		}
		numbers = numbers[n:]
	}
	return nil
}

// unpacker decrypts, decompresses and checks chunks. One goroutine uses it at a time.
type unpacker struct {
	hasher   *hasher
	zstd     *zstd.Decoder
	sealed   []byte
	out      []byte
	identity []byte
}

func newUnpacker(namespaceKey [32]byte) (*unpacker, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*chunkSize), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &unpacker{hasher: newHasher(namespaceKey), zstd: decoder, out: make([]byte, 0, chunkSize+hashLeaf)}, nil
}

// read reads chunks of one segment, that end at an offset, with one access.
func (u *unpacker) read(ctx context.Context, r *Reader, numbers []int32, end int64, visit func(int32, []byte) error) error {
	chunks := r.manifest.chunks
	start := chunks[numbers[0]].offset
	seg := &r.segments[chunks[numbers[0]].segment]
	file, aead, err := r.open(seg)
	if err != nil {
		return err
	}
	if int64(cap(u.sealed)) < end-start {
		u.sealed = make([]byte, end-start)
	}
	sealed := u.sealed[:end-start]
	if file == nil {
		err = r.from.ReadAt(ctx, segmentName(seg.id), sealed, start)
	} else if _, err = file.ReadAt(sealed, start); errors.Is(err, io.EOF) {
		err = r.damaged(seg.segment, "it was cut short")
	} else if err != nil {
		err = r.damaged(seg.segment, "%v", err)
	}
	if err != nil {
		return err
	}
	for _, number := range numbers {
		c := chunks[number]
		data, err := u.open(r, c, seg.generation, aead, sealed[c.offset-start:][:c.stored])
		if err != nil {
			return r.damaged(seg.segment, "chunk %d: %v", c.index, err)
		}
		if err := visit(number, data); err != nil {
			return err
		}
	}
	return nil
}

var errAltered = errors.New("it was altered")

// open returns the content of one chunk. It is valid until the next call.
func (u *unpacker) open(r *Reader, c chunk, generation int64, aead cipher.AEAD, sealed []byte) ([]byte, error) {
	u.identity = chunkIdentity(u.identity[:0], r.key, generation, c.index)
	n := nonce(c.index)
	content, err := aead.Open(sealed[:0], n[:], sealed, u.identity)
	if err != nil {
		return nil, errAltered
	}
	if c.stored < c.length+sealOverhead { // else it did not compress
		if content, err = u.zstd.DecodeAll(content, u.out[:0]); err != nil {
			return nil, err
		}
	}
	if len(content) != int(c.length) {
		return nil, fmt.Errorf("%d bytes in place of %d", len(content), c.length)
	}
	if u.hasher.sum(content) != c.hash {
		return nil, errors.New("its hash differs")
	}
	return content, nil
}
