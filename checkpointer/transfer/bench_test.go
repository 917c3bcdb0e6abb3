package transfer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

const benchBytes = 128 << 20

// benchPair returns two nodes, of which the first has a generation of 128 MiB that
// do not compress, on the disk of the temporary folder.
func benchPair(b *testing.B) (from, to *node) {
	authority, keys := newAuthority(b), storetest.NewKeys()
	from, to = newNode(b, authority, keys, store.Options{SegmentBytes: 64 << 20}), newNode(b, authority, keys, store.Options{})
	staged := b.TempDir()
	check(b, os.WriteFile(filepath.Join(staged, "memory"), storetest.Pages(1, benchBytes/storetest.PageSize), 0o600))
	_, err := from.store.Seal(b.Context(), pod, store.Generation{}, staged, nil)
	check(b, err)
	return from, to
}

// BenchmarkReplicate copies 128 MiB over TLS on loopback.
func BenchmarkReplicate(b *testing.B) {
	from, to := benchPair(b)
	b.SetBytes(benchBytes)
	for b.Loop() {
		_, err := from.client.Replicate(b.Context(), to.address, pod, 1)
		check(b, err)
		b.StopTimer()
		check(b, to.store.Remove(pod))
		b.StartTimer()
	}
}

// BenchmarkRead reads ranges of a generation where another node holds it, over TLS
// on loopback: what a page fault of a restored process waits for, and what is
// read ahead.
func BenchmarkRead(b *testing.B) {
	holder, reader := benchPair(b)
	from, err := reader.client.Holder("holder", holder.address).Segments(b.Context(), pod, 1)
	check(b, err)
	defer from.Close()
	segment, size := holder.segment(b)
	for _, length := range []int64{4 << 10, 16 << 10, 64 << 10, 1 << 20, 8 << 20} {
		b.Run(fmt.Sprintf("%dKiB", length>>10), func(b *testing.B) {
			readEach(b, from, segment, size, length)
		})
	}
	b.Run("4KiB beside two drains", func(b *testing.B) {
		stop := drain(b, from, segment, size)
		readEach(b, from, segment, size, 4<<10)
		stop()
	})
	// What it would be if they shared a connection.
	b.Run("4KiB beside two drains on one connection", func(b *testing.B) {
		remote, err := reader.client.Dial(holder.address)
		check(b, err)
		session, err := remote.Open(b.Context(), &peerv1.OpenRequest{Pod: podKey, Generation: 1})
		check(b, err)
		opened, err := session.Recv()
		check(b, err)
		stop := drain(b, from, segment, size)
		readEach(b, &bareSegments{remote, opened.GetSession()}, segment, size, 4<<10)
		stop()
	})
}

// segment returns the first segment of the node's generation, and its size.
func (n *node) segment(t testing.TB) (string, int64) {
	t.Helper()
	files, err := n.store.Files(pod, 1)
	check(t, err)
	return files[0].GetName(), files[0].GetSize()
}

type readerAt interface {
	ReadAt(ctx context.Context, name string, buf []byte, offset int64) error
}

// bareSegments reads on the connection for bulk, whatever the length.
type bareSegments struct {
	remote  peerv1.PeerClient
	session []byte
}

func (s *bareSegments) ReadAt(ctx context.Context, name string, buf []byte, offset int64) error {
	stream, err := s.remote.Read(ctx, &peerv1.ReadRequest{Session: s.session, Name: name, Offset: offset, Length: int64(len(buf))})
	if err != nil {
		return err
	}
	for filled := 0; filled < len(buf); {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		filled += copy(buf[filled:], response.GetData())
	}
	_, _ = stream.Recv()
	return nil
}

func readEach(b *testing.B, from readerAt, segment string, size, length int64) {
	b.SetBytes(length)
	buf := make([]byte, length)
	var took []time.Duration
	for offset := int64(0); b.Loop(); offset = (offset + 7*length) % (size - length) {
		start := time.Now()
		check(b, from.ReadAt(b.Context(), segment, buf, offset))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}

// drain reads large ranges, two at once, until stop is called.
func drain(b *testing.B, from readerAt, segment string, size int64) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			buf := make([]byte, 8<<20)
			for offset := int64(0); ctx.Err() == nil; offset = (offset + int64(len(buf))) % (size - int64(len(buf))) {
				if err := from.ReadAt(ctx, segment, buf, offset); err != nil && ctx.Err() == nil {
					b.Error(err)
				}
			}
		})
	}
	return func() {
		cancel()
		readers.Wait()
	}
}
