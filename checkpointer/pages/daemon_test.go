package pages

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// fakeSource has the memory of a plan's guests.
type fakeSource struct {
	plan   guestPlan
	chunks []memory.Chunk
	Delay  time.Duration
	reads  atomic.Int64
	// fail is asked before each chunk is passed on.
	fail func(id int) error
}

func newFakeSource(plan guestPlan) *fakeSource {
	const window = 16
	s := &fakeSource{plan: plan}
	for pid := 1; pid <= plan.Processes; pid++ {
		for first := 0; first < plan.Pages; first += window {
			shared := first < sharedPages(plan.Pages)
			if shared && pid > 1 {
				continue
			}
			c := memory.Chunk{ID: pid<<32 | first}
			for page := first; page < min(first+window, plan.Pages); page++ {
				if tag(pid, page, plan.Pages) == 0 {
					continue
				}
				for other := 1; other <= plan.Processes; other++ {
					if shared || other == pid {
						c.Places = append(c.Places, memory.Place{PID: other, Address: guestBase + uint64(page)*pageSize, Offset: c.Bytes, Length: int(pageSize)})
					}
				}
				c.Bytes += int(pageSize)
			}
			// Longer places where they can be.
			c.Places = join(c.Places)
			if c.Bytes > 0 {
				s.chunks = append(s.chunks, c)
			}
		}
	}
	rand.New(rand.NewPCG(plan.Seed, 1)).Shuffle(len(s.chunks), func(i, j int) { s.chunks[i], s.chunks[j] = s.chunks[j], s.chunks[i] })
	return s
}

func join(places []memory.Place) []memory.Place {
	var out []memory.Place
	for _, p := range places {
		joined := false
		for i := range out {
			if q := &out[i]; q.PID == p.PID && q.Span().End == p.Address && q.Offset+q.Length == p.Offset {
				q.Length += p.Length
				joined = true
				break
			}
		}
		if !joined {
			out = append(out, p)
		}
	}
	return out
}

func (s *fakeSource) Chunks() []memory.Chunk { return s.chunks }

func (s *fakeSource) Read(ctx context.Context, ids []int, visit func(id int, data []byte) error) error {
	s.reads.Add(1)
	if s.Delay > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.Delay):
		}
	}
	data := make([]byte, 0, 16*pageSize)
	for _, id := range ids {
		if s.fail != nil {
			if err := s.fail(id); err != nil {
				return err
			}
		}
		data = data[:0]
		pid, first := id>>32, id&(1<<32-1)
		for page := first; page < min(first+16, s.plan.Pages); page++ {
			if t := tag(pid, page, s.plan.Pages); t != 0 {
				data = data[:len(data)+int(pageSize)]
				writePage(data[len(data)-int(pageSize):], t)
			}
		}
		if err := visit(id, data); err != nil {
			return err
		}
	}
	return nil
}

// finish waits for a daemon, but not for ever.
func waitFor(t *testing.T, d *Daemon) error {
	t.Helper()
	select {
	case <-d.Done():
		return d.Wait()
	case <-time.After(time.Minute):
		t.Fatalf("the daemon hangs: %+v", d.Stats())
		return nil
	}
}

// runGuest runs a guest to its end, or kills it when its daemon fails.
func runGuests(t *testing.T, d *Daemon, plan guestPlan) {
	t.Helper()
	guest, out := startGuest(t, plan)
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		if d.Wait() != nil {
			unix.Kill(-guest.Process.Pid, unix.SIGKILL)
		}
	}()
	timer := time.AfterFunc(time.Minute, func() { unix.Kill(-guest.Process.Pid, unix.SIGKILL) })
	defer timer.Stop()
	if err := guest.Wait(); err != nil {
		t.Errorf("guest: %v\n%s", err, out)
	}
	if err := waitFor(t, d); err != nil {
		t.Error(err)
	}
	if stats := d.Stats(); stats.MissingBytes != 0 && !t.Failed() {
		t.Errorf("%d bytes are missing", stats.MissingBytes)
	}
}

