// Command load keeps a machine busy until it is ended: "load spin" its processors,
// "load fsync" its disk, and "load memory" its memory. It runs on the host, on a
// node, and as a container.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(`say what to keep busy: "spin", "fsync" or "memory"`)
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	threads := flags.Int("threads", runtime.NumCPU(), "threads that work")
	dir := flags.String("dir", os.TempDir(), "folder for the files that are written")
	size := flags.Int64("bytes", 64<<20, "bytes of each file, or of memory")
	files := flags.Int64("files", 0, "memory: bytes of files that are written over and over beside it")
	reserve := flags.Int64("reserve", 2<<30, "memory: bytes that stay available on the machine")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "spin":
		return each(ctx, *threads, spin)
	case "fsync":
		return each(ctx, *threads, func(ctx context.Context) error { return writeAndSync(ctx, *dir, *size, true) })
	case "memory":
		if *files > 0 {
			go func() {
				if err := writeAndSync(ctx, *dir, *files, false); err != nil {
					fmt.Fprintln(os.Stderr, "load:", err)
				}
			}()
		}
		return touch(ctx, *size, *reserve)
	}
	return fmt.Errorf(`%q cannot be kept busy: use "spin", "fsync" or "memory"`, args[0])
}

// each runs as many of one worker as there are threads, until ctx ends or one fails.
func each(ctx context.Context, threads int, work func(context.Context) error) error {
	// One more for whatever else the program does.
	runtime.GOMAXPROCS(threads + 1)
	group, ctx := errgroup.WithContext(ctx)
	for range threads {
		group.Go(func() error { return work(ctx) })
	}
	return group.Wait()
}

func spin(ctx context.Context) error {
	for n := uint64(1); ; n++ {
		if n%(1<<24) == 0 && ctx.Err() != nil {
			return nil
		}
	}
}

// block is how much is written at a time.
const block = 1 << 20

// writeAndSync writes a file over and over, and waits for the disk after every block
// if so asked.
func writeAndSync(ctx context.Context, dir string, size int64, sync bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "load-")
	if err != nil {
		return err
	}
	defer f.Close()
	// Without a name, nothing is left of it however this program ends.
	if err := os.Remove(filepath.Join(dir, filepath.Base(f.Name()))); err != nil {
		return err
	}
	content := make([]byte, block)
	for at := int64(0); ctx.Err() == nil; at = (at + block) % max(size, block) {
		content[0]++
		if _, err := f.WriteAt(content, at); err != nil {
			return err
		}
		if sync {
			err = f.Sync()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// touch takes memory and writes to each page of it over and over. It takes less if
// the machine would have less than reserve available.
func touch(ctx context.Context, size, reserve int64) error {
	var parts [][]byte
	page := os.Getpagesize()
	for taken := int64(0); taken < size && ctx.Err() == nil; taken += block {
		left, err := available()
		if err != nil {
			return err
		}
		if left < reserve {
			break
		}
		part, err := unix.Mmap(-1, 0, block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return fmt.Errorf("take memory: %w", err)
		}
		for at := 0; at < len(part); at += page {
			part[at]++
		}
		parts = append(parts, part)
	}
	fmt.Printf("memory taken: %d MB\n", len(parts)*block>>20)
	for ctx.Err() == nil {
		for _, part := range parts {
			for at := 0; at < len(part); at += page {
				part[at]++
			}
		}
		// It is the pages that count, not the processor.
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// available is how much memory the machine can give without swapping.
func available() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return parseAvailable(text)
}
