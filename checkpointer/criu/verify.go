package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

// Stored is a stored generation of a pod.
type Stored interface {
	// Processes are those whose memory the generation has, with all pages.
	Processes() []memory.Process
	// Memory is a container's part of it.
	Memory(container string) []memory.Chunk
	// Read passes on the content of chunks.
	Read(ctx context.Context, chunks []int, visit func(id int, data []byte) error) error
}

// Verified is what a comparison of a pod's memory with a stored generation found.
type Verified struct {
	// Bytes is how much memory was compared: all that was not written since.
	Bytes int64
	// Wrong are places that differ though nothing was seen to write to them: the
	// generation is not what the pod was. Only the first ones are listed.
	Wrong []WrongPage
}

// WrongPage is a page that differs.
type WrongPage struct {
	Container string
	PID       int
	Address   uint64
}

func (w WrongPage) String() string {
	return fmt.Sprintf("page %x of process %d of container %s", w.Address, w.PID, w.Container)
}

const (
	// verifyStep is how much is compared at once, in bytes: for so long a checkpoint
	// of the pod may have to wait.
	verifyStep = 4 << 20
	// maxWrong is how many wrong pages are told.
	maxWrong = 8
)

// Verify compares the memory of a pod, which runs on, with the generation that was
// sealed last. A checkpoint takes what was not written as unchanged; this finds
// out whether it was. Memory that is written meanwhile is passed over. Where
// something is wrong, the pod's next checkpoint is one of everything, and its
// processes are not followed any more.
func (e *Engine) Verify(ctx context.Context, podUID string, generation int64, stored Stored) (Verified, error) {
	var result Verified
	err := e.host.Run(func() error {
		e.mu.Lock()
		s := e.sessions[podUID]
		e.mu.Unlock()
		if s == nil {
			return nil
		}
		v := &verifier{session: s, stored: stored, arena: track.NewArena(2 * verifyStep)}
		defer v.arena.Close()
		var err error
		result, err = v.run(ctx, generation)
		return err
	})
	if err != nil {
		return result, fmt.Errorf("compare the memory of pod %s with generation %d: %w", podUID, generation, err)
	}
	return result, nil
}

type verifier struct {
	session *session
	stored  Stored
	arena   *track.Arena
	result  Verified
}

func (v *verifier) run(ctx context.Context, generation int64) (Verified, error) {
	tasks, begun := v.begin(generation)
	if !begun {
		return v.result, nil // a newer one is there already
	}
	defer v.session.endVerify()
	for _, p := range v.stored.Processes() {
		t := tasks[processName{p.Container, p.PID}]
		if t == nil {
			continue // it has ended, or is not followed
		}
		if err := v.process(ctx, t, p); err != nil {
			return v.result, err
		}
	}
	if len(v.result.Wrong) > 0 {
		v.session.distrust()
	}
	return v.result, nil
}

type processName struct {
	container string
	pid       int
}

// begin notes from now on what is written since the generation.
func (v *verifier) begin(generation int64) (map[processName]*task, bool) {
	s := v.session
	s.busy.Lock()
	defer s.busy.Unlock()
	if s.base != generation || s.verifying {
		return nil, false
	}
	s.verifying = true
	tasks := map[processName]*task{}
	for _, t := range s.tasks {
		if t.based && t.tracker != nil {
			t.since = t.changed
			tasks[processName{t.container, t.inner}] = t
		}
	}
	return tasks, true
}

func (s *session) endVerify() {
	s.busy.Lock()
	defer s.busy.Unlock()
	s.verifying = false
	for _, t := range s.tasks {
		t.since = nil
	}
}

// distrust stops relying on trackers.
func (s *session) distrust() {
	s.busy.Lock()
	defer s.busy.Unlock()
	s.reset()
	s.untracked = true
	for _, t := range s.tasks {
		t.close()
	}
}

