package criu

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

func init() {
	workloads["scribble"] = scribble
}

// scribble writes pages of its memory all the time, each with a content that its
// number and version give, and checks them against a table of versions. A page
// that a checkpoint has in another state than the table does not go unnoticed.
// Beside it maps, drops and unmaps memory.
func scribble([]string) {
	const pages = 8192 // 32 MiB
	block := must(unix.Mmap(-1, 0, pages*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS))
	versions := make([]uint32, pages)
	stamp := func(p int, version uint32) uint64 { return uint64(p+1)<<32 | uint64(version) }
	write := func(p int) {
		versions[p]++
		page := block[p*4096 : (p+1)*4096]
		for i := 0; i < 4096; i += 8 {
			binary.LittleEndian.PutUint64(page[i:], stamp(p, versions[p])*uint64(i+1))
		}
	}
	verify := func(p int) {
		page := block[p*4096 : (p+1)*4096]
		for i := 0; i < 4096; i += 8 {
			want := stamp(p, versions[p]) * uint64(i+1)
			if versions[p] == 0 {
				want = 0
			}
			if got := binary.LittleEndian.Uint64(page[i:]); got != want {
				fmt.Printf("error page %d at %d: %x, not %x\n", p, i, got, want)
				return
			}
		}
	}
	for p := range pages / 2 { // the rest stays empty for now
		write(p)
	}
	var extra []byte
	for round := 1; ; round++ {
		for range 20 {
			write(rand.IntN(pages))
		}
		for range 20 {
			p := rand.IntN(pages)
			if err := unix.Madvise(block[p*4096:(p+1)*4096], unix.MADV_DONTNEED); err != nil {
				fmt.Println("error", err)
			}
			versions[p] = 0
		}
		if extra != nil {
			if extra[7] != byte(round-1) {
				fmt.Println("error extra", extra[7], round)
			}
			check(unix.Munmap(extra))
		}
		extra = must(unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS))
		extra[7] = byte(round)
		for p := range pages {
			verify(p)
		}
		fmt.Println("checked", round)
	}
}

// generations takes checkpoints, each of what the one before did not have.
func generations(t *testing.T, e *Engine, p *nodetest.Pod, c *nodetest.Container, count int, between func(i int)) *taken {
	t.Helper()
	kept := &taken{}
	for i := range count {
		between(i)
		before := kept.dir
		kept.dir = t.TempDir()
		var err error
		kept.dump, err = e.Checkpoint(context.Background(), targetOf(t, p, c), kept.dir, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := kept.memory.Take(kept.dump.Memory); err != nil {
			t.Fatalf("checkpoint %d, on %d: %v", i+1, kept.dump.Base, err)
		}
		for _, k := range kept.dump.Kept {
			fillKept(t, filepath.Join(kept.dir, k.Path), filepath.Join(before, k.BasePath), []KeptFile{k})
		}
		part := kept.dump.Containers[0]
		t.Logf("checkpoint %d paused %v, %+v, read %d of %d bytes", i+1, kept.dump.Pause, kept.dump.Phases, part.FreshBytes, part.MemoryBytes)
		kept.dump.Sealed(int64(i + 1))
		kept.dump.Close()
	}
	return kept
}

func TestCheckpointsOfWhatChanged(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "scribble")
	c.Output.WaitFor(t, "checked 3")
	e := newEngine(t)
	kept := generations(t, e, source, c, 15, func(int) {
		seen := len(c.Output.Lines())
		nodetest.Eventually(t, 10*time.Second, "a round passes", func() bool { return len(c.Output.Lines()) > seen+1 })
	})
	if part := kept.dump.Containers[0]; e.method != track.None && part.FreshBytes > part.MemoryBytes/2 {
		t.Errorf("the last checkpoint read %d of %d bytes: what was written is not told apart", part.FreshBytes, part.MemoryBytes)
	}
	noErrors(t, c)
	c.Delete(t)
	goal := nodetest.NewPod(t, "pod", "2")
	r := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"scribble"}})
	restore(t, kept, r, true)
	nodetest.Eventually(t, 10*time.Second, "it goes on", func() bool { return len(r.Output.Lines()) > 5 })
	noErrors(t, r)
}

// storedMemory is a generation of what a test kept.
type storedMemory struct {
	processes []memory.Process
	*nodetest.ContainerMemory
}

