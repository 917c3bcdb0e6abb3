// Package app is the two applications of the experiments that are written for them: an
// HTTP API that keeps nothing, and a shopping cart that keeps all in memory. Both hold as
// much memory as is asked for, with a known content, so that every page of it can be
// checked after a move.
package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

// Memory is a part of a process' memory that holds pages of a known content.
type Memory struct {
	kind content.Kind

	mu    sync.Mutex
	bytes []byte
	// versions has the version of each page: how often it was rewritten.
	versions  []uint32
	rewritten int64
	next      uint64
}

// NewMemory maps and fills memory. It is none of Go's heap, which moves nothing but is
// given back when it is not used.
func NewMemory(kind content.Kind, size int64) (*Memory, error) {
	if size <= 0 || size%content.PageSize != 0 {
		return nil, fmt.Errorf("%d bytes of memory: use a multiple of %d", size, content.PageSize)
	}
	mapped, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	m := &Memory{kind: kind, bytes: mapped, versions: make([]uint32, size/content.PageSize)}
	for number := range m.versions {
		m.fill(uint64(number))
	}
	return m, nil
}

// Close gives the memory back. Nothing may use it any more.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return unix.Munmap(m.bytes)
}

func (m *Memory) page(number uint64) []byte {
	return m.bytes[number*content.PageSize:][:content.PageSize]
}

func (m *Memory) fill(number uint64) {
	m.kind.Fill(m.page(number), number, uint64(m.versions[number]))
}

// rewriteEvery is the time between two portions of what is rewritten.
const rewriteEvery = 50 * time.Millisecond

// Rewrite rewrites a share of the memory a second, page after page, until ctx ends.
func (m *Memory) Rewrite(ctx context.Context, percent int) {
	ticker := time.NewTicker(rewriteEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			m.rewrite(uint64(len(m.versions)) * uint64(percent) / 100 / uint64(time.Second/rewriteEvery))
		}
	}
}

// rewrite gives the next pages another version each, the first one after the last.
func (m *Memory) rewrite(pages uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range pages {
		m.versions[m.next]++
		m.fill(m.next)
		m.next = (m.next + 1) % uint64(len(m.versions))
	}
	m.rewritten += int64(pages) * content.PageSize
}

// Health is what a check of the memory found.
type Health struct {
	Pages int `json:"pages"`
	// Wrong is how many of them do not have the content of their version.
	Wrong int `json:"wrong"`
}

// Rewritten is how many bytes were rewritten since the process began.
func (m *Memory) Rewritten() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rewritten
}

// checkedAtOnce is how many pages are checked between two times at which others may work.
const checkedAtOnce = 1024

// Check compares every page with what it must hold.
func (m *Memory) Check() Health {
	health := Health{Pages: len(m.versions)}
	want := make([]byte, content.PageSize)
	for first := 0; first < len(m.versions); first += checkedAtOnce {
		m.mu.Lock()
		for number := first; number < min(first+checkedAtOnce, len(m.versions)); number++ {
			m.kind.Fill(want, uint64(number), uint64(m.versions[number]))
			if !bytes.Equal(want, m.page(uint64(number))) {
				health.Wrong++
			}
		}
		m.mu.Unlock()
	}
	return health
}

// WriteTo writes all pages and their versions, all of one moment.
func (m *Memory) WriteTo(w io.Writer) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := bufio.NewWriterSize(w, 1<<20)
	err := binary.Write(out, binary.LittleEndian, append([]uint32{uint32(len(m.versions))}, m.versions...))
	n, writeErr := out.Write(m.bytes)
	return int64(n), errors.Join(err, writeErr, out.Flush())
}

// ReadFrom takes over what another memory of the same size has written.
func (m *Memory) ReadFrom(r io.Reader) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var pages uint32
	if err := binary.Read(r, binary.LittleEndian, &pages); err != nil {
		return 0, fmt.Errorf("read the memory's size: %w", err)
	}
	if int(pages) != len(m.versions) {
		return 0, fmt.Errorf("memory of %d pages does not fit into one of %d", pages, len(m.versions))
	}
	if err := binary.Read(r, binary.LittleEndian, m.versions); err != nil {
		return 0, fmt.Errorf("read the pages' versions: %w", err)
	}
	n, err := io.ReadFull(r, m.bytes)
	if err != nil {
		return int64(n), fmt.Errorf("read the pages: %w", err)
	}
	return int64(n), nil
}
