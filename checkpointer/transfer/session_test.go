package transfer_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer/holdertest"
)

// wantInUse wants a node's generations to be kept, or to be removable in the end.
func (n *node) wantInUse(t testing.TB, is bool) {
	t.Helper()
	if is {
		if err := n.store.Remove(pod); !errors.Is(err, store.ErrInUse) {
			t.Fatalf("want %v, got %v", store.ErrInUse, err)
		}
		return
	}
	waitFor(t, "nothing uses the pod's files", func() bool {
		err := n.store.Remove(pod)
		if err != nil && !errors.Is(err, store.ErrInUse) {
			t.Fatal(err)
		}
		return err == nil
	})
}

func TestOpenGenerationIsKept(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, a, b *node, from store.Segments, way *holdertest.Proxy){
		"until it is closed":             func(t *testing.T, _, _ *node, from store.Segments, _ *holdertest.Proxy) { check(t, from.Close()) },
		"until its reader is gone":       func(t *testing.T, _, b *node, _ store.Segments, _ *holdertest.Proxy) { check(t, b.client.Close()) },
		"until the connection is gone":   func(_ *testing.T, _, _ *node, _ store.Segments, way *holdertest.Proxy) { way.Break(holdertest.Cut, 0) },
		"until nothing is read any more": func(*testing.T, *node, *node, store.Segments, *holdertest.Proxy) {},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newPair(t)
			a.seal(t, 1)
			if strings.Contains(name, "nothing is read") {
				a.server.SetSessionIdle(300 * time.Millisecond)
			}
			way := holdertest.NewProxy(t, a.address)
			from, err := b.client.Holder("a", way.Address).Segments(t.Context(), pod, 1)
			check(t, err)
			defer from.Close()
			a.wantInUse(t, true)
			end(t, a, b, from, way)
			a.wantInUse(t, false)
			if n := a.server.Sessions(); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
		})
	}
}

func TestLostSessionIsOpenedAgain(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	a.server.SetSessionIdle(20 * time.Millisecond)
	from, err := b.client.Holder("a", a.address).Segments(t.Context(), pod, 1)
	check(t, err)
	defer from.Close()
	name, _ := a.segment(t)
	idle := func() bool { return a.server.Sessions() == 0 }
	waitFor(t, "the session ends", idle)
	var reads sync.WaitGroup
	for range 8 {
		reads.Go(func() {
			if err := from.ReadAt(t.Context(), name, make([]byte, 100), 0); err != nil {
				t.Error(err)
			}
		})
	}
	reads.Wait()
	waitFor(t, "the session ends", idle)
	check(t, a.store.Remove(pod))
	if err := from.ReadAt(t.Context(), name, make([]byte, 100), 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of a generation that has gone: %v", err)
	}
}

func TestCutShortSegmentIsNoted(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	from, err := b.client.Holder("a", a.address).Segments(t.Context(), pod, 1)
	check(t, err)
	defer from.Close()
	name, size := a.segment(t)
	check(t, os.Truncate(filepath.Join(a.dir, pod.Namespace, pod.PodUID, name), size/2))
	check(t, from.ReadAt(t.Context(), name, make([]byte, 100), 0))
	if err := from.ReadAt(t.Context(), name, make([]byte, 100), size-100); status.Code(err) != codes.DataLoss {
		t.Errorf("want DataLoss, got %v", err)
	}
}

