package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"sync"
)

// Keys is a store.KeySource that keeps its keys in memory, and makes one for
// each namespace that is asked for.
type Keys struct {
	mu   sync.Mutex
	keys map[string][][32]byte
}

// NewKeys returns a source without keys.
func NewKeys() *Keys { return &Keys{keys: map[string][][32]byte{}} }

// Key returns the namespace's newest key.
func (k *Keys) Key(_ context.Context, namespace string) (string, [32]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys[namespace]) == 0 {
		k.add(namespace)
	}
	n := len(k.keys[namespace])
	return keyID(n - 1), k.keys[namespace][n-1], nil
}

// KeyByID returns a key that Key returned before.
func (k *Keys) KeyByID(_ context.Context, namespace, id string) ([32]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, key := range k.keys[namespace] {
		if keyID(i) == id {
			return key, nil
		}
	}
	return [32]byte{}, fmt.Errorf("key %q of %s: %w", id, namespace, fs.ErrNotExist)
}

// Rotate gives the namespace a new key, and keeps the old ones.
func (k *Keys) Rotate(namespace string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.add(namespace)
}

// Forget replaces all keys of a namespace by other ones with the same IDs.
func (k *Keys) Forget(namespace string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.keys[namespace])
	k.keys[namespace] = nil
	for range n {
		k.add(namespace)
	}
}

func (k *Keys) add(namespace string) {
	var key [32]byte
	rand.Read(key[:])
	k.keys[namespace] = append(k.keys[namespace], key)
}

func keyID(i int) string { return fmt.Sprintf("key-%d", i+1) }
