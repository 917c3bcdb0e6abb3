package bucket

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

const (
	// partBytes is the size of the parts that a larger file is uploaded in: what
	// an interrupted upload repeats at most, for each of the parts on their way.
	partBytes = 16 << 20
	// maxParts is S3's limit.
	maxParts = 10_000
)

// Replicate copies a generation of the own store into the bucket, and returns how
// many bytes of files were sent. An interrupted copy goes on with the files, and of
// large ones with the parts, that are not there. The error wraps store.ErrBudget when
// the bucket has no room, store.ErrNotFound when the own store has no such
// generation, and fs.ErrExist when the bucket has another one of the same number.
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
	segments, manifest := files[:len(files)-1], files[len(files)-1]
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
	gen, err := b.generation(ctx, key, number)
	if err != nil {
		return sent, err
	}
	n, err := b.put(ctx, key, manifest, metadata(gen, manifestID(files)))
	sent += n
	if err != nil {
		return sent, fmt.Errorf("send %s: %w", manifest.GetName(), err)
	}
	return sent, nil
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
			n, err := b.put(ctx, key, f, nil)
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

// generation describes a generation of the own store.
func (b *Bucket) generation(ctx context.Context, key store.Key, number int64) (store.Generation, error) {
	file, err := b.store.OpenFile(key, store.ManifestName(number))
	if err != nil {
		return store.Generation{}, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, store.MaxManifest+1))
	if err != nil {
		return store.Generation{}, err
	}
	gen, _, err := b.store.Inspect(ctx, key, number, content)
	return gen, err
}

// holdsManifest is whether the manifest is in the bucket already. Under the same
// number there may be another generation, which must not be replaced unless it is damaged.
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
func (b *Bucket) put(ctx context.Context, key store.Key, f *peerv1.File, metadata map[string]string) (int64, error) {
	file, err := b.store.OpenFile(key, f.GetName())
	if err != nil {
		return 0, err
	}
	defer file.Close()
	name, size := b.object(key, f.GetName()), f.GetSize()
	if size > b.partBytes && metadata == nil {
		return b.putParts(ctx, name, file, size)
	}
	body, sum, err := b.body(ctx, file, 0, size)
	if err != nil {
		return 0, err
	}
	defer body.close()
	err = b.watched(ctx, b.writeStall, func(ctx context.Context, dog *watchdog) error {
		_, err := b.client.PutObject(ctx, b.config.Bucket, name, body.watched(ctx, dog), size, "", sum,
			minio.PutObjectOptions{UserMetadata: metadata, ContentType: contentType, DisableContentSha256: true})
		return err
	})
	if err != nil {
		return 0, err
	}
	return size, nil
}

const contentType = "application/octet-stream"

