package store

import (
	"fmt"
	"io/fs"
	"math"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// layout is where the memory of one process comes from.
type layout struct {
	process process // its extents are those that stay as in the base
	fresh   []memory.Stretch
}

// layOut decides where the pages of processes come from: fresh content, or the
// base, which is nil when there is none.
func layOut(processes []memory.Process, base *manifest) ([]layout, error) {
	old := map[processName]*process{}
	if base != nil {
		for i := range base.processes {
			old[base.processes[i].name()] = &base.processes[i]
		}
	}
	seen := map[processName]bool{}
	var list []layout
	for _, p := range processes {
		l := layout{process: process{container: p.Container, pid: p.PID, pages: p.Pages}, fresh: p.Fresh}
		name := l.process.name()
		if seen[name] {
			return nil, fmt.Errorf("%s is given twice: %w", name, fs.ErrInvalid)
		}
		seen[name] = true
		fresh, err := validate(p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", name, err, fs.ErrInvalid)
		}
		if kept := memory.Subtract(p.Pages, fresh); len(kept) > 0 {
			before := old[name]
			if before == nil {
				return nil, fmt.Errorf("%w: it has no %s", ErrNoBase, name)
			}
			if lacking := memory.Subtract(kept, before.pages); len(lacking) > 0 {
				return nil, fmt.Errorf("%w: of %s it lacks the memory at %s", ErrNoBase, name, lacking[0])
			}
			l.process.extents = clip(before.extents, kept)
		}
		list = append(list, l)
	}
	return list, nil
}

// processName tells the processes of a pod apart.
type processName struct {
	container string
	pid       int
}

func (n processName) String() string {
	return fmt.Sprintf("process %d of container %q", n.pid, n.container)
}

func (p *process) name() processName { return processName{p.container, p.pid} }

// validate checks that a process makes sense, and returns which of its pages are fresh.
func validate(p memory.Process) (fresh memory.Set, err error) {
	if p.Container == "" || len(p.Container) > maxName || p.PID < 0 || p.PID > math.MaxInt32 {
		return nil, fmt.Errorf("a container's name has 1 to %d bytes, and a process's number is positive", maxName)
	}
	for i, span := range p.Pages {
		if span.Start%pageSize != 0 || span.End%pageSize != 0 || span.Start >= span.End || i > 0 && span.Start <= p.Pages[i-1].End {
			return nil, fmt.Errorf("the pages at %s are no ascending spans of whole pages", span)
		}
	}
	for _, s := range p.Fresh {
		span := s.Span()
		if span.Start%pageSize != 0 || span.End%pageSize != 0 || span.End < span.Start {
			return nil, fmt.Errorf("the content at %s is not of whole pages", span)
		}
		n := len(fresh)
		switch {
		case len(s.Data) == 0:
		case n > 0 && span.Start < fresh[n-1].End:
			return nil, fmt.Errorf("the content at %s comes after that at %s", span, fresh[n-1])
		case n > 0 && span.Start == fresh[n-1].End:
			fresh[n-1].End = span.End
		default:
			fresh = append(fresh, span)
		}
	}
	if foreign := memory.Subtract(fresh, p.Pages); len(foreign) > 0 {
		return nil, fmt.Errorf("there is content at %s, which is none of its pages", foreign[0])
	}
	return fresh, nil
}

// clip returns the parts of extents that lie in a set.
func clip(extents []extent, in memory.Set) []extent {
	out := make([]extent, 0, len(extents))
	for _, e := range extents {
		for len(in) > 0 && in[0].End <= e.address {
			in = in[1:]
		}
		for rest := in; len(rest) > 0 && rest[0].Start < e.end(); rest = rest[1:] {
			start, end := max(e.address, rest[0].Start), min(e.end(), rest[0].End)
			out = append(out, extent{address: start, length: uint32(end - start), chunk: e.chunk, offset: e.offset + uint32(start-e.address)})
		}
	}
	return out
}

// merge puts together extents that both ascend and do not overlap.
func merge(a, b []extent) []extent {
	out := make([]extent, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[0].address < a[0].address {
			from = &b
		}
		e := (*from)[0]
		*from = (*from)[1:]
		if n := len(out); n > 0 && e.chunk == out[n-1].chunk && e.address == out[n-1].end() && e.offset == out[n-1].offset+out[n-1].length {
			out[n-1].length += e.length
			continue
		}
		out = append(out, e)
	}
	return out
}

// window is the fresh pages of one process in one aligned chunkSize of addresses:
// what becomes one chunk.
type window struct {
	process int // index into the layouts
	parts   []memory.Stretch
}

// windows passes the fresh pages of processes to visit, by windows, ascending.
func windows(layouts []layout, visit func(window) error) error {
	for i, l := range layouts {
		var parts []memory.Stretch
		flush := func() error {
			if len(parts) == 0 {
				return nil
			}
			w := window{process: i, parts: parts}
			parts = nil
			return visit(w)
		}
		for _, s := range l.fresh {
			for len(s.Data) > 0 {
				if len(parts) > 0 && parts[0].Start/chunkSize != s.Start/chunkSize {
					if err := flush(); err != nil {
						return err
					}
				}
				n := min(uint64(len(s.Data)), chunkSize-s.Start%chunkSize)
				parts = append(parts, memory.Stretch{Start: s.Start, Data: s.Data[:n:n]})
				s.Start, s.Data = s.Start+n, s.Data[n:]
			}
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}
