package bucket

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

const (
	// partBytes is the size of the parts that a larger file is uploaded in: what
	// an interrupted upload repeats at most, for each of the parts on their way.
	partBytes = 16 << 20
	// maxParts is S3's limit.
	maxParts = 10_000
)

// putParts uploads a large file in parts, several at once, and returns how many
// bytes were sent. The next call goes on where it was interrupted.
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
		err = b.complete(ctx, name, upload, parts)
	}
	if uploadGone(err) && b.has(ctx, name, size) {
		err = nil // another node, or an earlier attempt whose answer was lost, completed it
	}
	return sent.Load(), err
}

// complete makes the object of an upload's parts.
func (b *Bucket) complete(ctx context.Context, name, upload string, parts []minio.CompletePart) error {
	err := b.watched(ctx, b.writeStall, func(ctx context.Context, _ *watchdog) error {
		_, err := b.client.CompleteMultipartUpload(ctx, b.config.Bucket, name, upload, parts, minio.PutObjectOptions{})
		return err
	})
	var response minio.ErrorResponse
	if errors.As(err, &response) && slices.Contains([]string{"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}, response.Code) {
		// With these parts it would never be accepted: the next attempt begins anew.
		return errors.Join(err, b.abort(ctx, name, upload))
	}
	return err
}

// putPart uploads a part unless it is there, and returns its ETag and how many
// bytes were sent.
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

// begun returns the newest unfinished upload of an object, if there is one, and
// the parts that it has.
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
// MinIO lists those of one object only, and removes old ones by itself.
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
