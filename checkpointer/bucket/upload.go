package bucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// Replicate copies a generation of the own store into the bucket, and returns
// how many bytes of files were sent. An interrupted copy goes on with the files,
// and of large ones with the parts, that are not there. The error wraps
// store.ErrBudget when the bucket has no room, store.ErrNotFound when the own
// store has no such generation, and fs.ErrExist when the bucket has another one
// of the same number.
func (b *Bucket) Replicate(ctx context.Context, key store.Key, number int64) (int64, error) {
	sent, err := b.replicate(ctx, key, number)
	if err != nil {
		return sent, fmt.Errorf("copy generation %d of %s to %s: %w", number, key, b.Name(), err)
	}
	return sent, nil
}

func (b *Bucket) replicate(ctx context.Context, key store.Key, number int64) (sent int64, err error) {
	if err := key.Validate(); err != nil {
		return 0, err
	}
	p := b.pod(key)
	release, err := p.write(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	defer b.store.Hold(key, number)()
	files, err := b.store.Files(key, number)
	if err != nil {
		return 0, err
	}
	objects, err := b.list(ctx, key, "")
	if err != nil {
		return 0, err
	}
	segments := files[:len(files)-1]
	held, err := b.holdsManifest(ctx, key, number, files, objects)
	if err != nil {
		return 0, err
	}
	if sent, err = b.putMissing(ctx, key, segments, objects); err != nil {
		return sent, err
	}
	if held {
		return sent, nil
	}
	if sent > 0 {
		// Another node may have removed some since: the manifest comes only when all are there.
		if objects, err = b.list(ctx, key, "segments/"); err != nil {
			return sent, err
		}
	}
	for _, f := range segments {
		if size := objects[f.GetName()].size; size != f.GetSize() {
			return sent, fmt.Errorf("%s has %d bytes in the bucket in place of %d after it was sent: does somebody else write there?",
				f.GetName(), size, f.GetSize())
		}
	}
	n, err := b.putManifest(ctx, key, number, files)
	if err != nil {
		return sent, fmt.Errorf("send the manifest: %w", err)
	}
	return sent + n, nil
}

// putMissing uploads those files that are not in the bucket with their full size.
func (b *Bucket) putMissing(ctx context.Context, key store.Key, files []*peerv1.File, objects map[string]object) (int64, error) {
	var sent atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, f := range files {
		if objects[f.GetName()].size == f.GetSize() {
			continue
		}
		group.Go(func() error {
			n, err := b.put(ctx, key, f)
			sent.Add(n)
			if err != nil {
				return fmt.Errorf("send %s: %w", f.GetName(), err)
			}
			return nil
		})
	}
	err := group.Wait()
	return sent.Load(), err
}

// holdsManifest is whether the manifest is in the bucket already. Under the same
// number there may be another generation, which must not be replaced unless it
// is damaged.
func (b *Bucket) holdsManifest(ctx context.Context, key store.Key, number int64, files []*peerv1.File, objects map[string]object) (bool, error) {
	manifest := files[len(files)-1]
	of, ok := objects[manifest.GetName()]
	if !ok {
		return false, nil
	}
	// What counts is the manifest itself, not the hint: it may be damaged.
	known, err := b.known(ctx, key, number, of, true)
	switch {
	case errors.Is(err, errMissing), isDamaged(err):
		return false, nil
	case err != nil:
		return false, err
	case known.id != manifestID(files):
		return false, fmt.Errorf("another generation %d is held already: %w", number, fs.ErrExist)
	}
	return true, nil
}

// put uploads a file of the store, and returns how many bytes of it were sent.
func (b *Bucket) put(ctx context.Context, key store.Key, f *peerv1.File) (int64, error) {
	file, err := b.store.OpenFile(key, f.GetName())
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if f.GetSize() > b.partBytes {
		return b.putParts(ctx, b.object(key, f.GetName()), file, f.GetSize())
	}
	if _, err := b.putWhole(ctx, b.object(key, f.GetName()), file, f.GetSize(), nil); err != nil {
		return 0, err
	}
	return f.GetSize(), nil
}

// putManifest uploads a generation's manifest, which comes last, and returns its size.
func (b *Bucket) putManifest(ctx context.Context, key store.Key, number int64, files []*peerv1.File) (int64, error) {
	manifest := files[len(files)-1]
	file, err := b.store.OpenFile(key, manifest.GetName())
	if err != nil {
		return 0, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, store.MaxManifest))
	if err != nil {
		return 0, err
	}
	known, err := b.inspect(ctx, key, number, content)
	if err != nil {
		return 0, err
	}
	etag, err := b.putWhole(ctx, b.object(key, manifest.GetName()), file, manifest.GetSize(), metadata(known))
	if err != nil {
		return 0, err
	}
	known.of = object{size: manifest.GetSize(), etag: etag}
	b.pod(key).remember(number, known)
	return manifest.GetSize(), nil
}

// putWhole uploads a file with one request, and returns the object's ETag.
func (b *Bucket) putWhole(ctx context.Context, name string, file *os.File, size int64, metadata map[string]string) (string, error) {
	body, sum, err := b.body(ctx, file, 0, size)
	if err != nil {
		return "", err
	}
	defer body.close()
	var info minio.UploadInfo
	err = b.watched(ctx, b.writeStall, func(ctx context.Context, dog *watchdog) (err error) {
		info, err = b.client.PutObject(ctx, b.config.Bucket, name, body.watched(ctx, dog), size, "", sum,
			minio.PutObjectOptions{UserMetadata: metadata, ContentType: contentType, DisableContentSha256: true})
		return err
	})
	return info.ETag, err
}

const contentType = "application/octet-stream"

// body is a part of a file that is being sent. It can be sent again, from its start.
type body struct {
	*io.SectionReader
	limiter *transfer.Limiter
	close   func()
	ctx     context.Context
	dog     *watchdog
}

// body returns a part of a file as soon as few enough others are on their way,
// and the SHA-256 that the server compares what arrives with.
func (b *Bucket) body(ctx context.Context, file *os.File, offset, length int64) (*body, string, error) {
	done, err := enter(ctx, b.sending)
	if err != nil {
		return nil, "", err
	}
	sum, err := hashOf(ctx, sha256.New(), file, offset, length)
	if err != nil {
		done()
		return nil, "", err
	}
	return &body{SectionReader: io.NewSectionReader(file, offset, length), limiter: b.config.Limiter, close: done}, sum, nil
}

func (r *body) watched(ctx context.Context, dog *watchdog) *body {
	r.ctx, r.dog = ctx, dog
	return r
}

func (r *body) Read(buf []byte) (int, error) {
	r.dog.pause()
	n, err := r.SectionReader.Read(buf)
	if n > 0 && err == nil {
		err = r.limiter.Wait(r.ctx, n)
	}
	r.dog.progress()
	return n, err
}

// hashOf returns the hash of a part of a file, in hexadecimal.
func hashOf(ctx context.Context, h hash.Hash, file *os.File, offset, length int64) (string, error) {
	section := io.NewSectionReader(file, offset, length)
	for left := length; left > 0; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := io.CopyN(h, section, min(left, 4<<20))
		if errors.Is(err, io.EOF) {
			return "", io.ErrUnexpectedEOF // the store's own file is cut short
		}
		if err != nil {
			return "", err
		}
		left -= n
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
