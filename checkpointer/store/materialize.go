package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Materialize writes the files of a generation below dir, which must be empty or
// not there yet, as they were staged. Every byte is decrypted and compared with its
// hash before it counts: where one is wrong the error is a *Damaged, and
// nothing is left of dir. Files get mode 0600 and folders 0700.
//
// What is written is not made to last: dir is meant to lie on a tmpfs.
func (s *Store) Materialize(ctx context.Context, key Key, number int64, dir string) error {
	if err := s.materialize(ctx, key, number, dir); err != nil {
		return fmt.Errorf("materialize generation %d of %s: %w", number, key, err)
	}
	return nil
}

func (s *Store) materialize(ctx context.Context, key Key, number int64, dir string) (err error) {
	if err := key.Validate(); err != nil {
		return err
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already, and is no empty folder: %w", dir, err)
	}
	partial := filepath.Clean(dir) + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return explainTarget(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	root, err := os.OpenRoot(partial)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := s.check(ctx, key, number, root); err != nil {
		return err
	}
	return os.Rename(partial, dir)
}

// Verify reads a generation as Materialize does, and writes nothing.
func (s *Store) Verify(ctx context.Context, key Key, number int64) error {
	err := key.Validate()
	if err == nil {
		err = s.check(ctx, key, number, nil)
	}
	if err != nil {
		return fmt.Errorf("verify generation %d of %s: %w", number, key, err)
	}
	return nil
}

// check is unpackAll, and remembers which segment was found damaged: it is then
// neither shared with a new generation nor kept when another node sends it.
func (s *Store) check(ctx context.Context, key Key, number int64, root *os.Root) error {
	err := s.unpackAll(ctx, key, number, root)
	var damaged *Damaged
	if errors.As(err, &damaged) {
		p := s.pod(key)
		if id, ok := parseSegmentName(damaged.File); ok {
			p.setSuspect(id, true)
		} else {
			p.mu.Lock()
			delete(p.summaries, number) // from before the damage
			p.mu.Unlock()
		}
	}
	return err
}

// unpackAll unpacks a generation's files below root, or nowhere when it is nil.
func (s *Store) unpackAll(ctx context.Context, key Key, number int64, root *os.Root) error {
	defer s.Hold(key, number)()
	m, h, namespaceKey, err := s.fullManifest(ctx, key, number)
	if err != nil {
		return err
	}
	segments, err := s.openSegments(key, m, h)
	defer func() {
		for _, seg := range segments {
			seg.file.Close()
		}
	}()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	work := make(chan stretch, s.options.Workers)
	group.Go(func() error {
		defer close(work)
		for i := range m.files {
			if err := sendStretches(ctx, &m.files[i], root, work); err != nil {
				return err
			}
		}
		return nil
	})
	for range s.options.Workers {
		group.Go(func() error {
			u, err := newUnpacker(m, segments, namespaceKey)
			if err != nil {
				return err
			}
			defer u.zstd.Close()
			var failed error
			for st := range work { // to the end, so that every file is closed
				if failed == nil {
					failed = u.unpack(st)
				}
				failed = errors.Join(failed, st.target.done())
			}
			return failed
		})
	}
	return group.Wait()
}

// openSegments opens the segments of a generation, and checks that they are
// the ones that the manifest means. The opened ones are returned with an error too.
func (s *Store) openSegments(key Key, m *manifest, h header) ([]openSegment, error) {
	var opened []openSegment
	for _, seg := range m.segments {
		if err := s.checkSize(key, m.generation.Number, seg); err != nil {
			return opened, err
		}
		file, err := s.disk.root.Open(key.path(segmentName(seg.id)))
		if err != nil {
			return opened, err
		}
		opened = append(opened, openSegment{segment: seg, file: file})
		if err := checkSegmentHeader(file, seg, h); err != nil {
			return opened, &Damaged{Generation: m.generation.Number, File: segmentName(seg.id), Detail: err.Error()}
		}
	}
	return opened, nil
}

type openSegment struct {
	segment
	file *os.File
}

// target is a file that is being unpacked by several goroutines.
type target struct {
	file *os.File
	left atomic.Int64 // stretches that are not unpacked yet
}

// done closes the file after its last stretch.
func (t *target) done() error {
	if t == nil || t.left.Add(-1) > 0 {
		return nil
	}
	return t.file.Close()
}

// stretch is a part of a file that is unpacked at once: consecutive chunks of
// together at most pieceSize bytes, none of them a hole.
type stretch struct {
	path   string
	target *target // nil when nothing is written
	offset int64
	length int64
	chunks []chunk
}

// sendStretches creates one file or folder and sends what it consists of.
func sendStretches(ctx context.Context, f *stagedFile, root *os.Root, work chan<- stretch) error {
	if f.folder {
		if root == nil {
			return nil
		}
		return explainTarget(root.Mkdir(f.path, 0o700))
	}
	stretches := f.stretches()
	if root != nil {
		file, err := root.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return explainTarget(err)
		}
		if err := file.Truncate(f.size); err != nil {
			file.Close()
			return explainTarget(err)
		}
		if len(stretches) == 0 {
			return file.Close()
		}
		t := &target{file: file}
		t.left.Store(int64(len(stretches)))
		for i := range stretches {
			stretches[i].target = t
		}
	}
	for i, st := range stretches {
		select {
		case work <- st:
		case <-ctx.Done():
			err := context.Cause(ctx)
			for range stretches[i:] {
				err = errors.Join(err, st.target.done())
			}
			return err
		}
	}
	return nil
}

