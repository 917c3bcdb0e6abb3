package pages

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// plainSource has the same content everywhere, which costs nothing to read.
type plainSource struct {
	*fakeSource
	data []byte
}

func (s plainSource) Read(_ context.Context, ids []int, visit func(id int, data []byte) error) error {
	for _, id := range ids {
		if err := visit(id, s.data); err != nil {
			return err
		}
	}
	return nil
}

var _ Source = plainSource{}

// BenchmarkDrain fills in 256 MiB of a process that does nothing.
func BenchmarkDrain(b *testing.B) {
	const pages, window = 1 << 16, 16
	for _, drainers := range []int{1, 2} {
		b.Run(fmt.Sprint(drainers), func(b *testing.B) {
			var best, total time.Duration
			for b.Loop() {
				plan := guestPlan{Folder: b.TempDir(), Processes: 1, Threads: 1, Pages: pages, Ops: 1, Hold: true}
				source := plainSource{&fakeSource{plan: plan}, make([]byte, window*pageSize)}
				for i := range pages / window {
					place := memory.Place{PID: 1, Address: guestBase + uint64(i)*window*pageSize, Length: window * int(pageSize)}
					source.chunks = append(source.chunks, memory.Chunk{ID: i, Bytes: place.Length, Places: []memory.Place{place}})
				}
				d, err := Start(context.Background(), plan.Folder, source, Options{Drainers: drainers})
				if err != nil {
					b.Fatal(err)
				}
				guest, _ := startGuest(b, plan)
				if _, err := guest.StdinPipe(); err != nil {
					b.Fatal(err)
				}
				if err := guest.Start(); err != nil {
					b.Fatal(err)
				}
				if err := d.Wait(); err != nil {
					b.Fatal(err)
				}
				took := d.Stats().Done.Sub(d.Stats().Restored)
				total += took
				if best == 0 || took < best {
					best = took
				}
				unix.Kill(-guest.Process.Pid, unix.SIGKILL)
				guest.Wait()
				d.Stop()
			}
			const bytes = pages * 4096
			b.ReportMetric(bytes/best.Seconds()/1e9, "best-GB/s")
			b.ReportMetric(bytes*float64(b.N)/total.Seconds()/1e9, "mean-GB/s")
		})
	}
}
