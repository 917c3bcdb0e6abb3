package store_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

const (
	residentBytes = 1 << 30
	residentPages = residentBytes / storetest.PageSize
	residentStart = 0x7f00_0000_0000
)

var benchPod = store.Key{Namespace: "shop", PodUID: "pod"}

// fill makes content that does not compress, or text, which does.
func fill(data []byte, text bool, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	if !text {
		for i := 0; i < len(data); i += 8 {
			binary.LittleEndian.PutUint64(data[i:], r.Uint64())
		}
		return
	}
	for out := data[:0]; len(out) < len(data); {
		out = fmt.Appendf(out, "order %d of customer %d: %d pieces at %d.%02d\n", r.IntN(1e6), r.IntN(1e4), r.IntN(50), r.IntN(100), r.IntN(100))
	}
}

func residentProcess(fresh []memory.Stretch) []memory.Process {
	return []memory.Process{{Container: "c", PID: 1, Pages: memory.Set{{Start: residentStart, End: residentStart + residentBytes}}, Fresh: fresh}}
}

// freshPages returns the content of every page with a probability of share.
func freshPages(share float64, text bool, seed uint64) []memory.Stretch {
	r := rand.New(rand.NewPCG(seed, 2))
	var fresh []memory.Stretch
	for page := range uint64(residentPages) {
		if r.Float64() < share {
			data := make([]byte, storetest.PageSize)
			fill(data, text, r.Uint64())
			fresh = append(fresh, memory.Stretch{Start: residentStart + page*storetest.PageSize, Data: data})
		}
	}
	return fresh
}

// BenchmarkSealMemory seals generations of a process of 1 GiB. MB/s are those of
// its whole memory; stored-% are of it, too. CPU time says more than time does on a
// machine that is busy.
func BenchmarkSealMemory(b *testing.B) {
	for _, kind := range []string{"incompressible", "text"} {
		text := kind == "text"
		b.Run(kind, func(b *testing.B) {
			resident := make([]byte, residentBytes)
			fill(resident, text, 1)
			whole := []memory.Stretch{{Start: residentStart, Data: resident}}
			b.Run("first", func(b *testing.B) {
				s := benchStore(b, folderIn(b, realDisk), 0)
				benchSeal(b, s, func(int) (int64, []memory.Process) { return 0, residentProcess(whole) }, func() {
					if err := s.Remove(benchPod); err != nil {
						b.Fatal(err)
					}
				})
			})
			s := benchStore(b, folderIn(b, realDisk), 0)
			gen, err := s.Seal(context.Background(), benchPod, store.Generation{}, b.TempDir(), residentProcess(whole))
			if err != nil {
				b.Fatal(err)
			}
			latest := gen.Number
			for _, percent := range []int{0, 1, 10} {
				b.Run(fmt.Sprintf("fresh=%d%%", percent), func(b *testing.B) {
					benchSeal(b, s, func(i int) (int64, []memory.Process) {
						return latest, residentProcess(freshPages(float64(percent)/100, text, uint64(latest)<<8+uint64(i)))
					}, func() {
						if err := s.Retain(benchPod, store.Retention{Count: 2}); err != nil {
							b.Fatal(err)
						}
						latest++
					})
				})
			}
		})
	}
}

// benchSeal times seals, but not what is done before and after each.
func benchSeal(b *testing.B, s *store.Store, before func(i int) (int64, []memory.Process), after func()) {
	b.Helper()
	b.SetBytes(residentBytes)
	var stored, fresh int64
	var used time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		base, processes := before(i)
		for _, stretch := range processes[0].Fresh {
			fresh += int64(len(stretch.Data))
		}
		staged := b.TempDir()
		began := cpuTime(b)
		b.StartTimer()
		gen, err := s.Seal(context.Background(), benchPod, store.Generation{Base: base}, staged, processes)
		b.StopTimer()
		used += cpuTime(b) - began
		if err != nil {
			b.Fatal(err)
		}
		stored += gen.NewBytes
		after()
		b.StartTimer()
	}
	b.ReportMetric(used.Seconds()*1000/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(stored)/float64(b.N), "stored-B/op")
	b.ReportMetric(100*float64(stored)/float64(b.N)/residentBytes, "stored-%")
	b.ReportMetric(float64(fresh)/1e6/b.Elapsed().Seconds(), "fresh-MB/s")
}

// cpuTime is what this process has used of all processors.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkDrain reads the memory of a process of 1 GiB in its order.
func BenchmarkDrain(b *testing.B) {
	for _, kind := range []string{"incompressible", "text", "scattered"} {
		resident := make([]byte, residentBytes)
		fill(resident, kind == "text", 1)
		s := benchStore(b, folderIn(b, realDisk), 2)
		gen, err := s.Seal(b.Context(), benchPod, store.Generation{}, b.TempDir(), residentProcess([]memory.Stretch{{Start: residentStart, Data: resident}}))
		if err != nil {
			b.Fatal(err)
		}
		for i := range 20 {
			if kind != "scattered" {
				break
			}
			if gen, err = s.Seal(b.Context(), benchPod, store.Generation{Base: gen.Number}, b.TempDir(),
				residentProcess(freshPages(0.01, false, uint64(i)))); err != nil {
				b.Fatal(err)
			}
		}
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/workers=%d", kind, workers), func(b *testing.B) {
				b.SetBytes(residentBytes)
				began := cpuTime(b)
				defer func() { b.ReportMetric((cpuTime(b)-began).Seconds()*1000/float64(b.N), "cpu-ms/op") }()
				for b.Loop() {
					r, err := s.OpenReader(b.Context(), benchPod, gen.Number, nil)
					if err != nil {
						b.Fatal(err)
					}
					drain(b, r, workers)
					r.Close()
				}
			})
		}
	}
}

func drain(b *testing.B, r *store.Reader, workers int) {
	b.Helper()
	chunks := r.Memory("c")
	work := make(chan []int, len(chunks)/16+1)
	for len(chunks) > 0 {
		var ids []int
		for _, c := range chunks[:min(16, len(chunks))] {
			ids = append(ids, c.ID)
		}
		chunks = chunks[len(ids):]
		work <- ids
	}
	close(work)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for ids := range work {
				if err := r.Read(context.Background(), ids, func(int, []byte) error { return nil }); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
}
