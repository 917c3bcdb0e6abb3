package agent

import (
	"context"
	"os"
	"sync"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// near is a holder of a generation whose segments are read here as far as the node's
// own store has them: those of the generations before it were copied in advance.
type near struct {
	transfer.Holder
	store *store.Store
}

// Segments implements transfer.Holder.
func (n near) Segments(ctx context.Context, key store.Key, number int64) (store.Segments, error) {
	remote, err := n.Holder.Segments(ctx, key, number)
	if err != nil {
		return nil, err
	}
	names, err := n.store.Segments(key)
	if err != nil {
		names = nil // the holder has all of them
	}
	have := map[string]bool{}
	for _, name := range names {
		have[name] = true
	}
	return &nearby{Segments: remote, store: n.store, key: key, have: have, files: map[string]*os.File{}}, nil
}

// nearby are the files of a generation, some of them here. What a file has is
// verified by who reads it, wherever it lies.
type nearby struct {
	store.Segments
	store *store.Store
	key   store.Key

	mu    sync.Mutex
	have  map[string]bool     // segments of the own store that were not opened yet
	files map[string]*os.File // and those that were
}

// ReadAt implements store.Segments.
func (n *nearby) ReadAt(ctx context.Context, name string, buf []byte, offset int64) error {
	if file := n.file(name); file != nil {
		if _, err := file.ReadAt(buf, offset); err == nil {
			return nil
		}
	}
	return n.Segments.ReadAt(ctx, name, buf, offset)
}

func (n *nearby) file(name string) *os.File {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.have[name] {
		delete(n.have, name)
		if file, err := n.store.OpenFile(n.key, name); err == nil {
			n.files[name] = file
		}
	}
	return n.files[name]
}

// Close implements store.Segments.
func (n *nearby) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, file := range n.files {
		file.Close()
		delete(n.files, name)
	}
	return n.Segments.Close()
}
