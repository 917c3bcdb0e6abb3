package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Draft is a folder with the files of one generation, which is made into those of a later
// one by what differs. It is for one goroutine at a time.
type Draft struct {
	key      Key
	dir      string
	manifest *manifest
}

// Draft writes the generation's files below dir, as Materialize does, to be made into those
// of a later generation.
func (r *Reader) Draft(ctx context.Context, dir string) (*Draft, error) {
	if err := r.Materialize(ctx, dir); err != nil {
		return nil, err
	}
	return &Draft{r.key, dir, r.manifest}, nil
}

// Number is the generation whose files the draft has.
func (d *Draft) Number() int64 { return d.manifest.generation.Number }

// Bytes is how much space the draft's files take at most.
func (d *Draft) Bytes() (sum int64) { return d.manifest.fileBytes() }

// FileBytes is how much space the generation's files take at most, holes left out. The
// memory of processes is no file.
func (r *Reader) FileBytes() int64 { return r.manifest.fileBytes() }

func (m *manifest) fileBytes() (sum int64) {
	for _, f := range m.files {
		for _, p := range f.parts {
			if p.chunk != hole {
				sum += p.length
			}
		}
	}
	return sum
}

// Remove removes the draft.
func (d *Draft) Remove() error { return os.RemoveAll(d.dir) }

// Take moves the draft's files to dir, which must not be there. The draft ends with that.
func (d *Draft) Take(dir string) error { return os.Rename(d.dir, dir) }

// Refresh makes a draft into the files of this generation, which is of the same pod. What
// is read is verified, as by Materialize; what did not change was when it was written.
// After an error the draft is gone.
func (r *Reader) Refresh(ctx context.Context, d *Draft) error {
	if d.key != r.key {
		return fmt.Errorf("a draft of %s cannot become generation %d of %s", d.key, r.manifest.generation.Number, r.key)
	}
	if err := r.refresh(ctx, d); err != nil {
		return errors.Join(fmt.Errorf("bring a draft of generation %d up to %d of %s: %w", d.Number(), r.manifest.generation.Number, r.key, err), d.Remove())
	}
	d.manifest = r.manifest
	return nil
}

func (r *Reader) refresh(ctx context.Context, d *Draft) error {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	wanted, there := map[string]*stagedFile{}, map[string]*stagedFile{}
	for i := range r.manifest.files {
		f := &r.manifest.files[i]
		wanted[f.path] = f
	}
	for i := range d.manifest.files {
		f := &d.manifest.files[i]
		if next := wanted[f.path]; next != nil && next.folder == f.folder {
			there[f.path] = f
		} else if err := root.RemoveAll(f.path); err != nil {
			return err
		}
	}
	return r.unpackAll(ctx, func(ctx context.Context, work chan<- stretch) error {
		for i := range r.manifest.files {
			f := &r.manifest.files[i]
			before := there[f.path]
			if before == nil {
				if err := sendStretches(ctx, f, root, work); err != nil {
					return err
				}
				continue
			}
			if f.folder {
				continue
			}
			if err := sendChanges(ctx, r.manifest, f, d.manifest, before, root, work); err != nil {
				return err
			}
		}
		return nil
	})
}

// sendChanges opens a file that is there as before, and sends what it has to become.
func sendChanges(ctx context.Context, m *manifest, f *stagedFile, was *manifest, before *stagedFile, root *os.Root, work chan<- stretch) error {
	same := sameParts(m, f, was, before)
	if f.size == before.size && !slices.Contains(same, false) {
		return nil
	}
	file, err := root.OpenFile(f.path, os.O_WRONLY, 0)
	if err != nil {
		return explainTarget(err)
	}
	if err = file.Truncate(f.size); err == nil {
		err = punch(file, f, same)
	}
	if err != nil {
		return errors.Join(explainTarget(err), file.Close())
	}
	return sendAll(ctx, file, f.stretches(func(i int) bool { return f.parts[i].chunk == hole || same[i] }), work)
}

// sameParts says of each part of a file whether it was the same, at the same place, before.
func sameParts(m *manifest, f *stagedFile, was *manifest, before *stagedFile) []bool {
	type content struct {
		length int64
		hole   bool
		hash   chunkHash
	}
	of := func(m *manifest, p part) content {
		if p.chunk == hole {
			return content{length: p.length, hole: true}
		}
		return content{length: p.length, hash: m.chunks[p.chunk].hash}
	}
	known := map[int64]content{}
	var offset int64
	for _, p := range before.parts {
		known[offset] = of(was, p)
		offset += p.length
	}
	same := make([]bool, len(f.parts))
	offset = 0
	for i, p := range f.parts {
		is, found := known[offset]
		same[i] = found && is == of(m, p)
		offset += p.length
	}
	return same
}

// punch makes holes where a file has to have some and did not.
func punch(file *os.File, f *stagedFile, same []bool) error {
	var offset int64
	for i, p := range f.parts {
		if p.chunk == hole && !same[i] {
			if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, p.length); err != nil {
				return &os.PathError{Op: "make a hole in", Path: f.path, Err: err}
			}
		}
		offset += p.length
	}
	return nil
}

// unpackAll unpacks the stretches that send sends.
func (r *Reader) unpackAll(ctx context.Context, send func(ctx context.Context, work chan<- stretch) error) error {
	group, ctx := errgroup.WithContext(ctx)
	work := make(chan stretch, r.store.options.Workers)
	group.Go(func() error {
		defer close(work)
		return send(ctx, work)
	})
	for range r.store.options.Workers {
		group.Go(func() error {
			content := make([]byte, pieceSize)
			var failed error
			for st := range work { // to the end, so that every file is closed
				if failed == nil {
					failed = r.unpack(ctx, st, content[:st.length])
				}
				failed = errors.Join(failed, st.target.done())
			}
			return failed
		})
	}
	return group.Wait()
}