func (f *stagedFile) stretches() []stretch {
	var list []stretch
	var offset int64
	for i := 0; i < len(f.chunks); {
		if f.chunks[i].segment == hole {
			offset += f.chunks[i].length
			i++
			continue
		}
		st := stretch{path: f.path, offset: offset}
		first := i
		for ; i < len(f.chunks) && f.chunks[i].segment != hole && st.length+f.chunks[i].length <= pieceSize; i++ {
			st.length += f.chunks[i].length
		}
		st.chunks = f.chunks[first:i]
		offset += st.length
		list = append(list, st)
	}
	return list
}

// unpacker reads, decrypts, decompresses and checks chunks. It belongs to one goroutine.
type unpacker struct {
	manifest *manifest
	segments []openSegment
	hasher   *hasher
	aeads    *aeadCache
	zstd     *zstd.Decoder
	sealed   []byte
	out      []byte
	identity []byte
}

func newUnpacker(m *manifest, segments []openSegment, namespaceKey [32]byte) (*unpacker, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(pieceSize+chunkSize),
		zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &unpacker{
		manifest: m, segments: segments, hasher: newHasher(namespaceKey), aeads: newAEADCache(namespaceKey, len(segments)),
		zstd: decoder, out: make([]byte, 0, pieceSize+hashLeaf),
	}, nil
}

// unpack writes one stretch to its target.
func (u *unpacker) unpack(st stretch) error {
	u.out = u.out[:0]
	for rest := st.chunks; len(rest) > 0; {
		// Chunks that were written together are read together.
		first, n := rest[0], 1
		length := int64(first.stored)
		for n < len(rest) && rest[n].segment == first.segment && rest[n].offset == first.offset+length {
			length += int64(rest[n].stored)
			n++
		}
		if int64(cap(u.sealed)) < length {
			u.sealed = make([]byte, length+hashLeaf)
		}
		sealed := u.sealed[:length]
		seg := u.segments[first.segment]
		if _, err := seg.file.ReadAt(sealed, first.offset); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it was cut short")
			}
			return u.damaged(seg, "%v", err)
		}
		for _, c := range rest[:n] {
			if err := u.open(c, seg, sealed[:c.stored]); err != nil {
				return u.damaged(seg, "chunk %d, of %s: %v", c.index, st.path, err)
			}
			sealed = sealed[c.stored:]
		}
		rest = rest[n:]
	}
	if st.target == nil {
		return nil
	}
	_, err := st.target.file.WriteAt(u.out, st.offset)
	return explainTarget(err)
}

var errAltered = errors.New("it was altered")

// open appends the content of one chunk to u.out.
func (u *unpacker) open(c chunk, seg openSegment, sealed []byte) error {
	u.identity = chunkIdentity(u.identity[:0], u.manifest.key, seg.generation, c.index)
	n := nonce(c.index)
	aead, start := u.aeads.of(c.segment, seg.id), len(u.out)
	if int64(c.stored) == c.length+sealOverhead { // it did not compress
		out, err := aead.Open(u.out, n[:], sealed, u.identity)
		if err != nil {
			return errAltered
		}
		u.out = out
	} else {
		packed, err := aead.Open(sealed[:0], n[:], sealed, u.identity)
		if err != nil {
			return errAltered
		}
		if u.out, err = u.zstd.DecodeAll(packed, u.out); err != nil {
			return err
		}
	}
	content := u.out[start:]
	if int64(len(content)) != c.length {
		return fmt.Errorf("%d bytes in place of %d", len(content), c.length)
	}
	if u.hasher.sum(content) != c.hash {
		return errors.New("its hash differs")
	}
	return nil
}

func (u *unpacker) damaged(seg openSegment, format string, args ...any) error {
	return &Damaged{Generation: u.manifest.generation.Number, File: segmentName(seg.id), Detail: fmt.Sprintf(format, args...)}
}

// explainTarget marks errors of a target without space.
func explainTarget(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w below the folder to materialize into: %w", ErrDiskFull, err)
	}
	return err
}