func TestServerRefusesWhatIsNoRange(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	name, size := a.segment(t)
	remote, err := b.client.Dial(a.address)
	check(t, err)
	open, err := remote.Open(t.Context(), &peerv1.OpenRequest{Pod: podKey, Generation: 1})
	check(t, err)
	opened, err := open.Recv()
	check(t, err)
	session := opened.GetSession()
	for what, c := range map[string]struct {
		want    codes.Code
		request *peerv1.ReadRequest
	}{
		"all of it":             {codes.OK, &peerv1.ReadRequest{Session: session, Name: name, Offset: 0, Length: size}},
		"its last byte":         {codes.OK, &peerv1.ReadRequest{Session: session, Name: name, Offset: size - 1, Length: 1}},
		"no session":            {codes.InvalidArgument, &peerv1.ReadRequest{Name: name, Length: 1}},
		"a long session":        {codes.InvalidArgument, &peerv1.ReadRequest{Session: append([]byte{1}, session...), Name: name, Length: 1}},
		"another session":       {codes.Aborted, &peerv1.ReadRequest{Session: make([]byte, len(session)), Name: name, Length: 1}},
		"nothing":               {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: name}},
		"less than nothing":     {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: name, Offset: 10, Length: -1}},
		"one byte too many":     {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: name, Offset: size, Length: 1}},
		"a negative offset":     {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: name, Offset: -1, Length: 1}},
		"an offset that wraps":  {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: name, Offset: 1<<63 - 1, Length: 8}},
		"too much":              {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: name, Length: 8<<20 + 1}},
		"the pointer":           {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: "latest", Length: 1}},
		"a path above":          {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: "../../lock", Length: 1}},
		"another generation's":  {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: "manifests/2.man", Length: 1}},
		"an absolute path":      {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: "/etc/passwd", Length: 1}},
		"a path through itself": {codes.InvalidArgument, &peerv1.ReadRequest{Session: session, Name: "./" + name, Length: 1}},
	} {
		t.Run(what, func(t *testing.T) {
			stream, err := remote.Read(t.Context(), c.request)
			for err == nil {
				_, err = stream.Recv()
			}
			if code := status.Code(err); code != c.want && (c.want != codes.OK || err.Error() != "EOF") {
				t.Errorf("want %s, got %v", c.want, err)
			}
		})
	}
	for what, request := range map[string]*peerv1.OpenRequest{
		"no pod":        {Generation: 1},
		"a pod above":   {Pod: &peerv1.PodKey{Namespace: "a", PodUid: "../x"}, Generation: 1},
		"no generation": {Pod: podKey},
		"a negative":    {Pod: podKey, Generation: -1},
	} {
		stream, err := remote.Open(t.Context(), request)
		check(t, err)
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSessionsAreBounded(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	holder := b.client.Holder("a", a.address)
	for range transfer.MaxSessions {
		from, err := holder.Segments(t.Context(), pod, 1)
		check(t, err)
		t.Cleanup(func() { from.Close() })
	}
	if _, err := holder.Segments(t.Context(), pod, 1); status.Code(err) != codes.Unavailable {
		t.Errorf("want Unavailable, got %v", err)
	}
	// There is room for other calls beside them.
	_, err := holder.Held(t.Context(), pod)
	check(t, err)
}

// What a process waits for has a connection of its own.
func TestSmallReadsDoNotQueue(t *testing.T) {
	a, b := newWholePair(t)
	a.seal(t, 1)
	way := holdertest.NewProxy(t, a.address)
	from, err := b.client.Holder("a", way.Address).Segments(t.Context(), pod, 1)
	check(t, err)
	defer from.Close()
	name, size := a.segment(t)
	check(t, from.ReadAt(t.Context(), name, make([]byte, size), 0))
	before := way.Connections()
	if len(before) != 2 || before[0] > size/2 || before[1] < size {
		t.Fatalf("a read of %d bytes is spread over the connections so: %v", size, before)
	}
	for offset := int64(0); offset < 1<<20; offset += 64 << 10 {
		check(t, from.ReadAt(t.Context(), name, make([]byte, 64<<10), offset))
	}
	after := way.Connections()
	if len(after) != 2 || after[0]-before[0] < 1<<20 || after[1]-before[1] > 64<<10 {
		t.Errorf("1 MiB of small reads is spread over the connections so: %v, after %v", after, before)
	}
}

// An asker that is there, and does nothing, keeps nothing from being removed.
func TestIdleAskerIsLeft(t *testing.T) {
	a, b := newWholePair(t)
	a.server.SetCallIdle(300 * time.Millisecond)
	staged := storetest.Tree{"memory": string(storetest.Pages(1, 20<<20/storetest.PageSize))}.Write(t)
	remote, err := b.client.Dial(a.address)
	check(t, err)
	ends := func(t *testing.T, receive func() error) {
		t.Helper()
		a.wantInUse(t, false)
		var err error
		for err == nil {
			err = receive()
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("want DeadlineExceeded, got %v", err)
		}
	}
	t.Run("Get", func(t *testing.T) {
		_, err := a.store.Seal(t.Context(), pod, store.Generation{}, staged, nil)
		check(t, err)
		stream, err := remote.Get(t.Context(), &peerv1.GetRequest{Pod: podKey, Generation: 1})
		check(t, err)
		_, err = stream.Recv()
		check(t, err)
		ends(t, func() error { _, err := stream.Recv(); return err })
	})
	t.Run("Put", func(t *testing.T) {
		stream, err := remote.Put(t.Context())
		check(t, err)
		check(t, stream.Send(&peerv1.PutRequest{Pod: podKey, Name: "segments/" + strings.Repeat("ab", 16) + ".seg", Size: 1000, Data: []byte("a")}))
		waitFor(t, "it has arrived", func() bool { return a.store.Used() > 0 })
		ends(t, func() error { _, err := stream.CloseAndRecv(); return err })
	})
}

// Calls to a holder that stopped answering leave nothing running.
func TestStalledCallsLeaveNothing(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	before := runtime.NumGoroutine()
	way := holdertest.NewProxy(t, a.address)
	holder := b.client.Holder("a", way.Address)
	from, err := holder.Segments(t.Context(), pod, 1)
	check(t, err)
	name, _ := a.segment(t)
	check(t, from.ReadAt(t.Context(), name, make([]byte, 100_000), 0))
	b.client.SetPatience(200 * time.Millisecond)
	way.Break(holdertest.Silence, 0)
	var calls sync.WaitGroup
	for range 10 {
		for _, call := range []func() error{
			func() error { _, err := holder.Held(t.Context(), pod); return err },
			func() error { return holder.Fetch(t.Context(), pod, 1) },
			func() error { _, err := holder.Segments(t.Context(), pod, 1); return err },
			func() error { return from.ReadAt(t.Context(), name, make([]byte, 100), 0) },
		} {
			calls.Go(func() {
				if call() == nil {
					t.Error("a call succeeds")
				}
			})
		}
	}
	calls.Wait()
	check(t, from.Close())
	check(t, b.client.Close())
	way.Break(holdertest.Cut, 0)
	// What is left is the proxy's listener.
	waitFor(t, "everything ends", func() bool { return runtime.NumGoroutine() <= before+1 })
}
