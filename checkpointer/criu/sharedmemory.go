package criu

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

const (
	// sharedEnough is from how many bytes on shared memory is kept out of CRIU's hands.
	sharedEnough = 4 << 20
	// sharedBlock is how much of it is copied or compared at once.
	sharedBlock = 256 << 10
	// sharedName is how the kernel names memory that processes share without a file.
	sharedName = "/dev/zero (deleted)"
	nowhere    = "/dev/null"
)

// errSharedMixed means that CRIU numbered its images otherwise than was seen.
var errSharedMixed = errors.New("CRIU's images of memory are mixed up: shared memory is left to CRIU from now on")

// sharedMemory is the memory that the processes of a container share without a file, as a
// database's buffers. CRIU would copy all of it with the tasks stopped. Instead its images
// are led to nowhere, which costs nothing, and its list of the pages says what they have
// to hold. We copy them ahead of the pause, and in the pause what differs.
//
// CRIU opens the list of a piece of shared memory, and right after it the image of its
// pages, with the next number that is free. The kernel lets us hold up the first, and put
// a link in the place of the second.
type sharedMemory struct {
	images  string // the folder of CRIU's images
	list    func() ([]int, error)
	objects map[uint64]*sharedObject // by inode, CRIU's name for them
	watch   *os.File                 // tells when CRIU opens a list; nil while nobody looks
	ended   chan struct{}            // closed when nobody looks any more
	led     map[uint64]string        // images that were led to nowhere, by their numbers
}

// sharedObject is one piece of shared memory. Addresses are offsets in it.
type sharedObject struct {
	inode  uint64
	memory *os.File
	// ahead is what the copy has, one span behind another.
	ahead memory.Set
	copy  *os.File
	// mapped is the copy's content, and now the memory itself. That may only be looked at
	// while the processes are stopped: they could take it away.
	mapped, now []byte
	// number is that of its image, present what the image has to have, and late what of
	// that the copy has not.
	number  uint64
	present memory.Set
	late    []memory.Stretch
	done    bool
	// base is what the base has of it; nil for nothing. Then it is copied ahead.
	base    *sharedBase
	windows []window // of the present pages, at last
}

// readShared copies a container's shared memory while its processes run, but for what
// the base has, by inode. It returns nil when there is little of it.
func readShared(ctx context.Context, images string, list func() ([]int, error), base map[uint64]sharedBase) (*sharedMemory, error) {
	s := &sharedMemory{images: images, list: list, objects: map[uint64]*sharedObject{}, led: map[uint64]string{}}
	if err := s.find(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	var all uint64
	var err error
	for _, o := range s.objects {
		if o.ahead, err = o.populated(); err != nil {
			return nil, errors.Join(err, s.close())
		}
		all += o.ahead.Bytes()
	}
	if all < sharedEnough {
		return nil, s.close()
	}
	for inode, o := range s.objects {
		if has, found := base[inode]; found {
			o.base = &has
		} else {
			err = o.copyAhead(ctx, images)
		}
		if err = errors.Join(err, o.mapNow()); err != nil {
			return nil, errors.Join(fmt.Errorf("copy shared memory ahead of the pause: %w", err), s.close())
		}
	}
	return s, nil
}

// find opens the shared memory that is not known yet.
func (s *sharedMemory) find() error {
	pids, err := s.list()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if ended(err) {
			continue
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(maps)) {
			fields := strings.SplitN(strings.TrimSpace(line), " ", 6)
			if len(fields) < 6 || len(fields[1]) < 4 || fields[1][3] != 's' {
				continue
			}
			if strings.TrimSpace(fields[5]) != sharedName {
				continue
			}
			inode, err := strconv.ParseUint(fields[4], 10, 64)
			if err != nil {
				return fmt.Errorf("%q is no mapping: %w", line, err)
			}
			if s.objects[inode] != nil {
				continue
			}
			start, end, _ := strings.Cut(fields[0], "-")
			file, err := os.Open(fmt.Sprintf("/proc/%d/map_files/%s-%s", pid, trimZeros(start), trimZeros(end)))
			if ended(err) {
				continue
			}
			if err != nil {
				return err
			}
			s.objects[inode] = &sharedObject{inode: inode, memory: file}
		}
	}
	return nil
}

// trimZeros: the folder map_files has addresses without leading zeros, maps with some.
func trimZeros(address string) string {
	if trimmed := strings.TrimLeft(address, "0"); trimmed != "" {
		return trimmed
	}
	return "0"
}

