package bucket

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/e2e/objectstore"
)

// leastPart is the smallest part that S3 accepts before the last one.
const leastPart = 5 << 20

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestUploadGoesOnAfterTheServersDeath(t *testing.T) {
	options := objectstore.Options{Dir: t.TempDir()}
	server := ownServer(t, options)
	config := configFor(server)
	limiter, err := transfer.NewLimiter(24 << 20)
	check(t, err)
	config.Limiter = limiter
	n := newNode(t, config, nil, 64<<20)
	n.partBytes = leastPart
	tree := noise(12<<20/storetest.PageSize, 1, 2, 3, 4)
	gen := n.seal(t, tree)
	files, err := n.Files(testPod, gen.Number)
	check(t, err)
	if files[0].GetSize() < 8*leastPart {
		t.Fatalf("the segment has only %d bytes", files[0].GetSize())
	}
	name := n.object(testPod, files[0].GetName())

	failed := make(chan error)
	go func() {
		_, err := n.Replicate(t.Context(), testPod, gen.Number)
		failed <- err
	}()
	watcher := newNode(t, config, n.keys, 0)
	eventually(t, "parts have arrived", func() bool {
		_, parts, err := watcher.begun(t.Context(), name)
		check(t, err)
		return len(parts) > 0
	})
	server.Stop()
	err = <-failed
	if err == nil {
		t.Fatal("the server died, and Replicate did not notice")
	}
	t.Log(err)

	options.Address = server.Address()
	ownServer(t, options)
	n.wantHeld(t)
	_, parts, err := n.begun(t.Context(), name)
	check(t, err)
	var there int64
	for _, part := range parts {
		there += part.Size
	}
	if there < leastPart || there >= files[0].GetSize() {
		t.Fatalf("of %d bytes %d are there", files[0].GetSize(), there)
	}
	sent, err := n.Replicate(t.Context(), testPod, gen.Number)
	check(t, err)
	if want := gen.NewBytes - there; sent != want {
		t.Errorf("%d bytes of %d were there, and %d were sent instead of %d", there, gen.NewBytes, sent, want)
	}
	n.wantHeld(t, 1)
	n.wantFetched(t, 1, tree)
	if left, err := n.uploads(t.Context(), n.object(testPod, "")); err != nil || len(left) > 0 {
		t.Errorf("uploads are left over: %v, %v", left, err)
	}
}

// What is there of an upload may not be what this node has: another part size,
// or a file that was damaged on its way.
func TestUploadRepeatsOtherParts(t *testing.T) {
	n := newNode(t, configFor(sharedServer(t)), nil, 64<<20)
	n.partBytes = leastPart
	tree := noise(6<<20/storetest.PageSize, 1, 2)
	gen := n.seal(t, tree)
	files, err := n.Files(testPod, gen.Number)
	check(t, err)
	name := n.object(testPod, files[0].GetName())
	upload, err := n.client.NewMultipartUpload(t.Context(), bucketName, name, minio.PutObjectOptions{})
	check(t, err)
	for number, size := range map[int]int64{1: leastPart, 2: leastPart - 1, 7: 100} {
		_, err := n.client.PutObjectPart(t.Context(), bucketName, name, upload, number, bytes.NewReader(make([]byte, size)), size, minio.PutObjectPartOptions{})
		check(t, err)
	}
	sent, err := n.Replicate(t.Context(), testPod, gen.Number)
	check(t, err)
	if sent != gen.NewBytes {
		t.Errorf("of %d bytes that were not there %d were sent", gen.NewBytes, sent)
	}
	n.wantFetched(t, 1, tree)
}

func TestAnotherGenerationOfTheSameNumberStays(t *testing.T) {
	config := configFor(sharedServer(t))
	a := newNode(t, config, nil, 0)
	b := newNode(t, config, a.keys, 0)
	a.copied(t, noise(2, 1))
	b.seal(t, noise(2, 2))
	if _, err := b.Replicate(t.Context(), testPod, 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("generation 1 was written over: %v", err)
	}
	a.wantFetched(t, 1, noise(2, 1))
}

