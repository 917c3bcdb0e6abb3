package bucket

import (
	"testing"
)

const benchBytes = 256 << 20

// benchNode has a generation of four segments that do not compress.
func benchNode(b *testing.B) *node {
	n := newNode(b, configFor(sharedServer(b)), nil, 64<<20)
	n.writeStall = writeStall
	n.seal(b, noise(benchBytes/4/storePage, 1, 2, 3, 4))
	b.SetBytes(benchBytes)
	b.ResetTimer()
	return n
}

// BenchmarkReplicate copies 256 MiB to a server on loopback, whose disk is that of the temporary folder.
func BenchmarkReplicate(b *testing.B) {
	n := benchNode(b)
	for b.Loop() {
		_, err := n.Replicate(b.Context(), testPod, 1)
		check(b, err)
		b.StopTimer()
		check(b, n.Bucket.Remove(b.Context(), testPod))
		b.StartTimer()
	}
}

// BenchmarkFetch copies the same back into an empty store, onto stable storage.
func BenchmarkFetch(b *testing.B) {
	n := benchNode(b)
	_, err := n.Replicate(b.Context(), testPod, 1)
	check(b, err)
	fresh := newNode(b, n.config, n.keys, 0)
	for b.Loop() {
		check(b, fresh.Fetch(b.Context(), testPod, 1))
		b.StopTimer()
		check(b, fresh.Store.Remove(testPod))
		b.StartTimer()
	}
}

// BenchmarkReadAt reads ranges of 64 KiB one after the other, as page faults do.
func BenchmarkReadAt(b *testing.B) {
	n := benchNode(b)
	_, err := n.Replicate(b.Context(), testPod, 1)
	check(b, err)
	files, err := n.Files(testPod, 1)
	check(b, err)
	from, err := n.Bucket.Segments(b.Context(), testPod, 1)
	check(b, err)
	defer from.Close()
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	for i := int64(0); b.Loop(); i++ {
		check(b, from.ReadAt(b.Context(), files[0].GetName(), buf, i%512*int64(len(buf))))
	}
}
