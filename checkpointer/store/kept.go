package store

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"
)

// Kept is a stretch of a staged file that has the content of a stretch of the base
// generation. What is staged of it is not looked at.
type Kept struct {
	// Path is the staged file, below the staged folder.
	Path   string
	Offset int64
	// Length is in bytes, of both stretches.
	Length int64
	// BasePath and BaseOffset are where the generation Generation.Base has it. There it
	// must begin and end where chunks do, which is so for the large files of an archive.
	BasePath   string
	BaseOffset int64
}

// keptParts is a Kept of a planned file, and what it consists of.
type keptParts struct {
	offset, length int64
	parts          []part // of the base
}

// keep finds the kept stretches in the base, nil for none, and has the planned files take them from there.
func keep(files []plannedFile, kept []Kept, base *manifest) error {
	if len(kept) == 0 {
		return nil
	}
	planned := map[string]*plannedFile{}
	for i := range files {
		if !files[i].folder {
			planned[files[i].path] = &files[i]
		}
	}
	stored := map[string]*stagedFile{}
	for i := 0; base != nil && i < len(base.files); i++ {
		stored[base.files[i].path] = &base.files[i]
	}
	for _, k := range kept {
		f, from := planned[k.Path], stored[k.BasePath]
		if f == nil || k.Length <= 0 || k.Offset < 0 || k.Offset > f.size-k.Length {
			return fmt.Errorf("%d bytes at %d of %s are to be kept, and there are no such: %w", k.Length, k.Offset, k.Path, fs.ErrInvalid)
		}
		var parts []part
		if from != nil {
			parts = stretchOf(from.parts, k.BaseOffset, k.Length)
		}
		if parts == nil {
			return fmt.Errorf("%w: it has no chunks of %d bytes at %d of %s", ErrNoBase, k.Length, k.BaseOffset, k.BasePath)
		}
		f.kept = append(f.kept, keptParts{k.Offset, k.Length, parts})
	}
	for _, f := range planned {
		slices.SortFunc(f.kept, func(a, b keptParts) int { return cmp.Compare(a.offset, b.offset) })
		if err := f.leaveOut(); err != nil {
			return err
		}
	}
	return nil
}

// stretchOf returns the parts of a file from an offset on, nil where chunks would have to
// be divided, or where the file is shorter.
func stretchOf(parts []part, offset, length int64) (out []part) {
	if offset < 0 {
		return nil
	}
	for _, p := range parts {
		start, end := offset, min(offset+length, p.length)
		offset = max(offset-p.length, 0)
		if start >= end {
			continue
		}
		if p.chunk != hole && (start > 0 || end < p.length) {
			return nil
		}
		out = append(out, part{chunk: p.chunk, length: end - start})
		length -= end - start
	}
	if length > 0 {
		return nil
	}
	return out
}

// leaveOut drops the lengths of what is kept: what remains is what is read of the file.
func (f *plannedFile) leaveOut() error {
	var lengths []uint32
	var at int64
	rest := f.lengths
	for _, k := range f.kept {
		for len(rest) > 0 && at < k.offset {
			lengths = append(lengths, rest[0])
			at += int64(rest[0])
			rest = rest[1:]
		}
		begin := at
		for len(rest) > 0 && at < k.offset+k.length {
			at += int64(rest[0])
			rest = rest[1:]
		}
		if begin != k.offset || at != k.offset+k.length {
			return fmt.Errorf("%w: the %d bytes at %d of %s are not cut apart from the others", ErrNoBase, k.length, k.offset, f.path)
		}
	}
	lengths = append(lengths, rest...)
	f.lengths = lengths
	return nil
}

// baseParts takes parts of a base over into a new generation.
type baseParts struct {
	base  *Reader
	leave []bool // the segments of the base that the new generation does without
}

// take adds kept parts to a piece; those in segments to leave are read, to be written anew.
// It sends a piece that is full, and returns the one to go on with.
func (o baseParts) take(ctx context.Context, p *piece, parts []part, free <-chan *piece, send func(*piece)) (*piece, error) {
	for _, kept := range parts {
		var data []byte
		if kept.chunk != hole && o.leave[o.base.manifest.chunks[kept.chunk].segment] {
			err := o.base.readSorted(ctx, []int32{kept.chunk}, func(_ int32, content []byte) error {
				data = slices.Clone(content)
				return nil
			})
			if err != nil {
				return p, fmt.Errorf("%w: %w", ErrNoBase, err)
			}
		}
		if len(p.data)+len(data) > pieceSize || len(p.chunks) >= mostChunks {
			send(p)
			var err error
			if p, err = nextPiece(ctx, free); err != nil {
				return p, err
			}
		}
		if data == nil {
			p.chunks = append(p.chunks, packedChunk{kept: &part{kept.chunk, kept.length}})
			continue
		}
		p.data = append(p.data, data...)
		p.chunks = append(p.chunks, packedChunk{length: uint32(len(data))})
	}
	return p, nil
}
