package bucket

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// knownManifest is what was read of a manifest, so that it need not be read again.
type knownManifest struct {
	of         object // the manifest that it was read of: another one may take its place
	generation store.Generation
	id         string // of the manifest's file
	// files are those that it needs, itself last; nil when only the hint was read.
	files []*peerv1.File
}

// hint is what a manifest's metadata says of it.
type hint struct {
	ID         string    `json:"id"`
	Number     int64     `json:"number"`
	Epoch      int64     `json:"epoch"`
	TakenAt    time.Time `json:"takenAt"`
	PodName    string    `json:"podName,omitempty"`
	Containers []string  `json:"containers,omitempty"`
	Bytes      int64     `json:"bytes"`
}

const (
	// hintKey is the name of the metadata, which the protocol puts "X-Amz-Meta-" before.
	hintKey = "Lifeboat-Generation"
	// maxHint is less than the 2 KB that S3 has room for, in bytes.
	maxHint = 1800
)

// metadata returns the metadata of a generation's manifest. There is none where
// it would not fit: then the manifest itself is read for a list.
func metadata(known knownManifest) map[string]string {
	gen := known.generation
	text, err := json.Marshal(hint{ID: known.id, Number: gen.Number, Epoch: gen.Epoch, TakenAt: gen.TakenAt.UTC(),
		PodName: gen.PodName, Containers: gen.Containers, Bytes: gen.Bytes})
	if err != nil || len(text) > maxHint || !printable(text) {
		return nil
	}
	return map[string]string{hintKey: string(text)}
}

// printable is whether a text can be a header's value as it is.
func printable(text []byte) bool {
	return !slices.ContainsFunc(text, func(c byte) bool { return c < ' ' || c > '~' })
}

// parseHint reads the metadata of the manifest with the number.
func parseHint(metadata map[string]string, number int64) (knownManifest, bool) {
	var h hint
	if err := json.Unmarshal([]byte(metadata[hintKey]), &h); err != nil || h.Number != number || h.ID == "" {
		return knownManifest{}, false
	}
	return knownManifest{id: h.ID, generation: store.Generation{Number: h.Number, Epoch: h.Epoch, TakenAt: h.TakenAt,
		PodName: h.PodName, Containers: h.Containers, Bytes: h.Bytes}}, true
}

// Held lists the generations of a pod that the bucket has, newest first, as the
// metadata of their manifests describes them.
func (b *Bucket) Held(ctx context.Context, key store.Key) ([]store.Generation, error) {
	list, err := b.held(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("ask %s what it holds of %s: %w", b.Name(), key, err)
	}
	return list, nil
}

func (b *Bucket) held(ctx context.Context, key store.Key) ([]store.Generation, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	objects, err := b.list(ctx, key, "manifests/")
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var list []store.Generation
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * parallel)
	for name, of := range objects {
		number, ok := store.ParseManifestName(name)
		if !ok {
			continue
		}
		group.Go(func() error {
			known, err := b.known(ctx, key, number, of, false)
			switch {
			case errors.Is(err, errMissing): // it was removed meanwhile
				return nil
			case errors.As(err, new(*store.Damaged)):
				b.report(key, number, err)
				return nil
			case err != nil:
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			list = append(list, known.generation)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b store.Generation) int { return cmp.Compare(b.Number, a.Number) })
	return list, nil
}

// report tells the log once of a manifest that cannot be read.
func (b *Bucket) report(key store.Key, number int64, err error) {
	p := b.pod(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reported[number] {
		b.logger.Warn("a damaged generation of the bucket is left out of the list", "pod", key.String(), "generation", number, "error", err)
	}
	p.reported[number] = true
}

// known returns what there is to know of a manifest, with its files if they are
// asked for. The error is a *store.Damaged when it cannot be opened.
func (b *Bucket) known(ctx context.Context, key store.Key, number int64, of object, files bool) (knownManifest, error) {
	p := b.pod(key)
	p.mu.Lock()
	known, ok := p.manifests[number]
	p.mu.Unlock()
	if ok && known.of.is(of) && (known.files != nil || !files) {
		return known, nil
	}
	name := b.object(key, store.ManifestName(number))
	ok = false
	if !files {
		err := b.watched(ctx, b.readStall, func(ctx context.Context, _ *watchdog) error {
			info, err := b.client.StatObject(ctx, b.config.Bucket, name, minio.StatObjectOptions{})
			known, ok = parseHint(info.UserMetadata, number)
			return err
		})
		if err != nil {
			return knownManifest{}, err
		}
	}
	if !ok {
		content, err := b.get(ctx, name, store.MaxManifest)
		if err != nil {
			return knownManifest{}, err
		}
		known, err = b.inspect(ctx, key, number, content)
		if err != nil {
			return knownManifest{}, err
		}
	}
	known.of = of
	p.remember(number, known)
	return known, nil
}

func (p *pod) remember(number int64, known knownManifest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.manifests[number] = known
}

func (b *Bucket) inspect(ctx context.Context, key store.Key, number int64, content []byte) (knownManifest, error) {
	gen, files, err := b.store.Inspect(ctx, key, number, content)
	if err != nil {
		return knownManifest{}, err
	}
	return knownManifest{generation: gen, id: manifestID(files), files: files}, nil
}

// manifestID is the ID of the manifest's file, which comes last.
func manifestID(files []*peerv1.File) string {
	return fmt.Sprintf("%x", files[len(files)-1].GetId())
}
