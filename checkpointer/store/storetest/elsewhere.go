package storetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Elsewhere is a store.Segments that reads the files below a store's folder.
type Elsewhere struct {
	Dir    string
	Key    store.Key
	Number int64

	// Accesses counts the calls of ReadAt.
	Accesses atomic.Int64
	// Closed is whether Close was called.
	Closed atomic.Bool
}

func (e *Elsewhere) path(name string) string {
	return filepath.Join(e.Dir, e.Key.Namespace, e.Key.PodUID, filepath.FromSlash(name))
}

// Manifest returns the content of the manifest's file.
func (e *Elsewhere) Manifest(context.Context) ([]byte, error) {
	return os.ReadFile(e.path(fmt.Sprintf("manifests/%d.man", e.Number)))
}

// ReadAt fills buf from a segment's file.
func (e *Elsewhere) ReadAt(_ context.Context, name string, buf []byte, offset int64) error {
	e.Accesses.Add(1)
	if !strings.HasPrefix(name, "segments/") {
		return fmt.Errorf("%q is no segment", name)
	}
	file, err := os.Open(e.path(name))
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.ReadAt(buf, offset)
	return err
}

// Close notes that it was called.
func (e *Elsewhere) Close() error {
	e.Closed.Store(true)
	return nil
}
