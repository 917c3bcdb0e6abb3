package bucket

import (
	"errors"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

// impatient makes everything that is not referred to old enough.
func (n *node) impatient() { n.grace = -time.Hour }

func TestRetain(t *testing.T) {
	n := newNode(t, configFor(sharedServer(t)), nil, 0)
	trees := map[int64]storetest.Tree{}
	for i := range uint64(5) {
		tree := noise(20, 100, i) // the first half never changes
		trees[n.copied(t, tree).Number] = tree
	}
	n.wantHeld(t, 5, 4, 3, 2, 1)
	segments := len(n.objects(t, "segments/"))
	// What this process wrote it need not read.
	for name, of := range n.objects(t, "manifests/") {
		if number, _ := store.ParseManifestName(name); !n.pod(testPod).manifests[number].of.is(of) {
			t.Errorf("%s is %v in a list, and was %v when it was sent", name, of, n.pod(testPod).manifests[number].of)
		}
	}

	check(t, n.Bucket.Retain(t.Context(), testPod, 2))
	n.wantHeld(t, 5, 4)
	if got := len(n.objects(t, "segments/")); got != segments {
		t.Errorf("%d segments are left of %d, which another node may be about to refer to", got, segments)
	}
	n.impatient()
	check(t, n.Bucket.Retain(t.Context(), testPod, 2))
	// Generations 2 and 3 had one segment each that nobody refers to now. The
	// first one's has what never changed.
	if got := len(n.objects(t, "segments/")); got != segments-2 {
		t.Errorf("%d segments are left of %d", got, segments)
	}
	n.wantFetched(t, 5, trees[5])
	n.wantFetched(t, 4, trees[4])
	check(t, n.Bucket.Retain(t.Context(), testPod, 2)) // there is nothing left to do
	if err := n.Bucket.Retain(t.Context(), testPod, 0); err == nil {
		t.Error("all generations were to be removed")
	}
	n.wantHeld(t, 5, 4)
}

func TestRetainLeavesWhatIsRead(t *testing.T) {
	n := newNode(t, configFor(sharedServer(t)), nil, 0)
	n.impatient()
	trees := []storetest.Tree{noise(20, 1), noise(20, 2), noise(20, 3)}
	for _, tree := range trees {
		n.copied(t, tree)
	}
	from, err := n.Bucket.Segments(t.Context(), testPod, 1)
	check(t, err)
	check(t, n.Bucket.Retain(t.Context(), testPod, 1))
	n.wantHeld(t, 3, 1)
	n.wantFetched(t, 1, trees[0])
	if err := n.Bucket.Remove(t.Context(), testPod); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a pod was removed while it is read: %v", err)
	}
	check(t, from.Close())
	check(t, n.Bucket.Retain(t.Context(), testPod, 1))
	n.wantHeld(t, 3)
	check(t, n.Bucket.Remove(t.Context(), testPod))
	check(t, n.Bucket.Remove(t.Context(), testPod)) // there is nothing left to do
	if left := n.objects(t, ""); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

// A segment whose manifest has not come yet, or cannot be read, stays.
func TestRetainLeavesWhatMayBeReferredTo(t *testing.T) {
	n := newNode(t, configFor(sharedServer(t)), nil, 0)
	n.copied(t, noise(20, 1))
	second := n.seal(t, noise(20, 2))
	files, err := n.Files(testPod, second.Number)
	check(t, err)
	_, err = n.putMissing(t.Context(), testPod, files[:len(files)-1], nil)
	check(t, err)
	check(t, n.Bucket.Retain(t.Context(), testPod, 1))
	if sent, err := n.Replicate(t.Context(), testPod, second.Number); err != nil || sent != files[len(files)-1].GetSize() {
		t.Errorf("%d bytes were sent where only the manifest was missing: %v", sent, err)
	}

	n.keys.Forget(testPod.Namespace) // the key may come back
	n.impatient()
	blind := n.again(t)
	blind.impatient()
	before := len(n.objects(t, ""))
	check(t, blind.Bucket.Retain(t.Context(), testPod, 1))
	if after := len(n.objects(t, "")); after != before {
		t.Errorf("%d objects were removed that only lack their key", before-after)
	}
}

func TestRetainRemovesWhatIsDamaged(t *testing.T) {
	server := sharedServer(t)
	n := newNode(t, configFor(server), nil, 0)
	for seed := range uint64(3) {
		n.copied(t, noise(20, seed))
	}
	alter(t, server.File(bucketName, n.object(testPod, store.ManifestName(3))))
	again := n.again(t)
	check(t, again.Bucket.Retain(t.Context(), testPod, 1))
	again.wantHeld(t, 2)
	n.wantFetched(t, 2, noise(20, 1))
}

func TestUnfinishedUploadsAreAborted(t *testing.T) {
	n := newNode(t, configFor(sharedServer(t)), nil, 0)
	n.copied(t, noise(20, 1))
	other := n.object(store.Key{Namespace: testPod.Namespace, PodUID: testPod.PodUID + "0"}, "segments/00112233445566778899aabbccddeeff.seg")
	begin := func(name string) {
		_, err := n.client.NewMultipartUpload(t.Context(), bucketName, name, minio.PutObjectOptions{})
		check(t, err)
	}
	want := func(what string, count int) {
		t.Helper()
		uploads, err := n.uploads(t.Context(), n.config.prefix())
		check(t, err)
		if len(uploads) != count {
			t.Errorf("%s: %d uploads are unfinished, want %d", what, len(uploads), count)
		}
	}
	begin(other)
	begin(n.object(testPod, "segments/00112233445566778899aabbccddeeff.seg"))
	check(t, n.Bucket.Retain(t.Context(), testPod, 1))
	want("one that has just begun", 2)
	n.impatient()
	check(t, n.Bucket.Retain(t.Context(), testPod, 1))
	want("an old one", 1)
	begin(n.object(testPod, "segments/00112233445566778899aabbccddeeff.seg"))
	check(t, n.Bucket.Remove(t.Context(), testPod))
	want("of a removed pod", 1)
}