// putParts uploads a large file in parts, several at once. What it was
// interrupted in goes on with the next call.
func (b *Bucket) putParts(ctx context.Context, name string, file *os.File, size int64) (int64, error) {
	partBytes := max(b.partBytes, (size+maxParts-1)/maxParts)
	upload, there, err := b.begun(ctx, name)
	if err != nil {
		return 0, err
	}
	if upload == "" {
		err := b.watched(ctx, b.writeStall, func(ctx context.Context, _ *watchdog) (err error) {
			upload, err = b.client.NewMultipartUpload(ctx, b.config.Bucket, name, minio.PutObjectOptions{ContentType: contentType})
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	parts := make([]minio.CompletePart, (size+partBytes-1)/partBytes)
	var sent atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range parts {
		offset := int64(i) * partBytes
		group.Go(func() error {
			length := min(partBytes, size-offset)
			etag, n, err := b.putPart(groupCtx, name, upload, i+1, there[i+1], file, offset, length)
			sent.Add(n)
			parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: etag}
			return err
		})
	}
	err = group.Wait()
	if err == nil {
		err = b.watched(ctx, b.writeStall, func(ctx context.Context, _ *watchdog) error {
			_, err := b.client.CompleteMultipartUpload(ctx, b.config.Bucket, name, upload, parts, minio.PutObjectOptions{})
			return err
		})
	}
	switch {
	case err == nil:
		return sent.Load(), nil
	case uploadGone(err) && b.has(ctx, name, size):
		return sent.Load(), nil // another node, or an earlier attempt whose answer was lost, completed it
	case rejected(err):
		// With these parts it would never be accepted: the next attempt begins anew.
		err = errors.Join(err, b.abort(context.WithoutCancel(ctx), name, upload))
	}
	return sent.Load(), err
}

// putPart uploads a part unless it is there, and returns its ETag and how many bytes were sent.
func (b *Bucket) putPart(ctx context.Context, name, upload string, number int, there minio.ObjectPart, file *os.File, offset, length int64) (string, int64, error) {
	if there.Size == length {
		sum, err := hashOf(ctx, md5.New(), file, offset, length)
		if err != nil {
			return "", 0, err
		}
		// Where the server encrypts, an ETag is no MD5: then the part is sent again.
		if there.ETag == sum {
			return there.ETag, 0, nil
		}
	}
	body, sum, err := b.body(ctx, file, offset, length)
	if err != nil {
		return "", 0, err
	}
	defer body.close()
	var part minio.ObjectPart
	err = b.watched(ctx, b.writeStall, func(ctx context.Context, dog *watchdog) (err error) {
		part, err = b.client.PutObjectPart(ctx, b.config.Bucket, name, upload, number, body.watched(ctx, dog), length,
			minio.PutObjectPartOptions{Sha256Hex: sum, DisableContentSha256: true})
		return err
	})
	if err != nil {
		return "", 0, err
	}
	return part.ETag, length, nil
}

// begun returns the newest unfinished upload of an object, if there is one, and the parts that it has.
func (b *Bucket) begun(ctx context.Context, name string) (upload string, parts map[int]minio.ObjectPart, err error) {
	uploads, err := b.uploads(ctx, name)
	if err != nil {
		return "", nil, err
	}
	var newest time.Time
	for _, u := range uploads {
		if u.Key == name && !u.Initiated.Before(newest) {
			upload, newest = u.UploadID, u.Initiated
		}
	}
	if upload == "" {
		return "", nil, nil
	}
	parts = map[int]minio.ObjectPart{}
	err = b.watched(ctx, b.readStall, func(ctx context.Context, dog *watchdog) error {
		for marker := 0; ; {
			page, err := b.client.ListObjectParts(ctx, b.config.Bucket, name, upload, marker, 1000)
			if err != nil {
				return err
			}
			dog.progress()
			for _, part := range page.ObjectParts {
				part.ETag = strings.Trim(part.ETag, `"`)
				parts[part.PartNumber] = part
			}
			if marker = page.NextPartNumberMarker; !page.IsTruncated {
				return nil
			}
		}
	})
	if uploadGone(err) {
		return "", nil, nil // it was completed or aborted meanwhile
	}
	return upload, parts, err
}

// uploads lists the unfinished uploads of objects whose names begin with prefix.
func (b *Bucket) uploads(ctx context.Context, prefix string) (uploads []minio.ObjectMultipartInfo, err error) {
	err = b.watched(ctx, b.readStall, func(ctx context.Context, dog *watchdog) error {
		for upload := range b.client.ListIncompleteUploads(ctx, b.config.Bucket, prefix, true) {
			if upload.Err != nil {
				return upload.Err
			}
			dog.progress()
			uploads = append(uploads, upload)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list interrupted uploads: %w", err)
	}
	return uploads, nil
}

func (b *Bucket) abort(ctx context.Context, name, upload string) error {
	err := b.watched(ctx, b.readStall, func(ctx context.Context, _ *watchdog) error {
		return b.client.AbortMultipartUpload(ctx, b.config.Bucket, name, upload)
	})
	if err != nil && !uploadGone(err) {
		return fmt.Errorf("abort the upload of %s: %w", name, err)
	}
	return nil
}

// has is whether an object is there with its full size.
func (b *Bucket) has(ctx context.Context, name string, size int64) bool {
	var info minio.ObjectInfo
	err := b.watched(ctx, b.readStall, func(ctx context.Context, _ *watchdog) (err error) {
		info, err = b.client.StatObject(ctx, b.config.Bucket, name, minio.StatObjectOptions{})
		return err
	})
	return err == nil && info.Size == size
}

// rejected is whether the server did not accept the parts of an upload.
func rejected(err error) bool {
	var response minio.ErrorResponse
	return errors.As(err, &response) && response.StatusCode == http.StatusBadRequest
}

// body is a part of a file that is being sent. It can be sent again, from its start.
type body struct {
	*io.SectionReader
	limiter *transfer.Limiter
	close   func()
	ctx     context.Context
	dog     *watchdog
}

// body returns a part of a file as soon as few enough others are on their way, and the
// SHA-256 that the server compares what arrives with.
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
