package pages

import (
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// BenchmarkLay lays out 16 GiB: it is in the way of every restore.
func BenchmarkLay(b *testing.B) {
	const window = 1 << 16
	chunks := make([]memory.Chunk, 16<<30/window)
	for i := range chunks {
		chunks[i] = memory.Chunk{ID: i, Bytes: window, Places: []memory.Place{{PID: 1, Address: guestBase + uint64(i)*window, Length: window}}}
	}
	for b.Loop() {
		if _, err := lay(chunks, func(int) bool { return false }); err != nil {
			b.Fatal(err)
		}
	}
}
