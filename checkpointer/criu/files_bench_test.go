package criu

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchFile is the size of a file in a benchmark's volume, in bytes.
const benchFile = 256 << 10

// BenchmarkFilesInThePause measures how long a pause takes for the files of a volume,
// of which one in a hundred is written before each checkpoint: with all of them copied
// in the pause; with what did not change copied ahead, written at the last moment; and
// the same, written so early that their copies can be trusted.
//
// The volume is in TMPDIR, and the checkpoint on a tmpfs, as on a node. The volume's
// files are in the page cache; those that are not take longer to copy in the pause.
func BenchmarkFilesInThePause(b *testing.B) {
	for _, megabytes := range []int{64, 512, 2048} {
		volume := b.TempDir()
		files := megabytes << 20 / benchFile
		for i := range files {
			writeBenchFile(b, volume, i)
		}
		unix.Sync() // what is written to the disk later is none of the pause's business
		time.Sleep(settledAge)
		for _, how := range []string{"all in the pause", "ahead, just written", "ahead, written before"} {
			b.Run(fmt.Sprintf("%d MB/%s", megabytes, how), func(b *testing.B) {
				var pause, ahead time.Duration
				for range b.N {
					for range max(1, files/100) {
						writeBenchFile(b, volume, rand.IntN(files))
					}
					if how == "ahead, written before" {
						time.Sleep(settledAge + 100*time.Millisecond)
					}
					p, a := benchCapture(b, volume, how != "all in the pause")
					pause, ahead = pause+p, ahead+a
				}
				b.ReportMetric(0, "ns/op") // it has what is not measured
				b.ReportMetric(pause.Seconds()*1000/float64(b.N), "ms-paused")
				b.ReportMetric(ahead.Seconds()*1000/float64(b.N), "ms-beside")
			})
		}
	}
}

func writeBenchFile(b *testing.B, volume string, number int) {
	data := make([]byte, benchFile)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	folder := filepath.Join(volume, fmt.Sprint(number/100))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(number)), data, 0o600); err != nil {
		b.Fatal(err)
	}
}

// benchCapture captures a volume, and returns how long the pod would be paused for it,
// and how long it takes while the pod runs.
func benchCapture(b *testing.B, volume string, ahead bool) (pause, beside time.Duration) {
	out := fmt.Sprintf("/dev/shm/lifeboat-bench-%d", time.Now().UnixNano())
	if err := os.Mkdir(out, 0o700); err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(out)
	f, err := newFilesAhead(out, filesBase{}, func() error { return nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer f.close()
	folders := []tree{{file: filepath.Join(out, "tree.tar"), folder: volume, merged: volume}}
	began := time.Now()
	if ahead {
		if err := f.read(b.Context(), folders, self); err != nil {
			b.Fatal(err)
		}
	}
	paused := time.Now()
	c, err := captureFiles(b.Context(), folders, f, self)
	if err != nil {
		b.Fatal(err)
	}
	ran := time.Now()
	if err := c.finish(b.Context()); err != nil {
		b.Fatal(err)
	}
	return ran.Sub(paused), paused.Sub(began) + time.Since(ran)
}
