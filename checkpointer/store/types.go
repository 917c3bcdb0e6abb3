package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Key names one pod.
type Key struct {
	Namespace string
	PodUID    string
}

func (k Key) String() string { return k.Namespace + "/" + k.PodUID }

// Both halves of a Key become folder names, and arrive from other nodes too.
var (
	namespaceForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	podUIDForm    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9]{0,62}[A-Za-z0-9])?$`)
)

// Validate returns an error unless the key has the form that Kubernetes gives
// namespaces and UIDs, so that both can be used as folder names. The error
// wraps fs.ErrInvalid.
func (k Key) Validate() error {
	if !namespaceForm.MatchString(k.Namespace) {
		return fmt.Errorf("%q is not a namespace: %w", k.Namespace, fs.ErrInvalid)
	}
	if !podUIDForm.MatchString(k.PodUID) {
		return fmt.Errorf("%q is not a pod UID: %w", k.PodUID, fs.ErrInvalid)
	}
	return nil
}

// Generation describes one checkpoint of one pod.
type Generation struct {
	// Number grows by one with each checkpoint of the pod.
	Number int64
	// Epoch is the fence epoch that the pod ran in.
	Epoch int64
	// TakenAt is when the pod was paused.
	TakenAt time.Time
	PodName string
	// Containers are the names of the containers that it holds.
	Containers []string
	// Facts are those of the node that the pod ran on.
	Facts v1alpha1.NodeFacts
	// Base is the number of the generation whose memory the pages that are not
	// fresh are taken from; 0 when every page is fresh.
	Base int64 `json:",omitempty"`
	// Bytes is the size of the staged files and of the processes' pages. Seal sets it.
	Bytes int64
	// NewBytes is what the generation added to the store: its new segments and
	// its manifest, after deduplication and compression. Seal sets it.
	NewBytes int64
}

// KeySource has the encryption keys of namespaces.
type KeySource interface {
	// Key returns the key that new generations of the namespace are written
	// with. The ID is at most 63 bytes of printable ASCII.
	Key(ctx context.Context, namespace string) (id string, key [32]byte, err error)
	// KeyByID returns a key that earlier generations were written with. When
	// there is no such key, the error wraps fs.ErrNotExist.
	KeyByID(ctx context.Context, namespace, id string) ([32]byte, error)
}

// Errors that callers act on.
var (
	// ErrNotFound means that the store has no such generation.
	ErrNotFound = errors.New("no such generation")
	// ErrBudget means that Options.MaxBytes would be exceeded, even without
	// every generation that is not the newest of its pod.
	ErrBudget = errors.New("store budget exceeded")
	// ErrDiskFull means that the file system below the store has no space left.
	ErrDiskFull = errors.New("disk full")
	// ErrNoBase means that a generation cannot be built on Generation.Base: that
	// one is not in the store, is damaged, was written with another key, or lacks
	// a page that is not fresh. Every page must be given then.
	ErrNoBase = errors.New("no base for the memory")
	// ErrReadOnly means that the store was opened to be read only.
	ErrReadOnly = errors.New("the store is open to be read only")
	// ErrInUse means that the generation is being read or received.
	ErrInUse = errors.New("in use")
)

// Damaged means that a generation cannot be restored from this store: a file
// is missing, cut short, altered, or was written with another key.
type Damaged struct {
	// Generation is the number of the generation.
	Generation int64
	// File is the damaged file, relative to the pod's folder.
	File string
	// Detail says what is wrong with it.
	Detail string

	key bool // it may be whole, but the key that it was written with is not there
}

func (d *Damaged) Error() string {
	return fmt.Sprintf("generation %d is damaged: %s: %s; restore an older generation, or fetch this one from another holder",
		d.Generation, d.File, d.Detail)
}
