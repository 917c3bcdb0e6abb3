package pages_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
)

// bulk is a program in a container with much memory. It answers all the time,
// each time from some pages, and now and then checks all of it.
func bulk(args []string) {
	debug.SetGCPercent(-1)
	megabytes, _ := strconv.Atoi(args[0])
	block, err := unix.Mmap(-1, 0, megabytes<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	size := os.Getpagesize()
	content := func(page int) uint64 { return uint64(page)*0x9e3779b97f4a7c15 | 1 }
	check := func(page int) {
		for _, at := range []int{0, size / 2, size - 8} {
			if got := binary.LittleEndian.Uint64(block[page*size+at:]); got != content(page) {
				fmt.Printf("error page %d holds %#x\n", page, got)
				os.Exit(1)
			}
		}
	}
	for page := range len(block) / size {
		for at := 0; at < size; at += 8 {
			binary.LittleEndian.PutUint64(block[page*size+at:], content(page))
		}
	}
	fmt.Println("ready")
	for n := 1; ; n++ {
		for range 16 {
			check(rand.IntN(len(block) / size))
		}
		fmt.Println("answer", n)
		if n%50 == 0 {
			for page := range len(block) / size {
				check(page)
			}
			fmt.Println("verified", n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// imageSource has the lazy pages of CRIU's images of one process.
type imageSource struct {
	pages   *os.File
	chunks  []memory.Chunk
	offsets []int64
}

func openImages(folder string, pid int) (*imageSource, error) {
	raw, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("pagemap-%d.img", pid)))
	if err != nil {
		return nil, err
	}
	// next returns the numbers of the next message, by their fields.
	next := func() (map[protowire.Number]uint64, error) {
		if len(raw) < 4 {
			return nil, io.EOF
		}
		n := binary.LittleEndian.Uint32(raw)
		if uint64(len(raw)) < 4+uint64(n) {
			return nil, io.ErrUnexpectedEOF
		}
		fields := map[protowire.Number]uint64{}
		for m := raw[4 : 4+n]; len(m) > 0; {
			field, kind, tag := protowire.ConsumeTag(m)
			if tag < 0 || kind != protowire.VarintType {
				return nil, fmt.Errorf("field %d of kind %d", field, kind)
			}
			value, length := protowire.ConsumeVarint(m[tag:])
			if length < 0 {
				return nil, io.ErrUnexpectedEOF
			}
			fields[field] = value
			m = m[tag+length:]
		}
		raw = raw[4+n:]
		return fields, nil
	}
	raw = raw[8:] // magic numbers
	head, err := next()
	if err != nil {
		return nil, err
	}
	s := &imageSource{}
	if s.pages, err = os.Open(filepath.Join(folder, fmt.Sprintf("pages-%d.img", head[1]))); err != nil {
		return nil, err
	}
	const lazy, present, window = 2, 4, 1 << 16
	size := uint64(os.Getpagesize())
	for at := int64(0); ; {
		e, err := next()
		if errors.Is(err, io.EOF) {
			return s, nil
		} else if err != nil {
			return nil, err
		}
		const address, pagesBefore42, flags, pages = 1, 2, 4, 5
		if e[flags]&present == 0 {
			return nil, fmt.Errorf("pages at %#x are not in the images", e[address])
		}
		start, end := e[address], e[address]+max(e[pages], e[pagesBefore42])*size
		for start < end {
			length := min(end, (start/window+1)*window) - start
			if e[flags]&lazy != 0 {
				place := memory.Place{PID: pid, Address: start, Length: int(length)}
				s.chunks = append(s.chunks, memory.Chunk{ID: len(s.chunks), Bytes: int(length), Places: []memory.Place{place}})
				s.offsets = append(s.offsets, at)
			}
			start += length
			at += int64(length)
		}
	}
}

func (s *imageSource) Chunks() []memory.Chunk { return s.chunks }

func (s *imageSource) Read(_ context.Context, ids []int, visit func(id int, data []byte) error) error {
	buffer := make([]byte, 1<<16)
	for _, id := range ids {
		data := buffer[:s.chunks[id].Bytes]
		if _, err := s.pages.ReadAt(data, s.offsets[id]); err != nil {
			return err
		}
		if err := visit(id, data); err != nil {
			return err
		}
	}
	return nil
}

// restored is how a restore went.
type restored struct{ answered, drained time.Duration }

// TestRealProcess restores a real process, with CRIU's page daemon and with this
// one. LIFEBOAT_PAGES_MB sets other sizes, as "64,1024".
func TestRealProcess(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	sizes := os.Getenv("LIFEBOAT_PAGES_MB")
	if sizes == "" {
		sizes = "64"
	}
	conf := filepath.Join(t.TempDir(), "criu.conf")
	if err := os.WriteFile(conf, []byte("network-lock skip\ntcp-close\nmanage-cgroups ignore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	number := 0
	for size := range strings.SplitSeq(sizes, ",") {
		number++
		spec := nodetest.Spec{Args: []string{"bulk", size}, Annotations: map[string]string{"org.criu.config": conf}}
		pod := nodetest.NewPod(t, "bulk-0", fmt.Sprintf("source-%d", number))
		c := pod.NewContainer(t, fmt.Sprintf("source%d", number), "main", spec)
		c.Start(t)
		c.Output.WaitFor(t, "verified")
		images := t.TempDir()
		if err := c.Runtime("runc", "checkpoint", "--image-path", images, "--work-path", images, c.ID); err != nil {
			log, _ := os.ReadFile(filepath.Join(images, "dump.log"))
			t.Fatalf("%v\n%s", err, log)
		}
		for _, daemon := range []string{"ours, 1 drainer", "ours, 2 drainers", "CRIU's"} {
			number++
			goal := nodetest.NewPod(t, "bulk-0", fmt.Sprintf("goal-%d", number))
			r := goal.NewContainer(t, fmt.Sprintf("goal%d", number), "main", spec)
			var result restored
			var about string
			switch daemon {
			case "CRIU's":
				result = restoreWithCRIU(t, images, r)
			default:
				drainers := 2
				if strings.Contains(daemon, "1") {
					drainers = 1
				}
				result, about = restoreWithDaemon(t, images, r, drainers)
			}
			r.Output.WaitFor(t, "verified")
			if strings.Contains(strings.Join(r.Output.Lines(), "\n"), "error") {
				t.Errorf("%s MB, %s: %v", size, daemon, r.Output.Lines())
			}
			t.Logf("%s MB, %s: answers after %v, all there after %v %s", size, daemon, result.answered, result.drained, about)
			r.Delete(t)
		}
		os.RemoveAll(images)
	}
}

// restore runs runc, and returns when it began and when the container answered.
func restore(t *testing.T, images, work string, c *nodetest.Container) (time.Time, time.Duration) {
	t.Helper()
	started := time.Now()
	answered := make(chan time.Duration, 1)
	go func() {
		for len(c.Output.Lines()) == 0 && time.Since(started) < 30*time.Second {
			time.Sleep(200 * time.Microsecond)
		}
		answered <- time.Since(started)
	}()
	err := c.Runtime("runc", "restore", "--detach", "--bundle", c.Bundle, "--pid-file", c.PidFile(), "--image-path", images,
		"--work-path", work, "--lazy-pages", "--manage-cgroups-mode", "ignore", c.ID)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(work, "restore.log"))
		t.Fatalf("%v\n%s", err, log)
	}
	return started, <-answered
}

func restoreWithDaemon(t *testing.T, images string, c *nodetest.Container, drainers int) (restored, string) {
	t.Helper()
	source, err := openImages(images, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer source.pages.Close()
	work := t.TempDir()
	d, err := pages.Start(context.Background(), work, source, pages.Options{Drainers: drainers})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	started, answered := restore(t, images, work, c)
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
	s := d.Stats()
	if s.DrainedBytes == 0 || s.MissingBytes != 0 {
		t.Errorf("the daemon has done %+v", s)
	}
	rate := float64(s.DrainedBytes+s.FaultBytes) / 1e9 / s.Done.Sub(s.Restored).Seconds()
	about := fmt.Sprintf("(%d faults, %d zero, mean %v, longest %v; %.2f GB/s from the restore on; attached to restored %v)",
		s.Faults, s.ZeroFaults, s.FaultTime/time.Duration(max(s.Faults, 1)), s.LongestFault, rate, s.Restored.Sub(s.Attached))
	return restored{answered, s.Done.Sub(started)}, about
}

func restoreWithCRIU(t *testing.T, images string, c *nodetest.Container) restored {
	t.Helper()
	work := t.TempDir()
	daemon := exec.Command("criu", "lazy-pages", "--images-dir", images, "--work-dir", work, "-v1", "--log-file", "lazy.log")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(work, "lazy-pages.socket")
	nodetest.Eventually(t, 10*time.Second, "CRIU's daemon listens", func() bool {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", daemon.Process.Pid))
		_, err := os.Stat(socket)
		return err == nil && strings.Contains(string(content), "00010000 0001 01")
	})
	started, answered := restore(t, images, work, c)
	if err := daemon.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(work, "lazy.log"))
		t.Errorf("CRIU's daemon: %v\n%s", err, log)
	}
	return restored{answered, time.Since(started)}
}