// process compares one process.
func (v *verifier) process(ctx context.Context, t *task, p memory.Process) error {
	var held memory.Set
	for batch := range batches(v.stored.Memory(p.Container), p.PID) {
		var spans []memory.Span
		var stored []memory.Stretch
		places := map[int][]memory.Place{}
		ids := make([]int, len(batch))
		for i, c := range batch {
			ids[i] = c.ID
			for _, place := range c.Places {
				if place.PID == p.PID {
					places[c.ID] = append(places[c.ID], place)
					spans = append(spans, place.Span())
				}
			}
		}
		err := v.stored.Read(ctx, ids, func(id int, data []byte) error {
			for _, place := range places[id] {
				stored = append(stored, memory.Stretch{Start: place.Address, Data: bytes.Clone(data[place.Offset : place.Offset+place.Length])})
			}
			return nil
		})
		if err != nil {
			return err
		}
		set := memory.NewSet(spans...)
		held = append(held, set...)
		if err := v.compare(t, set, memory.Merge(stored, nil)); err != nil {
			return err
		}
	}
	// What is in no chunk is zeros.
	for step := range steps(memory.Subtract(p.Pages, memory.NewSet(held...))) {
		if err := v.compare(t, step, nil); err != nil {
			return err
		}
	}
	return nil
}

// batches are the chunks with places in a process, a step at a time.
func batches(chunks []memory.Chunk, pid int) func(yield func([]memory.Chunk) bool) {
	return func(yield func([]memory.Chunk) bool) {
		var batch []memory.Chunk
		size := 0
		for _, c := range chunks {
			if !slices.ContainsFunc(c.Places, func(p memory.Place) bool { return p.PID == pid }) {
				continue
			}
			batch = append(batch, c)
			if size += c.Bytes; size >= verifyStep {
				if !yield(batch) {
					return
				}
				batch, size = nil, 0
			}
		}
		if len(batch) > 0 {
			yield(batch)
		}
	}
}

// steps cuts a set into parts of at most verifyStep bytes.
func steps(set memory.Set) func(yield func(memory.Set) bool) {
	return func(yield func(memory.Set) bool) {
		for _, span := range set {
			for span.Start < span.End {
				part := memory.Span{Start: span.Start, End: min(span.End, span.Start+verifyStep)}
				if !yield(memory.Set{part}) {
					return
				}
				span.Start = part.End
			}
		}
	}
}

// compare compares the pages of a set, which ought to be as stored, or zeros.
// What was written before or while they are read is passed over: the tracker is
// asked before and after.
func (v *verifier) compare(t *task, set memory.Set, stored []memory.Stretch) error {
	v.session.busy.Lock()
	defer v.session.busy.Unlock()
	v.arena.Reset()
	if t.tracker == nil || gone(t.id) {
		return nil
	}
	areas, err := track.Areas(t.id.pid)
	if err == nil {
		_, err = t.look(areas)
	}
	if err != nil {
		return nil // it ends, or cannot be followed any more
	}
	// A page that the process has dropped is zeros, and nothing wrote to it.
	set, err = track.Populated(t.id.pid, memory.Intersect(memory.Subtract(set, t.since), areas))
	if err != nil {
		return nil
	}
	now, err := track.Read(t.id.pid, set, v.arena)
	if err != nil {
		if errors.Is(err, track.ErrEnded) || gone(t.id) {
			return nil
		}
		return err
	}
	if _, err := t.look(areas); err != nil {
		return nil
	}
	// It may also have been dropped before it was read.
	if set, err = track.Populated(t.id.pid, memory.Subtract(set, t.since)); err != nil {
		return nil
	}
	set = memory.Intersect(set, memory.Addresses(now))
	v.result.Bytes += int64(set.Bytes())
	is, was := content(memory.Keep(now, set)), content(memory.Keep(stored, set))
	for _, span := range set {
		for page := span.Start; page < span.End && len(v.result.Wrong) < maxWrong; page += pageSize {
			if !bytes.Equal(is.page(page), was.page(page)) {
				v.result.Wrong = append(v.result.Wrong, WrongPage{t.container, t.inner, page})
			}
		}
	}
	return nil
}

// content finds pages in stretches.
type content []memory.Stretch

// page is the content of a page; zeros where there is none.
func (c content) page(address uint64) []byte {
	i, _ := slices.BinarySearchFunc(c, address, func(s memory.Stretch, a uint64) int {
		if s.Span().End <= a {
			return -1
		}
		return 1
	})
	if i < len(c) && c[i].Start <= address {
		offset := address - c[i].Start
		return c[i].Data[offset : offset+pageSize]
	}
	return zeroPage
}
