package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

const benchBytes = 256 << 20

const (
	memoryDisk = "/dev/shm" // as where checkpoints are staged
	realDisk   = "/var/tmp" // as where a store lies
)

// stage writes 256 MB of memory that does not compress, as a checkpoint is staged.
func stage(b *testing.B, seed uint64) string {
	b.Helper()
	dir := folderIn(b, memoryDisk)
	pagemap, pages := storetest.Images(1, storetest.Memory{Address: 0x7f0000000000, Data: storetest.Pages(seed, benchBytes/storetest.PageSize)})
	for name, content := range map[string]string{"pagemap-1.img": pagemap, "pages-1.img": pages} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func benchStore(b *testing.B, dir string, workers int) *store.Store {
	b.Helper()
	s, err := store.Open(dir, storetest.NewKeys(), store.Options{Workers: workers})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func BenchmarkSeal(b *testing.B) {
	ctx := context.Background()
	key := store.Key{Namespace: "shop", PodUID: "pod"}
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("unchanged/workers=%d", workers), func(b *testing.B) {
			staged, s := stage(b, 1), benchStore(b, folderIn(b, realDisk), workers)
			if _, err := s.Seal(ctx, key, store.Generation{}, staged, nil); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(benchBytes)
			b.ReportAllocs()
			for b.Loop() {
				gen, err := s.Seal(ctx, key, store.Generation{}, staged, nil)
				if err != nil {
					b.Fatal(err)
				}
				if gen.NewBytes > benchBytes/100 {
					b.Fatalf("%d bytes were stored again", gen.NewBytes)
				}
				if err := s.Retain(key, store.Retention{Count: 2}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("changed/workers=%d", workers), func(b *testing.B) {
			staged := []string{stage(b, 1), stage(b, 2)}
			s := benchStore(b, folderIn(b, realDisk), workers)
			b.SetBytes(benchBytes)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Seal(ctx, key, store.Generation{}, staged[i%2], nil); err != nil {
					b.Fatal(err)
				}
				if err := s.Retain(key, store.Retention{Count: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMaterialize(b *testing.B) {
	ctx := context.Background()
	key := store.Key{Namespace: "shop", PodUID: "pod"}
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			s := benchStore(b, folderIn(b, realDisk), workers)
			if _, err := s.Seal(ctx, key, store.Generation{}, stage(b, 1), nil); err != nil {
				b.Fatal(err)
			}
			dir := filepath.Join(folderIn(b, memoryDisk), "restored")
			b.SetBytes(benchBytes)
			for b.Loop() {
				if err := s.Materialize(ctx, key, 1, dir); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// folderIn makes a folder on a disk of the wanted kind.
func folderIn(b *testing.B, disk string) string {
	b.Helper()
	dir, err := os.MkdirTemp(disk, "lifeboat-bench-") //nolint:usetesting // b.TempDir is on one disk only, maybe a tmpfs
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
