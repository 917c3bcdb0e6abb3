package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

// writerName is the argument that makes this program the process that is measured.
const writerName = "writer"

// write has so many megabytes, of which it writes so many random pages for each line it reads.
func write() {
	megabytes, _ := strconv.Atoi(os.Args[2])
	data, err := unix.Mmap(-1, 0, megabytes<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	page := os.Getpagesize()
	for at := 0; at < len(data); at += page {
		data[at] = byte(1 + at/page%255)
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		n, _ := strconv.Atoi(lines.Text())
		for _, at := range rand.Perm(len(data) / page)[:n] {
			data[at*page]++
		}
		fmt.Println("done")
	}
}

// runs is how often each figure is taken; the median counts.
const runs = 5

func measureAll(ctx context.Context, sizes, shares []int) error {
	fmt.Printf("%10s %8s %12s %16s %8s %20s\n", "memory", "written", "read all", "read written", "ratio", "bytes read")
	for _, size := range sizes {
		for _, share := range shares {
			if err := measure(ctx, size, share); err != nil {
				return fmt.Errorf("measure %d MB with %d %% written: %w", size, share, err)
			}
		}
	}
	return nil
}

// subject is the process that is measured, in a cgroup of its own.
type subject struct {
	pid   int
	in    io.Writer
	out   *bufio.Scanner
	group cgroup.Group
}

func measure(ctx context.Context, megabytes, percent int) (err error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", writerName, strconv.Itoa(megabytes))
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cmd.Process.Kill()
		// It was killed, and says so.
		_ = cmd.Wait()
	}()
	s := subject{pid: cmd.Process.Pid, in: in, out: bufio.NewScanner(out)}
	if s.group, err = cgroup.ForPath("/sys/fs/cgroup", fmt.Sprintf("/measured-%d", s.pid)); err != nil {
		return err
	}
	if err := os.Mkdir(s.group.Dir(), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.group.Dir(), "cgroup.procs"), []byte(strconv.Itoa(s.pid)), 0o600); err != nil {
		return err
	}
	if !s.out.Scan() {
		return errors.New("it has ended")
	}
	return s.compare(ctx, megabytes, percent)
}

// compare prints how long the subject is frozen with and without pre-copy.
func (s subject) compare(ctx context.Context, megabytes, percent int) error {
	tracker, err := track.Attach(ctx, s.pid, track.SoftDirty)
	if err != nil {
		return err
	}
	defer tracker.Close()
	arena := track.NewArena(int64(megabytes+64) << 20)
	defer arena.Close()
	if err := arena.Reserve(int64(megabytes+32) << 20); err != nil {
		return err
	}
	var all, some []time.Duration
	var allBytes, someBytes uint64
	for range runs {
		// While it runs: what it has is read ahead, and looked at anew from now on.
		if _, err := s.copyWritten(tracker, arena); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(s.in, megabytes*256*percent/100); err != nil || !s.out.Scan() {
			return errors.Join(err, errors.New("it has ended"))
		}
		var took time.Duration
		if took, someBytes, err = s.frozen(ctx, func() (uint64, error) { return s.copyWritten(tracker, arena) }); err != nil {
			return err
		}
		some = append(some, took)
		if took, allBytes, err = s.frozen(ctx, func() (uint64, error) { return s.copyAll(arena) }); err != nil {
			return err
		}
		all = append(all, took)
	}
	full, part := median(all), median(some)
	fmt.Printf("%7d MB %6d %% %9.1f ms %13.1f ms %7.1fx %8.1f of %4.0f MB\n", megabytes, percent, milliseconds(full), milliseconds(part),
		float64(full)/float64(part), float64(someBytes)/(1<<20), float64(allBytes)/(1<<20))
	return nil
}

// frozen returns how long the subject was frozen for do, and how many bytes that read.
func (s subject) frozen(ctx context.Context, do func() (uint64, error)) (time.Duration, uint64, error) {
	start := time.Now()
	if err := s.group.Freeze(ctx); err != nil {
		return 0, 0, err
	}
	bytes, err := do()
	if thawErr := s.group.Thaw(ctx); err != nil || thawErr != nil {
		return 0, 0, errors.Join(err, thawErr)
	}
	return time.Since(start), bytes, nil
}

func (s subject) copyAll(arena *track.Arena) (uint64, error) {
	return s.copy(arena, func(areas memory.Set) (memory.Set, error) { return areas, nil })
}

func (s subject) copyWritten(tracker track.Tracker, arena *track.Arena) (uint64, error) {
	return s.copy(arena, tracker.Written)
}

// copy reads those pages of the subject that are chosen and have content.
func (s subject) copy(arena *track.Arena, choose func(areas memory.Set) (memory.Set, error)) (uint64, error) {
	areas, err := track.Areas(s.pid)
	if err != nil {
		return 0, err
	}
	chosen, err := choose(areas)
	if err != nil {
		return 0, err
	}
	has, err := track.Populated(s.pid, areas)
	if err != nil {
		return 0, err
	}
	pages := memory.Intersect(chosen, has)
	arena.Reset()
	_, err = track.Read(s.pid, pages, arena)
	return pages.Bytes(), err
}

func median(durations []time.Duration) time.Duration {
	slices.Sort(durations)
	return durations[len(durations)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