func TestDamagedManifestIsReplaced(t *testing.T) {
	server := sharedServer(t)
	n := newNode(t, configFor(server), nil, 0)
	n.copied(t, noise(2, 1))
	alter(t, server.File(bucketName, n.object(testPod, store.ManifestName(1))))
	fresh := newNode(t, n.config, n.keys, 0)
	var damaged *store.Damaged
	if err := fresh.Fetch(t.Context(), testPod, 1); !errors.As(err, &damaged) {
		t.Errorf("a damaged manifest: %v", err)
	}
	// This process has not read it since.
	if _, err := n.again(t).Replicate(t.Context(), testPod, 1); err != nil {
		t.Fatal(err)
	}
	n.wantFetched(t, 1, noise(2, 1))
}

// Whoever copies a bucket may lose the metadata.
func TestManifestWithoutMetadataIsListed(t *testing.T) {
	n := newNode(t, configFor(sharedServer(t)), nil, 0)
	want := n.copied(t, noise(2, 1))
	name := n.object(testPod, store.ManifestName(1))
	content, err := n.get(t.Context(), name, store.MaxManifest)
	check(t, err)
	for _, metadata := range []map[string]string{nil, {hintKey: "{"}, {hintKey: `{"number":7,"id":"x"}`}} {
		_, err = n.client.Client.PutObject(t.Context(), bucketName, name, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{UserMetadata: metadata})
		check(t, err)
		fresh := newNode(t, n.config, n.keys, 0)
		list, err := fresh.Held(t.Context(), testPod)
		if err != nil || len(list) != 1 || list[0].PodName != want.PodName || list[0].Bytes != want.Bytes || !list[0].TakenAt.Equal(want.TakenAt) {
			t.Errorf("with metadata %v: %v, %v", metadata, list, err)
		}
	}
	check(t, os.Truncate(sharedServer(t).File(bucketName, name), 20))
	newNode(t, n.config, n.keys, 0).wantHeld(t)
}

func TestMoreObjectsThanAPage(t *testing.T) {
	n := newNode(t, configFor(sharedServer(t)), nil, 1) // each chunk becomes a segment
	seeds := make([]uint64, 1050)
	for i := range seeds {
		seeds[i] = uint64(i + 1)
	}
	tree := noise(1, seeds...)
	gen := n.copied(t, tree)
	if got := len(n.objects(t, "segments/")); got < 1001 {
		t.Fatalf("there are only %d segments", got)
	}
	if sent, err := n.Replicate(t.Context(), testPod, gen.Number); err != nil || sent != 0 {
		t.Errorf("of a generation that is there %d bytes were sent: %v", sent, err)
	}
	check(t, n.Bucket.Retain(t.Context(), testPod, 1))
	n.wantFetched(t, gen.Number, tree)
	check(t, n.Bucket.Remove(t.Context(), testPod))
	if left := n.objects(t, ""); len(left) != 0 {
		t.Errorf("%d objects are left", len(left))
	}
}

func TestUploadsKeepTheLimit(t *testing.T) {
	config := configFor(sharedServer(t))
	limiter, err := transfer.NewLimiter(1 << 20)
	check(t, err)
	config.Limiter = limiter
	n := newNode(t, config, nil, 256<<10)
	gen := n.seal(t, noise(512, 1))
	begin := time.Now()
	_, err = n.Replicate(t.Context(), testPod, gen.Number)
	check(t, err)
	// The limiter lets a quarter of a second's bytes through at once.
	if least := time.Duration(float64(gen.NewBytes-256<<10) / float64(1<<20) * float64(time.Second)); time.Since(begin) < least {
		t.Errorf("%d bytes took %s at 1 MiB/s, at least %s were right", gen.NewBytes, time.Since(begin), least)
	}
}
