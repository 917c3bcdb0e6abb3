package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// sharedWindow is how much of the addresses of shared memory is looked at at once: the store
// keeps that much of an image apart from the rest.
const sharedWindow = ownBytes

// sharedSeed makes it impossible to write other content with the same sum on purpose. By
// chance one of 2^64 changes of a window goes unnoticed.
var sharedSeed = maphash.MakeSeed()

// sharedBase is what the base has of a piece of shared memory.
type sharedBase struct {
	image   string   // relative to the generation's folder
	windows []window // ascending
}

// at returns what the base has of the memory that a window is of.
func (b *sharedBase) at(w *window) (window, bool) {
	i, found := slices.BinarySearchFunc(b.windows, w.start/sharedWindow, func(has window, number uint64) int {
		return cmp.Compare(has.start/sharedWindow, number)
	})
	if !found {
		return window{}, false
	}
	return b.windows[i], true
}

// window is the present part of one sharedWindow of memory, or of its image.
type window struct {
	start  uint64 // of the first page
	pages  uint16 // which are present, from the start of the sharedWindow on
	offset int64  // in the image, where the pages lie one behind another
	length int64
	sum    uint64
}

// windowsOf divides the pages of an image.
func windowsOf(present memory.Set) (windows []window) {
	offset := int64(0)
	for _, span := range present {
		for at := span.Start; at < span.End; {
			number, end := at/sharedWindow, min(span.End, (at/sharedWindow+1)*sharedWindow)
			if n := len(windows); n == 0 || windows[n-1].start/sharedWindow != number {
				windows = append(windows, window{start: at, offset: offset})
			}
			w := &windows[len(windows)-1]
			for ; at < end; at += pageSize {
				w.pages |= 1 << (at % sharedWindow / pageSize)
				w.length += int64(pageSize)
				offset += int64(pageSize)
			}
		}
	}
	return windows
}

// each passes the runs of pages, by where they begin in the sharedWindow, and their bytes.
func (w *window) each(visit func(start, length uint64)) {
	for page := uint64(0); page < sharedWindow/pageSize; page++ {
		begin := page
		for page < sharedWindow/pageSize && w.pages>>page&1 != 0 {
			page++
		}
		if page > begin {
			visit(begin*pageSize, (page-begin)*pageSize)
		}
	}
}

// inMemory passes the content of the window, of all of the memory.
func (w *window) inMemory(all []byte, visit func(run []byte)) {
	of := all[w.start/sharedWindow*sharedWindow:]
	w.each(func(start, length uint64) { visit(of[start:][:length]) })
}

// inImage passes the content of the window, of all of the image.
func (w *window) inImage(all []byte, visit func(run []byte)) {
	of := all[w.offset:]
	w.each(func(_, length uint64) {
		visit(of[:length])
		of = of[length:]
	})
}

// add takes the next run into the window's sum.
func (w *window) add(run []byte) {
	w.sum = maphash.Comparable(sharedSeed, [2]uint64{w.sum, maphash.Bytes(sharedSeed, run)})
}

// inParallel divides work on windows among the processors.
func inParallel(ctx context.Context, windows []window, do func(w *window) error) error {
	group, ctx := errgroup.WithContext(ctx)
	share := len(windows)/min(runtime.GOMAXPROCS(0), 8) + 1
	for len(windows) > 0 {
		some := windows[:min(share, len(windows))]
		windows = windows[len(some):]
		group.Go(func() error {
			for i := range some {
				if i%64 == 0 && ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := do(&some[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// finishOnBase writes an image of the pages that are not in the base as they are now, and
// notes which are. The processes are stopped.
func (o *sharedObject) finishOnBase(ctx context.Context, folder string) (err error) {
	if o.copy, err = os.CreateTemp(folder, sharedCopy); err != nil {
		return err
	}
	if err := o.copy.Truncate(int64(o.present.Bytes())); err != nil {
		return err
	}
	if n := len(o.present); n > 0 && o.present[n-1].End > uint64(len(o.now)) {
		return fmt.Errorf("there is shared memory at %x, which has %d bytes", o.present[n-1].End, len(o.now))
	}
	o.windows = windowsOf(o.present)
	return inParallel(ctx, o.windows, func(w *window) error {
		w.inMemory(o.now, w.add)
		if o.isKept(w) {
			return nil
		}
		at := w.offset
		var err error
		w.inMemory(o.now, func(run []byte) {
			_, writeErr := o.copy.WriteAt(run, at)
			err, at = errors.Join(err, writeErr), at+int64(len(run))
		})
		return err
	})
}

// isKept is whether the base has what a window has now.
func (o *sharedObject) isKept(w *window) bool {
	before, found := o.base.at(w)
	return found && before.pages == w.pages && before.sum == w.sum
}

// sumUp finds out the sums of an image that is in its place.
func (o *sharedObject) sumUp(ctx context.Context, image string) error {
	o.windows = windowsOf(o.present)
	if len(o.windows) == 0 {
		return nil
	}
	file, err := os.Open(image)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := unix.Mmap(int(file.Fd()), 0, int(o.present.Bytes()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return &os.PathError{Op: "map", Path: image, Err: err}
	}
	err = inParallel(ctx, o.windows, func(w *window) error {
		w.inImage(content, w.add)
		return nil
	})
	return errors.Join(err, unix.Munmap(content))
}

// onBase returns what is kept of the images of shared memory, and adds to next what this
// generation has of it. Dir is the generation's folder.
func (s *sharedMemory) onBase(dir string, next map[uint64]sharedBase) (kept []KeptFile, err error) {
	if s == nil {
		return nil, nil
	}
	for inode, o := range s.objects {
		if !o.done {
			continue
		}
		image, err := filepath.Rel(dir, filepath.Join(s.images, pagesImage(o.number)))
		if err != nil {
			return nil, err
		}
		next[inode] = sharedBase{image, o.windows}
		for i := range o.windows {
			w := &o.windows[i]
			if o.base == nil || !o.isKept(w) {
				continue
			}
			before, _ := o.base.at(w)
			at := before.offset
			if n := len(kept); n > 0 && kept[n-1].Path == image && kept[n-1].Offset+kept[n-1].Length == w.offset && kept[n-1].BaseOffset+kept[n-1].Length == at {
				kept[n-1].Length += w.length
				continue
			}
			kept = append(kept, KeptFile{Path: image, Offset: w.offset, Length: w.length, BasePath: o.base.image, BaseOffset: at})
		}
	}
	return kept, nil
}
