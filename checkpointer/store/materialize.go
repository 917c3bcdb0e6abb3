package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
)

// Materialize writes the files of a generation below dir, which must be empty or
// not there yet, as they were staged; the memory of processes is no file. Every
// byte is decrypted and compared with its hash before it counts: where one is
// wrong the error is a *Damaged, and nothing is left of dir. Files get mode 0600
// and folders 0700.
//
// What is written is not made to last: dir is meant to lie on a tmpfs.
func (s *Store) Materialize(ctx context.Context, key Key, number int64, dir string) error {
	r, err := s.OpenReader(ctx, key, number, nil)
	if err != nil {
		return fmt.Errorf("materialize: %w", err)
	}
	defer r.Close()
	return r.Materialize(ctx, dir)
}

// Materialize writes the generation's files, as Store.Materialize does.
func (r *Reader) Materialize(ctx context.Context, dir string) error {
	if err := r.materialize(ctx, dir); err != nil {
		return fmt.Errorf("materialize generation %d of %s: %w", r.manifest.generation.Number, r.key, err)
	}
	return nil
}

func (r *Reader) materialize(ctx context.Context, dir string) (err error) {
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
	if err := r.unpackFiles(ctx, root); err != nil {
		return err
	}
	return os.Rename(partial, dir)
}

// Verify reads all of a generation, the memory of processes too, and writes
// nothing. The error is a *Damaged where something is wrong.
func (s *Store) Verify(ctx context.Context, key Key, number int64) error {
	r, err := s.OpenReader(ctx, key, number, nil)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer r.Close()
	if err := r.verify(ctx, &verification{read: map[fileID][]uint64{}}); err != nil {
		return fmt.Errorf("verify generation %d of %s: %w", number, key, err)
	}
	return nil
}

// unpackFiles unpacks the generation's files below root.
func (r *Reader) unpackFiles(ctx context.Context, root *os.Root) error {
	return r.unpackAll(ctx, func(ctx context.Context, work chan<- stretch) error {
		for i := range r.manifest.files {
			if err := sendStretches(ctx, &r.manifest.files[i], root, work); err != nil {
				return err
			}
		}
		return nil
	})
}

// unpack writes one stretch to its target. Content is space for it.
func (r *Reader) unpack(ctx context.Context, st stretch, content []byte) error {
	numbers := make([]int32, 0, len(st.parts))
	offsets := map[int32][]int64{}
	var offset int64
	for _, p := range st.parts {
		numbers = append(numbers, p.chunk)
		offsets[p.chunk] = append(offsets[p.chunk], offset)
		offset += p.length
	}
	err := r.readSorted(ctx, numbers, func(number int32, data []byte) error {
		for _, offset := range offsets[number] {
			copy(content[offset:], data)
		}
		return nil
	})
	var damaged *Damaged
	if errors.As(err, &damaged) {
		damaged.Detail += ", of " + st.path
	}
	if err != nil {
		return err
	}
	_, err = st.target.file.WriteAt(content, st.offset)
	return explainTarget(err)
}

// target is a file that is being unpacked by several goroutines.
type target struct {
	file *os.File
	left atomic.Int64 // stretches that are not unpacked yet
}

// done closes the file after its last stretch.
func (t *target) done() error {
	if t.left.Add(-1) > 0 {
		return nil
	}
	return t.file.Close()
}

// stretch is what of a file is unpacked at once: consecutive parts of
// together at most pieceSize bytes, none of them a hole.
type stretch struct {
	path   string
	target *target
	offset int64
	length int64
	parts  []part
}

// sendStretches creates one file or folder and sends what it consists of.
func sendStretches(ctx context.Context, f *stagedFile, root *os.Root, work chan<- stretch) error {
	if f.folder {
		return explainTarget(root.Mkdir(f.path, 0o700))
	}
	file, err := root.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return explainTarget(err)
	}
	if err := file.Truncate(f.size); err != nil {
		file.Close()
		return explainTarget(err)
	}
	return sendAll(ctx, file, f.stretches(func(i int) bool { return f.parts[i].chunk == hole }), work)
}

// sendAll sends what a file consists of. It is closed after the last of that.
func sendAll(ctx context.Context, file *os.File, stretches []stretch, work chan<- stretch) error {
	if len(stretches) == 0 {
		return file.Close()
	}
	t := &target{file: file}
	t.left.Store(int64(len(stretches)))
	for i, st := range stretches {
		st.target = t
		select {
		case work <- st:
		case <-ctx.Done():
			err := context.Cause(ctx)
			for range stretches[i:] {
				err = errors.Join(err, t.done())
			}
			return err
		}
	}
	return nil
}

// stretches are what of the file is to be written; skip leaves out parts.
func (f *stagedFile) stretches(skip func(part int) bool) []stretch {
	var list []stretch
	var offset int64
	for i := 0; i < len(f.parts); {
		if skip(i) {
			offset += f.parts[i].length
			i++
			continue
		}
		st := stretch{path: f.path, offset: offset}
		first := i
		for ; i < len(f.parts) && !skip(i) && st.length+f.parts[i].length <= pieceSize; i++ {
			st.length += f.parts[i].length
		}
		st.parts = f.parts[first:i]
		offset += st.length
		list = append(list, st)
	}
	return list
}

// explainTarget marks errors of a target without space.
func explainTarget(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w below the folder to materialize into: %w", ErrDiskFull, err)
	}
	return err
}
