package transfer_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

// BenchmarkReplicate copies 128 MB that do not compress over TLS on loopback,
// with both stores on the disk of the temporary folder.
func BenchmarkReplicate(b *testing.B) {
	const bytes = 128 << 20
	authority, keys := newAuthority(b), storetest.NewKeys()
	from, to := newNode(b, authority, keys, store.Options{SegmentBytes: 64 << 20}), newNode(b, authority, keys, store.Options{})
	staged := b.TempDir()
	if err := os.WriteFile(filepath.Join(staged, "memory"), storetest.Pages(1, bytes/storetest.PageSize), 0o600); err != nil {
		b.Fatal(err)
	}
	if _, err := from.store.Seal(b.Context(), pod, store.Generation{}, staged, nil); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(bytes)
	for b.Loop() {
		if _, err := from.client.Replicate(b.Context(), to.address, pod, 1); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := to.store.Remove(pod); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
