package nodetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Memory keeps the memory of a pod's processes in place of a store.
type Memory struct {
	processes map[processKey]map[uint64][]byte // pages by address
}

type processKey struct {
	container string
	pid       int
}

// Take takes over a checkpoint: all of it, or what is new since the one before.
// It returns an error where a page is in neither.
func (m *Memory) Take(processes []memory.Process) error {
	size := uint64(os.Getpagesize())
	next := map[processKey]map[uint64][]byte{}
	for _, p := range processes {
		key := processKey{p.Container, p.PID}
		pages := map[uint64][]byte{}
		for _, s := range p.Fresh {
			for at := s.Start; at < s.Span().End; at += size {
				pages[at] = bytes.Clone(s.Data[at-s.Start : at-s.Start+size])
			}
		}
		if !memory.Addresses(p.Fresh).Within(p.Pages) {
			return fmt.Errorf("process %d of container %s has content of pages that it does not have", p.PID, p.Container)
		}
		for _, span := range p.Pages {
			for at := span.Start; at < span.End; at += size {
				if pages[at] == nil {
					pages[at] = m.processes[key][at]
				}
				if pages[at] == nil {
					return fmt.Errorf("process %d of container %s: no content of page %x", p.PID, p.Container, at)
				}
			}
		}
		next[key] = pages
	}
	m.processes = next
	return nil
}

// Of returns the memory of a container's processes, to restore it from.
func (m *Memory) Of(container string) *ContainerMemory {
	c := &ContainerMemory{}
	for key, pages := range m.processes {
		if key.container != container {
			continue
		}
		for at, page := range pages {
			c.chunks = append(c.chunks, memory.Chunk{
				ID: len(c.content), Bytes: len(page), Places: []memory.Place{{PID: key.pid, Address: at, Length: len(page)}},
			})
			c.content = append(c.content, page)
		}
	}
	slices.SortFunc(c.chunks, func(a, b memory.Chunk) int { return int(int64(a.Places[0].Address - b.Places[0].Address)) })
	return c
}

// ContainerMemory is a pages.Source.
type ContainerMemory struct {
	chunks  []memory.Chunk
	content [][]byte
}

// Chunks returns one chunk for each page.
func (c *ContainerMemory) Chunks() []memory.Chunk { return c.chunks }

// Read passes on the content of pages.
func (c *ContainerMemory) Read(_ context.Context, chunks []int, visit func(id int, data []byte) error) error {
	for _, id := range chunks {
		if err := visit(id, c.content[id]); err != nil {
			return err
		}
	}
	return nil
}

// Processes are those whose memory is kept, with their pages.
func (m *Memory) Processes() []memory.Process {
	var out []memory.Process
	for key, pages := range m.processes {
		var spans []memory.Span
		for at, page := range pages {
			spans = append(spans, memory.Span{Start: at, End: at + uint64(len(page))})
		}
		out = append(out, memory.Process{Container: key.container, PID: key.pid, Pages: memory.NewSet(spans...)})
	}
	return out
}
