package machine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	// Lies on the same disk as the images, so it is true for as long as they are there.
	loadedFolder = "/var/lib/containerd/.loaded"
)

// imageLoader loads the archives in the images folder into containerd, each once for
// the life of the machine's disk.
type imageLoader struct {
	children *children
	enabled  bool
	log      *slog.Logger

	mu    sync.Mutex    // one load at a time
	first chan struct{} // closed when the archives there at boot are loaded
}

func newImageLoader(c *children, enabled bool, log *slog.Logger) *imageLoader {
	return &imageLoader{children: c, enabled: enabled, log: log, first: make(chan struct{})}
}

// wait returns when the archives that were there at boot are loaded.
func (l *imageLoader) wait(ctx context.Context) error {
	if !l.enabled {
		return fmt.Errorf("the machine has no containerd")
	}
	select {
	case <-l.first:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("images are not loaded: %w", ctx.Err())
	}
}

// loadWhenPossible loads what is there at boot, as soon as containerd takes it.
func (l *imageLoader) loadWhenPossible() {
	for {
		err := (Condition{Socket: containerdSocket}).check(context.Background())
		if err == nil {
			if err = l.load(); err == nil {
				close(l.first)
				return
			}
			l.log.Error("images are not loaded", "err", err)
			time.Sleep(restartDelay)
			continue
		}
		time.Sleep(conditionInterval)
	}
}

// load imports every archive that is not imported yet.
func (l *imageLoader) load() error {
	if !l.enabled {
		return fmt.Errorf("load images: the machine has no containerd")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	archives, err := filepath.Glob(images + "/*.tar")
	if err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	if err := os.MkdirAll(loadedFolder, 0o755); err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	for _, archive := range archives {
		mark := filepath.Join(loadedFolder, filepath.Base(archive))
		if _, err := os.Stat(mark); err == nil {
			continue
		}
		if err := l.importArchive(archive); err != nil {
			return err
		}
		if err := os.WriteFile(mark, nil, 0o644); err != nil {
			return fmt.Errorf("load images: %w", err)
		}
	}
	return nil
}

func (l *imageLoader) importArchive(archive string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	output, err := os.CreateTemp("", "import-")
	if err != nil {
		return err
	}
	defer os.Remove(output.Name())
	defer output.Close()
	argv := []string{"ctr", "--namespace", "k8s.io", "images", "import", archive}
	_, ended, err := l.children.start(argv, nil, "/", [3]uintptr{null.Fd(), output.Fd(), output.Fd()})
	if err != nil {
		return fmt.Errorf("load image %s: %w", archive, err)
	}
	if code := exitCode(<-ended); code != 0 {
		text, _ := os.ReadFile(output.Name())
		return fmt.Errorf("load image %s: ctr ended with %d: %s", archive, code, text)
	}
	return nil
}