// populated are the pages that were ever written.
func (o *sharedObject) populated() (memory.Set, error) {
	info, err := o.memory.Stat()
	if err != nil {
		return nil, err
	}
	var spans []memory.Span
	for at := int64(0); at < info.Size(); {
		start, err := unix.Seek(int(o.memory.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err == nil {
			at, err = unix.Seek(int(o.memory.Fd()), start, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, fmt.Errorf("look for the pages of shared memory: %w", err)
		}
		spans = append(spans, memory.Span{Start: uint64(start), End: uint64(at)})
	}
	return memory.NewSet(spans...), nil
}

// copyAhead copies what there is now.
func (o *sharedObject) copyAhead(ctx context.Context, folder string) (err error) {
	if o.copy, err = os.CreateTemp(folder, sharedCopy); err != nil {
		return err
	}
	if size := o.ahead.Bytes(); size > 0 {
		if err := o.copy.Truncate(int64(size)); err != nil {
			return err
		}
		if o.mapped, err = unix.Mmap(int(o.copy.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
	}
	return o.each(ctx, o.ahead, func(copy []byte, at uint64) error { return readFull(o.memory, copy, at) })
}

// mapNow maps the memory itself.
func (o *sharedObject) mapNow() error {
	info, err := o.memory.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	if o.now, err = unix.Mmap(int(o.memory.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return err
	}
	for _, span := range o.ahead {
		_ = unix.Madvise(o.now[span.Start:span.End], unix.MADV_POPULATE_READ) // it is faster then
	}
	return nil
}

// compare brings the copy of pages, which are all in ahead, up to what they are now. The
// processes are stopped.
func (o *sharedObject) compare(ctx context.Context, pages memory.Set) error {
	info, err := o.memory.Stat()
	if err != nil {
		return err
	}
	if info.Size() < int64(len(o.now)) {
		return fmt.Errorf("shared memory has shrunk to %d bytes", info.Size())
	}
	return o.each(ctx, pages, func(kept []byte, at uint64) error {
		if is := o.now[at:][:len(kept)]; !bytes.Equal(kept, is) {
			copy(kept, is)
		}
		return nil
	})
}

// each calls do for pages that are all in ahead, block by block, with their copy and where
// they are.
func (o *sharedObject) each(ctx context.Context, pages memory.Set, do func(copy []byte, at uint64) error) error {
	type block struct {
		memory.Span
		copy uint64
	}
	blocks := make(chan block)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(blocks)
		var before uint64 // in the copy
		for _, a := range o.ahead {
			for _, span := range memory.Intersect(memory.Set{a}, pages) {
				for at := span.Start; at < span.End; at += sharedBlock {
					b := block{memory.Span{Start: at, End: min(at+sharedBlock, span.End)}, before + at - a.Start}
					select {
					case blocks <- b:
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
			}
			before += a.Bytes()
		}
		return nil
	})
	for range min(runtime.GOMAXPROCS(0), 8) {
		group.Go(func() error {
			for b := range blocks {
				if err := do(o.mapped[b.copy:][:b.Bytes()], b.Start); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func readFull(file *os.File, content []byte, at uint64) error {
	if _, err := io.ReadFull(io.NewSectionReader(file, int64(at), int64(len(content))), content); err != nil {
		return fmt.Errorf("read shared memory: %w", err)
	}
	return nil
}

// lead has CRIU write the images of shared memory to nowhere, from now on until finish. The
// processes are stopped. Where the kernel does not let us, CRIU goes on to write them.
func (s *sharedMemory) lead() error {
	if err := s.find(); err != nil { // there may be more by now
		return err
	}
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_LARGEFILE)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	s.watch, s.ended = os.NewFile(uintptr(group), "fanotify"), make(chan struct{})
	for inode := range s.objects {
		image := filepath.Join(s.images, sharedList(inode))
		err := os.WriteFile(image, nil, 0o600) // CRIU writes over it
		if err == nil {
			err = unix.FanotifyMark(group, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, image)
		}
		if err != nil {
			s.watch.Close()
			close(s.ended)
			return err
		}
	}
	go s.leadAll()
	return nil
}

func sharedList(inode uint64) string { return fmt.Sprintf("%s%d%s", sharedPagemap, inode, imageEnd) }

const (
	sharedPagemap = "pagemap-shmem-"
	imageEnd      = ".img"
	// sharedCopy is how the names of copies begin that are not in their place yet.
	sharedCopy = "shared-"
)

func pagesImage(number uint64) string { return fmt.Sprintf("pages-%d%s", number, imageEnd) }

// leadAll answers whoever opens the list of a piece of shared memory.
func (s *sharedMemory) leadAll() {
	defer close(s.ended)
	events := make([]byte, 64*unsafe.Sizeof(unix.FanotifyEventMetadata{}))
	for {
		n, err := s.watch.Read(events)
		if err != nil {
			return // it was closed, and everybody goes on
		}
		for rest := events[:n]; len(rest) >= int(unsafe.Sizeof(unix.FanotifyEventMetadata{})); {
			var event unix.FanotifyEventMetadata
			if _, err := binary.Decode(rest, binary.NativeEndian, &event); err != nil || int(event.Event_len) > len(rest) || event.Event_len == 0 {
				return
			}
			rest = rest[event.Event_len:]
			if event.Fd < 0 {
				continue
			}
			s.leadNext()
			answer, _ := binary.Append(nil, binary.NativeEndian, unix.FanotifyResponse{Fd: event.Fd, Response: unix.FAN_ALLOW})
			_, err := s.watch.Write(answer)
			unix.Close(int(event.Fd))
			if err != nil {
				return
			}
		}
	}
}

// leadNext puts a link to nowhere in the place of the next image of pages.
func (s *sharedMemory) leadNext() {
	known, err := filepath.Glob(filepath.Join(s.images, "pages-*"+imageEnd))
	if err != nil {
		return
	}
	number := uint64(len(known) + 1)
	path := filepath.Join(s.images, pagesImage(number))
	if os.Symlink(nowhere, path) == nil {
		s.led[number] = path
	}
}

// settle ends what lead began.
func (s *sharedMemory) settle() {
	if s.watch != nil {
		s.watch.Close()
		<-s.ended
		s.watch = nil
	}
}

// finish takes in what the images of shared memory have to hold. The processes are
// stopped, and CRIU has written its images.
func (s *sharedMemory) finish(ctx context.Context) error {
	if s == nil {
		return nil
	}
	s.settle()
	images, err := filepath.Glob(filepath.Join(s.images, "pagemap-*"+imageEnd))
	if err != nil {
		return err
	}
	for _, image := range images {
		name, shared := strings.CutPrefix(strings.TrimSuffix(filepath.Base(image), imageEnd), sharedPagemap)
		if info, err := os.Stat(image); err == nil && shared && info.Size() == 0 {
			if err := os.Remove(image); err != nil { // it is of no process that CRIU dumps
				return err
			}
			continue
		}
		number, present, err := pagesOf(image)
		if err != nil {
			return err
		}
		if s.led[number] == "" {
			continue // CRIU has written it
		}
		inode, err := strconv.ParseUint(name, 10, 64)
		if !shared || err != nil || s.objects[inode] == nil {
			return fmt.Errorf("%s: %w", filepath.Base(image), errSharedMixed)
		}
		if err := s.objects[inode].finish(ctx, s.images, number, present); err != nil {
			return err
		}
	}
	return nil
}

func (o *sharedObject) finish(ctx context.Context, folder string, number uint64, present memory.Set) error {
	o.number, o.present, o.done = number, present, true
	if o.base != nil {
		return o.finishOnBase(ctx, folder)
	}
	for _, span := range memory.Subtract(present, o.ahead) {
		content := make([]byte, span.Bytes())
		if err := readFull(o.memory, content, span.Start); err != nil {
			return err
		}
		o.late = append(o.late, memory.Stretch{Start: span.Start, Data: content})
	}
	return o.compare(ctx, present)
}

// place puts the copies where CRIU's images belong. The processes run again.
func (s *sharedMemory) place(ctx context.Context) error {
	if s == nil {
		return nil
	}
	for _, o := range s.objects {
		if !o.done {
			continue // CRIU has written it, or it was gone
		}
		path := s.led[o.number]
		delete(s.led, o.number)
		if err := o.place(ctx, path); err != nil {
			return fmt.Errorf("put shared memory into the images: %w", err)
		}
	}
	return nil
}

func (o *sharedObject) place(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	if o.base != nil {
		return os.Rename(o.copy.Name(), path)
	}
	var err error
	switch {
	case o.copy == nil:
		err = o.write(path)
	case len(memory.Subtract(o.present, o.ahead)) == 0 && len(memory.Subtract(o.ahead, o.present)) == 0:
		err = os.Rename(o.copy.Name(), path)
	default:
		err = errors.Join(o.write(path), os.Remove(o.copy.Name()))
	}
	if err != nil {
		return err
	}
	return o.sumUp(ctx, path)
}

// write writes an image of pages that are not the ones that were there ahead.
func (o *sharedObject) write(path string) error {
	image, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer image.Close()
	content := map[uint64][]byte{} // by address, in spans of the present pages
	var pieces memory.Set
	var before uint64
	for _, a := range o.ahead {
		for _, span := range memory.Intersect(memory.Set{a}, o.present) {
			content[span.Start] = o.mapped[before+span.Start-a.Start:][:span.Bytes()]
			pieces = append(pieces, span)
		}
		before += a.Bytes()
	}
	for _, late := range o.late {
		content[late.Start] = late.Data
		pieces = append(pieces, late.Span())
	}
	slices.SortFunc(pieces, func(a, b memory.Span) int { return cmp.Compare(a.Start, b.Start) })
	for _, span := range pieces {
		if _, err := image.Write(content[span.Start]); err != nil {
			return err
		}
	}
	return image.Close()
}

// close gives back what was opened, and removes what is not part of the images.
func (s *sharedMemory) close() error {
	if s == nil {
		return nil
	}
	s.settle()
	var errs []error
	for _, path := range s.led {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, o := range s.objects {
		errs = append(errs, o.memory.Close())
		for _, mapped := range [][]byte{o.mapped, o.now} {
			if mapped != nil {
				errs = append(errs, unix.Munmap(mapped))
			}
		}
		if o.copy == nil {
			continue
		}
		if err := os.Remove(o.copy.Name()); !errors.Is(err, os.ErrNotExist) { // it is an image else
			errs = append(errs, err)
		}
		errs = append(errs, o.copy.Close())
	}
	s.objects, s.led = nil, nil
	return errors.Join(errs...)
}