func (s storedMemory) Processes() []memory.Process { return s.processes }

func (s storedMemory) Memory(string) []memory.Chunk { return s.Chunks() }

func TestVerifyFindsWhatATrackerMissed(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	e := newEngine(t)
	if e.method == track.None {
		t.Skip("this kernel has no way to follow what is written")
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "scribble")
	c.Output.WaitFor(t, "checked 2")
	verify := func(generation int64, kept *taken, processes []memory.Process) Verified {
		t.Helper()
		result, err := e.Verify(context.Background(), source.UID, generation, storedMemory{processes, kept.memory.Of("main")})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("compared %d bytes: %v", result.Bytes, result.Wrong)
		return result
	}
	var processes []memory.Process
	kept := generations(t, e, source, c, 4, func(int) {})
	processes = kept.memory.Processes()
	if result := verify(4, kept, processes); len(result.Wrong) > 0 || result.Bytes < 1<<20 {
		t.Errorf("without a fault: %+v", result)
	}

	// From here on the trackers miss what is written to every fourth page.
	s := e.sessions[source.UID]
	for _, task := range s.tasks {
		if task.tracker != nil {
			task.tracker = forgetful{task.tracker}
		}
	}
	kept2 := &taken{memory: kept.memory}
	for i := range 3 {
		seen := len(c.Output.Lines())
		nodetest.Eventually(t, 10*time.Second, "rounds pass", func() bool { return len(c.Output.Lines()) > seen+3 })
		dump, err := e.Checkpoint(context.Background(), targetOf(t, source, c), t.TempDir(), false)
		if err != nil {
			t.Fatal(err)
		}
		if err := kept2.memory.Take(dump.Memory); err != nil {
			t.Fatal(err)
		}
		processes = kept2.memory.Processes()
		dump.Sealed(int64(5 + i))
		dump.Close()
	}
	if result := verify(7, kept2, processes); len(result.Wrong) == 0 {
		t.Error("pages that are not as they were stored went unnoticed")
	}
	dump, err := e.Checkpoint(context.Background(), targetOf(t, source, c), t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer dump.Close()
	if part := dump.Containers[0]; dump.Base != 0 || part.FreshBytes != part.MemoryBytes {
		t.Errorf("the checkpoint after it builds on generation %d, with %d of %d bytes read", dump.Base, part.FreshBytes, part.MemoryBytes)
	}
}

// forgetful is a tracker with a fault.
type forgetful struct{ track.Tracker }

func (f forgetful) Written(areas memory.Set) (memory.Set, error) {
	written, err := f.Tracker.Written(areas)
	var told []memory.Span
	size := uint64(os.Getpagesize())
	for _, span := range written {
		for page := span.Start; page < span.End; page += size {
			if page/size%4 != 0 {
				told = append(told, memory.Span{Start: page, End: page + size})
			}
		}
	}
	return memory.NewSet(told...), err
}

func TestIdentifyAProcessWithAStrangeName(t *testing.T) {
	id, inner, err := identify(os.Getpid())
	if err != nil || id.pid != os.Getpid() || id.started == 0 || inner == 0 {
		t.Errorf("identify = %+v, %d, %v", id, inner, err)
	}
	if _, _, err := identify(1 << 30); err == nil || !strings.Contains(err.Error(), "no such") {
		t.Errorf("a process that is not there: %v", err)
	}
}

// A process that ended between the reading ahead and the pause was in the generation
// before. It must not be in this one: a restore would wait for it in vain.
func TestMemoryOfAProcessThatEnds(t *testing.T) {
	pages := memory.NewSet(memory.Span{Start: pageSize, End: 3 * pageSize})
	lives := &reading{task: &task{id: taskID{pid: 1}, inner: 1, next: pages}}
	ended := &reading{task: &task{id: taskID{pid: 2}, inner: 2, next: pages}}
	readings, err := late(nil, &session{}, []*reading{lives, ended})
	if err != nil {
		t.Fatal(err)
	}
	lives.next = pages // its image was found
	var dump Dump
	dump.take(readings)
	if len(dump.Memory) != 1 || dump.Memory[0].PID != 1 {
		t.Errorf("the checkpoint has memory of %+v", dump.Memory)
	}
}
