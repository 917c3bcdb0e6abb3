package bucket

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// grace is how much older than the newest manifest a segment, or an unfinished
// upload, must be before it is removed: it may belong to a generation that
// another node is uploading at this moment. Both times are the server's.
const grace = 10 * time.Minute

// Retain keeps the pod's newest whole generations, as many as keep says, and
// removes the others with what only they refer to. Damaged generations are
// removed too. One that this process reads stays until a later Retain, and so do
// segments that are not much older than the newest manifest.
func (b *Bucket) Retain(ctx context.Context, key store.Key, keep int) error {
	if err := b.retain(ctx, key, keep); err != nil {
		return fmt.Errorf("retain the newest generations of %s in %s: %w", key, b.Name(), err)
	}
	return nil
}

func (b *Bucket) retain(ctx context.Context, key store.Key, keep int) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if keep < 1 {
		return fmt.Errorf("keep %d generations: 1 is the least; Remove removes all", keep)
	}
	p := b.pod(key)
	release, err := p.write(ctx)
	if err != nil {
		return err
	}
	defer release()
	objects, err := b.list(ctx, key, "")
	if err != nil {
		return err
	}
	var drop []string
	whole := 0
	for _, number := range numbers(objects) {
		name := store.ManifestName(number)
		known, err := b.known(ctx, key, number, objects[name], true)
		switch {
		case err == nil && isWhole(known, objects):
			if whole++; whole > keep && !p.forget(number) {
				drop = append(drop, name)
			}
		case err == nil, isDamaged(err):
			if !p.forget(number) {
				drop = append(drop, name)
			}
		case errors.Is(err, errMissing), errors.As(err, new(*store.Damaged)): // removed meanwhile, or its key may come back
		default:
			return err
		}
	}
	if err := b.remove(ctx, key, drop); err != nil {
		return err
	}
	return b.collect(ctx, key)
}

// numbers lists the numbers of the generations whose manifests are there, highest first.
func numbers(objects map[string]object) []int64 {
	var list []int64
	for name := range objects {
		if number, ok := store.ParseManifestName(name); ok {
			list = append(list, number)
		}
	}
	slices.Sort(list)
	slices.Reverse(list)
	return list
}

// isWhole is whether all files of a generation are there with their full size.
func isWhole(known knownManifest, objects map[string]object) bool {
	for _, f := range known.files {
		if objects[f.GetName()].size != f.GetSize() {
			return false
		}
	}
	return true
}

// forget drops what is known of a generation whose manifest is about to be
// removed, unless somebody reads it.
func (p *pod) forget(number int64) (inUse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readers[number] > 0 {
		return true
	}
	delete(p.manifests, number)
	delete(p.reported, number)
	return false
}

// collect is the second pass: it removes the segments that no manifest refers
// to. The manifests are listed anew, as one may have come meanwhile. It does
// nothing while a manifest cannot be read, because it could refer to anything.
func (b *Bucket) collect(ctx context.Context, key store.Key) error {
	objects, err := b.list(ctx, key, "")
	if err != nil {
		return err
	}
	referred := map[string]bool{}
	var newest time.Time
	for _, number := range numbers(objects) {
		name := store.ManifestName(number)
		known, err := b.known(ctx, key, number, objects[name], true)
		if errors.Is(err, errMissing) || errors.As(err, new(*store.Damaged)) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range known.files {
			referred[f.GetName()] = true
		}
		if modified := objects[name].modified; modified.After(newest) {
			newest = modified
		}
	}
	old := newest.Add(-b.grace)
	var drop []string
	for name, of := range objects {
		if strings.HasPrefix(name, "segments/") && !referred[name] && of.modified.Before(old) {
			drop = append(drop, name)
		}
	}
	if err := b.remove(ctx, key, drop); err != nil {
		return err
	}
	return b.abortUploads(ctx, key, old)
}

// abortUploads aborts the pod's unfinished uploads that began before a time.
func (b *Bucket) abortUploads(ctx context.Context, key store.Key, before time.Time) error {
	uploads, err := b.uploads(ctx, b.object(key, ""))
	if err != nil {
		return err
	}
	for _, upload := range uploads {
		if !upload.Initiated.Before(before) {
			continue
		}
		if err := b.abort(ctx, upload.Key, upload.UploadID); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes all that the bucket has of a pod. It returns store.ErrInUse
// when this process reads a generation of it. Nobody may be uploading or reading
// one elsewhere.
func (b *Bucket) Remove(ctx context.Context, key store.Key) error {
	if err := b.removeAll(ctx, key); err != nil {
		return fmt.Errorf("remove %s from %s: %w", key, b.Name(), err)
	}
	return nil
}

func (b *Bucket) removeAll(ctx context.Context, key store.Key) error {
	if err := key.Validate(); err != nil {
		return err
	}
	p := b.pod(key)
	release, err := p.write(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := p.forgetAll(); err != nil {
		return err
	}
	objects, err := b.list(ctx, key, "")
	if err != nil {
		return err
	}
	// Manifests go first: what is interrupted leaves no generation without its segments.
	var manifests, rest []string
	for name := range maps.Keys(objects) {
		if strings.HasPrefix(name, "manifests/") {
			manifests = append(manifests, name)
		} else {
			rest = append(rest, name)
		}
	}
	if err := b.remove(ctx, key, manifests); err != nil {
		return err
	}
	if err := b.remove(ctx, key, rest); err != nil {
		return err
	}
	return b.abortUploads(ctx, key, farFuture)
}

// farFuture is after every upload's begin, whatever the server's clock says.
var farFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func (p *pod) forgetAll() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.readers) > 0 {
		return store.ErrInUse
	}
	clear(p.manifests)
	clear(p.reported)
	return nil
}

// remove removes files of a pod.
func (b *Bucket) remove(ctx context.Context, key store.Key, files []string) error {
	if len(files) == 0 {
		return nil
	}
	return b.watched(ctx, b.writeStall, func(ctx context.Context, dog *watchdog) error {
		objects := func(yield func(minio.ObjectInfo) bool) {
			for _, file := range files {
				dog.progress()
				if !yield(minio.ObjectInfo{Key: b.object(key, file)}) {
					return
				}
			}
		}
		results, err := b.client.RemoveObjectsWithIter(ctx, b.config.Bucket, objects, minio.RemoveObjectsOptions{})
		if err != nil {
			return err
		}
		var errs []error
		for result := range results {
			if result.Err != nil {
				errs = append(errs, fmt.Errorf("remove %s: %w", result.ObjectName, result.Err))
			}
		}
		if len(errs) > 0 {
			return errors.Join(errs[:min(3, len(errs))]...) // they have one reason
		}
		return ctx.Err()
	})
}
