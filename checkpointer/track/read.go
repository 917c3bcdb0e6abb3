package track

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

const (
	// maxRanges is how many ranges the kernel takes at once (UIO_MAXIOV).
	maxRanges = 1024
	// batchBytes is how much is read at once: enough for a call's cost not to count, and little enough to share the work.
	batchBytes = 4 << 20
)

// Read reads pages of a process into the arena; the content is good until the
// arena's Reset. Pages of which the process cannot read itself (PROT_NONE) are
// read too. Pages that it has no more, because it runs meanwhile, are left out
// of the result; of a frozen process none are. Ask for pages that are populated
// only: another is read as zeros, and then takes memory of page tables.
//
// errors.Is(err, ErrArenaFull): the pages do not fit.
func Read(pid int, pages memory.Set, into *Arena) ([]memory.Stretch, error) {
	stretches, err := read(pid, pages, into)
	if err != nil {
		return nil, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return stretches, nil
}

func read(pid int, pages memory.Set, into *Arena) ([]memory.Stretch, error) {
	process, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer process.Close()
	file, err := process.file("mem", os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()

	data, err := into.take(int64(pages.Bytes()))
	if err != nil {
		return nil, err
	}
	batches := split(pages, data)
	workers := min(max(2, runtime.GOMAXPROCS(0)), len(batches))
	missing := make([][]memory.Span, len(batches))
	var group errgroup.Group
	for worker := range workers {
		group.Go(func() error {
			for i := worker; i < len(batches); i += workers {
				var err error
				if missing[i], err = batches[i].read(pid, file); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// The numbers of processes are used again: what was read is this one's only if it is still there.
	if err := process.alive(); err != nil {
		return nil, err
	}
	var absent []memory.Span
	for _, m := range missing {
		absent = append(absent, m...)
	}
	return stretchesOf(pages, data, memory.NewSet(absent...)), nil
}

// stretchesOf cuts data, the content of all pages one after the other, into stretches without those that are absent.
func stretchesOf(pages memory.Set, data []byte, absent memory.Set) []memory.Stretch {
	stretches := make([]memory.Stretch, 0, len(pages))
	for _, span := range pages {
		for _, part := range memory.Subtract(memory.Set{span}, absent) {
			at := part.Start - span.Start
			stretches = append(stretches, memory.Stretch{Start: part.Start, Data: data[at : at+part.Bytes() : at+part.Bytes()]})
		}
		for len(absent) > 0 && absent[0].End <= span.End {
			absent = absent[1:]
		}
		data = data[span.Bytes():]
	}
	return stretches
}

// batch is a part of the pages, with the place for their content.
type batch struct {
	spans []memory.Span
	data  []byte
}

func split(pages memory.Set, data []byte) []batch {
	var batches []batch
	var current batch
	var bytes uint64
	finish := func() {
		if bytes > 0 {
			current.data, data = data[:bytes], data[bytes:]
			batches = append(batches, current)
			current, bytes = batch{}, 0
		}
	}
	for _, span := range pages {
		for span.Start < span.End {
			part := memory.Span{Start: span.Start, End: min(span.End, span.Start+batchBytes-bytes)}
			current.spans, bytes, span.Start = append(current.spans, part), bytes+part.Bytes(), part.End
			if bytes == batchBytes || len(current.spans) == maxRanges {
				finish()
			}
		}
	}
	finish()
	return batches
}

// read reads the batch, and returns the pages that the process does not have.
func (b batch) read(pid int, file *os.File) ([]memory.Span, error) {
	var missing []memory.Span
	spans, data := b.spans, b.data
	for len(spans) > 0 {
		n, err := readRanges(pid, spans, data)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.EFAULT) {
			return nil, ended(err)
		}
		// A read that is short has come to a page that the process does not have, or must not read.
		n -= n % int(pageSize)
		spans, data = skip(spans, uint64(n)), data[n:]
		if len(spans) == 0 {
			break
		}
		if n > 0 {
			continue
		}
		// It is read against the process's own permissions, up to the end of its stretch: what follows is often the same.
		size := int(spans[0].Bytes())
		got, err := file.ReadAt(data[:size], int64(spans[0].Start))
		got -= got % int(pageSize)
		if got == 0 {
			if errors.Is(err, io.EOF) {
				return nil, ErrEnded
			}
			if !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EFAULT) {
				return nil, fmt.Errorf("page %x: %w", spans[0].Start, err)
			}
			missing = append(missing, memory.Span{Start: spans[0].Start, End: spans[0].Start + pageSize})
			got = int(pageSize)
		}
		spans, data = skip(spans, uint64(got)), data[got:]
	}
	return missing, nil
}

// readRanges reads ranges of a process one after the other into data.
func readRanges(pid int, spans []memory.Span, data []byte) (int, error) {
	remote := make([]unix.RemoteIovec, len(spans))
	for i, span := range spans {
		remote[i] = unix.RemoteIovec{Base: uintptr(span.Start), Len: int(span.Bytes())}
	}
	local := []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	return unix.ProcessVMReadv(pid, local, remote, 0)
}

// skip returns the spans without their first bytes.
func skip(spans []memory.Span, bytes uint64) []memory.Span {
	for len(spans) > 0 && bytes >= spans[0].Bytes() {
		bytes -= spans[0].Bytes()
		spans = spans[1:]
	}
	if bytes > 0 {
		spans = append([]memory.Span{{Start: spans[0].Start + bytes, End: spans[0].End}}, spans[1:]...)
	}
	return spans
}