func TestMemoryIsRight(t *testing.T) {
	tests := map[string]struct {
		plan  guestPlan
		delay time.Duration
	}{
		"reading":      {plan: guestPlan{Processes: 2, Threads: 3, Pages: 6000, Ops: 3000}},
		"changing":     {plan: guestPlan{Processes: 2, Threads: 3, Pages: 6000, Ops: 3000, Changes: true}},
		"slow source":  {plan: guestPlan{Processes: 2, Threads: 3, Pages: 1500, Ops: 500, Changes: true}, delay: 3 * time.Millisecond},
		"moving":       {plan: guestPlan{Processes: 1, Threads: 6, Pages: 24000, Ops: 3000, Moving: true}, delay: 10 * time.Millisecond},
		"many threads": {plan: guestPlan{Processes: 1, Threads: 12, Pages: 6000, Ops: 1000, Changes: true}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			plan := test.plan
			plan.Folder, plan.Seed = t.TempDir(), rand.Uint64()
			source := newFakeSource(plan)
			source.Delay = test.delay
			d, err := Start(context.Background(), plan.Folder, source, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Stop()
			runGuests(t, d, plan)
			stats := d.Stats()
			t.Logf("%+v; mean latency %v", stats, stats.FaultTime/time.Duration(max(stats.Faults, 1)))
		})
	}
}

func TestFailures(t *testing.T) {
	damaged := errors.New("a chunk is damaged")
	t.Run("damaged chunk", func(t *testing.T) {
		plan := guestPlan{Folder: t.TempDir(), Processes: 1, Threads: 1, Pages: 512, Ops: 1, Hold: true}
		source := newFakeSource(plan)
		bad := source.chunks[len(source.chunks)-1].ID
		source.fail = func(id int) error {
			if id == bad {
				return damaged
			}
			return nil
		}
		d, err := Start(context.Background(), plan.Folder, source, Options{})
		if err != nil {
			t.Fatal(err)
		}
		guest, _ := startGuest(t, plan)
		if _, err := guest.StdinPipe(); err != nil { // nothing comes, so that it waits
			t.Fatal(err)
		}
		if err := guest.Start(); err != nil {
			t.Fatal(err)
		}
		if err := waitFor(t, d); !errors.Is(err, damaged) {
			t.Errorf("Wait = %v", err)
		}
		if d.Stats().MissingBytes == 0 {
			t.Error("nothing is missing")
		}
		unix.Kill(-guest.Process.Pid, unix.SIGKILL)
		guest.Wait()
		d.Stop()
	})
	t.Run("failing for a while", func(t *testing.T) {
		plan := guestPlan{Folder: t.TempDir(), Processes: 1, Threads: 2, Pages: 512, Ops: 200, Changes: true}
		source := newFakeSource(plan)
		var failures atomic.Int64
		source.fail = func(int) error {
			if failures.Add(1)%3 != 0 {
				return damaged
			}
			return nil
		}
		d, err := Start(context.Background(), plan.Folder, source, Options{Retry: func(context.Context, error, int) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Stop()
		runGuests(t, d, plan)
	})
	t.Run("process without memory of its own", func(t *testing.T) {
		plan := guestPlan{Folder: t.TempDir(), Processes: 1, Threads: 1, Pages: 64, Ops: 1}
		more := plan
		more.Processes = 2
		d, err := Start(context.Background(), plan.Folder, newFakeSource(more), Options{})
		if err != nil {
			t.Fatal(err)
		}
		guest, _ := startGuest(t, plan)
		if err := guest.Start(); err != nil {
			t.Fatal(err)
		}
		if err := waitFor(t, d); !errors.Is(err, ErrNotRestored) || !strings.Contains(err.Error(), "process 2") {
			t.Errorf("Wait = %v", err)
		}
		unix.Kill(-guest.Process.Pid, unix.SIGKILL)
		guest.Wait()
		d.Stop()
	})
	t.Run("stopped", func(t *testing.T) {
		// As deep as a node's work folders, and deeper than a UNIX socket's address.
		folder := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		d, err := Start(context.Background(), folder, newFakeSource(guestPlan{Processes: 1, Pages: 64}), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(folder, socketName)); err != nil {
			t.Error(err)
		}
		d.Stop()
		if err := d.Wait(); !errors.Is(err, ErrStopped) {
			t.Errorf("Wait = %v", err)
		}
	})
	t.Run("impossible place", func(t *testing.T) {
		source := newFakeSource(guestPlan{Processes: 1, Pages: 64})
		source.chunks[1].Places[0].Offset = source.chunks[1].Bytes
		d, err := Start(context.Background(), t.TempDir(), source, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Stop()
		if err := d.Wait(); err == nil || !strings.Contains(err.Error(), "impossible place") {
			t.Errorf("Wait = %v", err)
		}
	})
}
