package track

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

func startMemory(b *testing.B, megabytes int, args ...string) (*helper, memory.Set) {
	b.Helper()
	h := startHelper(b, "memory", append([]string{strconv.Itoa(megabytes)}, args...)...)
	areas, err := Areas(h.pid)
	if err != nil {
		b.Fatal(err)
	}
	return h, areas
}

func BenchmarkAttach(b *testing.B) {
	for _, threads := range []int{1, 20, 200} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			h := startHelper(b, "threads", strconv.Itoa(threads))
			for b.Loop() {
				tracker, err := Attach(b.Context(), h.pid, Userfaultfd)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				tracker.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkWritten looks at 1 GB of which a share was written since.
func BenchmarkWritten(b *testing.B) {
	for _, method := range []Method{Userfaultfd, SoftDirty} {
		if Works(method) != nil {
			continue
		}
		for _, kind := range []string{"small", "huge"} {
			for _, percent := range []int{0, 1, 10, 100} {
				b.Run(fmt.Sprintf("%s/%s/written=%d%%", method, kind, percent), func(b *testing.B) {
					h, areas := startMemory(b, 1024, kind)
					tracker, err := Attach(b.Context(), h.pid, method)
					if err != nil {
						b.Fatal(err)
					}
					defer tracker.Close()
					if _, err := tracker.Written(areas); err != nil {
						b.Fatal(err)
					}
					var writing time.Duration
					pages, runs := 1024*256*percent/100, 0
					for b.Loop() {
						b.StopTimer()
						took, err := strconv.Atoi(h.ask("write %d", pages))
						if err != nil {
							b.Fatal(err)
						}
						writing += time.Duration(took)
						runs++
						b.StartTimer()
						if _, err := tracker.Written(areas); err != nil {
							b.Fatal(err)
						}
					}
					if pages > 0 {
						b.ReportMetric(float64(writing.Nanoseconds())/float64(runs*pages), "ns/write")
					}
				})
			}
		}
	}
}

// BenchmarkWriteUnfollowed is what a write takes in a process that nobody follows.
func BenchmarkWriteUnfollowed(b *testing.B) {
	h, _ := startMemory(b, 1024)
	var writing time.Duration
	runs := 0
	for b.Loop() {
		took, err := strconv.Atoi(h.ask("write %d", 26_214))
		if err != nil {
			b.Fatal(err)
		}
		writing += time.Duration(took)
		runs++
	}
	b.ReportMetric(float64(writing.Nanoseconds())/float64(runs*26_214), "ns/write")
}

func BenchmarkRead(b *testing.B) {
	h, areas := startMemory(b, 1024)
	has, err := Populated(h.pid, areas)
	if err != nil {
		b.Fatal(err)
	}
	var scattered memory.Set // every second page of a tenth
	for _, span := range has {
		for page := span.Start; page < span.End && len(scattered) < 26_214; page += 2 * pageSize {
			scattered = append(scattered, memory.Span{Start: page, End: page + pageSize})
		}
	}
	for name, pages := range map[string]memory.Set{"all": has, "scattered": scattered} {
		b.Run(name, func(b *testing.B) {
			arena := NewArena(2 << 30)
			defer arena.Close()
			if err := arena.Reserve(int64(pages.Bytes())); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(pages.Bytes()))
			for b.Loop() {
				if _, err := Read(h.pid, pages, arena); err != nil {
					b.Fatal(err)
				}
				arena.Reset()
			}
		})
	}
}

func BenchmarkAreas(b *testing.B) {
	h, areas := startMemory(b, 1024)
	b.Run("1GB", func(b *testing.B) {
		for b.Loop() {
			if _, err := Areas(h.pid); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("populated", func(b *testing.B) {
		for b.Loop() {
			if _, err := Populated(h.pid, areas); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("maps", func(b *testing.B) {
		for b.Loop() {
			if _, err := mappings(h.pid); err != nil {
				b.Fatal(err)
			}
		}
	})
	many := startHelper(b, "mappings", "5000")
	b.Run("5000mappings", func(b *testing.B) {
		for b.Loop() {
			if _, err := Areas(many.pid); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("5000mappings/maps", func(b *testing.B) {
		for b.Loop() {
			if _, err := mappings(many.pid); err != nil {
				b.Fatal(err)
			}
		}
	})
	if Works(Userfaultfd) != nil {
		return
	}
	areas, err := Areas(many.pid)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("5000mappings/written", func(b *testing.B) {
		tracker, err := Attach(b.Context(), many.pid, Userfaultfd)
		if err != nil {
			b.Fatal(err)
		}
		defer tracker.Close()
		for b.Loop() {
			if _, err := tracker.Written(areas); err != nil {
				b.Fatal(err)
			}
		}
	})
}
