package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/kubernetes/fake"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer/holdertest"
	"github.com/lifeboat-dev/lifeboat/identity"
)

var pod = store.Key{Namespace: "shop", PodUID: "0d4fcd4e-6d3e-4c43-9b0a-3e1ffb8f5f0b"}

var _ store.KeySource = (*identity.NamespaceKeys)(nil)

var podKey = &peerv1.PodKey{Namespace: pod.Namespace, PodUid: pod.PodUID}

const segmentBytes = 128 << 10

// node is a store with its server and its client.
type node struct {
	store   *store.Store
	dir     string
	client  *transfer.Client
	server  *transfer.Server
	address string
}

func newAuthority(t testing.TB) *identity.Authority {
	t.Helper()
	a, err := identity.Ensure(t.Context(), fake.NewClientset(), "lifeboat-system")
	check(t, err)
	return a
}

func newNode(t testing.TB, authority *identity.Authority, keys store.KeySource, options store.Options) *node {
	t.Helper()
	if options.SegmentBytes == 0 {
		options.SegmentBytes = segmentBytes
	}
	n := &node{dir: t.TempDir()}
	var err error
	n.store, err = store.Open(n.dir, keys, options)
	check(t, err)
	serverTLS, err := authority.ServerTLS("server")
	check(t, err)
	n.server = transfer.NewServer(n.store)
	server := grpc.NewServer(append(transfer.ServerOptions(), grpc.Creds(credentials.NewTLS(serverTLS)))...)
	peerv1.RegisterPeerServer(server, n.server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	n.address = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	clientTLS, err := authority.ClientTLS("client")
	check(t, err)
	n.client = transfer.NewClient(n.store, clientTLS)
	t.Cleanup(func() {
		n.client.Close()
		server.Stop()
		<-served
		n.store.Close()
	})
	return n
}

// newPair returns two nodes of one cluster.
func newPair(t testing.TB) (a, b *node) {
	authority, keys := newAuthority(t), storetest.NewKeys()
	return newNode(t, authority, keys, store.Options{}), newNode(t, authority, keys, store.Options{})
}

// tree is a checkpoint of about 2 MB, of which a part depends on the seed.
func tree(seed uint64) storetest.Tree {
	pagemap, pages := storetest.Images(1, storetest.Memory{Address: 0x10000, Data: storetest.Pages(1, 450)},
		storetest.Memory{Address: 0x7f0000000000, Data: storetest.Pages(seed+1000, 16)})
	return storetest.Tree{"c/images/pagemap-1.img": pagemap, "c/images/pages-1.img": pages, "c/rootfs.tar": "files"}
}

func (n *node) seal(t testing.TB, seed uint64) store.Generation {
	t.Helper()
	gen, err := n.store.Seal(t.Context(), pod, store.Generation{Epoch: 3, TakenAt: time.Now(), PodName: "cart-0", Containers: []string{"c"}}, tree(seed).Write(t), nil)
	check(t, err)
	return gen
}

func (n *node) wantTree(t testing.TB, number int64, seed uint64) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	check(t, n.store.Materialize(t.Context(), pod, number, dir))
	got := storetest.ReadTree(t, dir)
	for name, content := range tree(seed) {
		if got[name] != content {
			t.Fatalf("generation %d: %s differs", number, name)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReplicateSendsWhatIsMissing(t *testing.T) {
	a, b := newPair(t)
	first, second := a.seal(t, 1), a.seal(t, 2)
	sent, err := a.client.Replicate(t.Context(), b.address, pod, 1)
	check(t, err)
	if sent != first.NewBytes {
		t.Errorf("the first generation of %d bytes took %d", first.NewBytes, sent)
	}
	b.wantTree(t, 1, 1)
	sent, err = a.client.Replicate(t.Context(), b.address, pod, 2)
	check(t, err)
	if sent != second.NewBytes {
		t.Errorf("the second generation added %d bytes, and took %d", second.NewBytes, sent)
	}
	b.wantTree(t, 2, 2)
	if sent, err := a.client.Replicate(t.Context(), b.address, pod, 2); err != nil || sent != 0 {
		t.Errorf("a generation that was there took %d bytes: %v", sent, err)
	}
	// The holder keeps its own number of generations.
	check(t, b.store.Retain(pod, store.Retention{Count: 1}))
	b.wantTree(t, 2, 2)
	if _, err := a.client.Replicate(t.Context(), b.address, pod, 9); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a generation that is nowhere: %v", err)
	}
}

func TestHeldAndFetch(t *testing.T) {
	a, b := newPair(t)
	if held, err := b.client.Held(t.Context(), a.address, pod); err != nil || len(held) != 0 {
		t.Fatalf("of a pod without generations %v is held: %v", held, err)
	}
	want := []store.Generation{a.seal(t, 2), a.seal(t, 1)}
	want[0], want[1] = want[1], want[0]
	held, err := b.client.Held(t.Context(), a.address, pod)
	check(t, err)
	for i := range want {
		want[i].NewBytes = 0 // the protocol does not carry it
	}
	if diff := cmp.Diff(want, held); diff != "" {
		t.Errorf("Held (-want +got):\n%s", diff)
	}
	check(t, b.client.Fetch(t.Context(), a.address, pod, 2))
	b.wantTree(t, 2, 1)
	check(t, b.client.Fetch(t.Context(), a.address, pod, 1))
	b.wantTree(t, 1, 2)
	if err := b.client.Fetch(t.Context(), a.address, pod, 3); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a generation that is nowhere: %v", err)
	}
}

// proxy is a way to a node on which a fault happens after that many bytes.
func proxy(t testing.TB, address string, fault holdertest.Fault, after int64) string {
	p := holdertest.NewProxy(t, address)
	p.Break(fault, after)
	return p.Address
}

func TestInterruptedReplicateGoesOn(t *testing.T) {
	a, b := newPair(t)
	gen := a.seal(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	half := proxy(t, b.address, holdertest.Silence, gen.NewBytes/2)
	interrupted := make(chan error, 1)
	go func() {
		_, err := a.client.Replicate(ctx, half, pod, 1)
		interrupted <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if segments, err := b.store.Segments(pod); err == nil && len(segments) >= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing arrived")
		}
	}
	cancel()
	if err := <-interrupted; err == nil {
		t.Fatal("half of the bytes arrived, and Replicate did not notice")
	}
	if held, err := b.store.List(pod); err != nil || len(held) > 0 {
		t.Fatalf("half a generation is held: %v, %v", held, err)
	}
	sent, err := a.client.Replicate(t.Context(), b.address, pod, 1)
	check(t, err)
	if most := gen.NewBytes - 3*segmentBytes; sent > most {
		t.Errorf("%d bytes were sent again, more than %d", sent, most)
	}
	b.wantTree(t, 1, 1)
}

func TestInterruptedFetchGoesOn(t *testing.T) {
	a, b := newPair(t)
	gen := a.seal(t, 1)
	if err := b.client.Fetch(t.Context(), proxy(t, a.address, holdertest.Cut, gen.NewBytes*2/3), pod, 1); err == nil {
		t.Fatal("the connection was cut, and Fetch did not notice")
	}
	segments, err := b.store.Segments(pod)
	check(t, err)
	if len(segments) == 0 {
		t.Error("nothing of the first attempt is left")
	}
	check(t, b.client.Fetch(t.Context(), a.address, pod, 1))
	b.wantTree(t, 1, 1)
}

func TestCancelledReplicateLeavesNoGeneration(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.client.Replicate(ctx, b.address, pod, 1); status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	if held, err := b.store.List(pod); err != nil || len(held) > 0 {
		t.Errorf("held: %v, %v", held, err)
	}
}

// damage alters a byte in the middle of each segment of a node.
func (n *node) damage(t testing.TB, key store.Key) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(n.dir, key.Namespace, key.PodUID, "segments", "*.seg"))
	check(t, err)
	for _, name := range segments {
		content, err := os.ReadFile(name)
		check(t, err)
		content[len(content)/2] ^= 1
		check(t, os.WriteFile(name, content, 0o600))
	}
}

func TestDamageIsMended(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	_, err := a.client.Replicate(t.Context(), b.address, pod, 1)
	check(t, err)

	mend := map[string]func() error{
		"by fetching again":   func() error { return b.client.Fetch(t.Context(), a.address, pod, 1) },
		"by copying it again": func() error { _, err := a.client.Replicate(t.Context(), b.address, pod, 1); return err },
	}
	for name, mend := range mend {
		t.Run(name, func(t *testing.T) {
			b.damage(t, pod)
			// Each look finds the first damaged segment; mending goes on from there.
			for attempt := 0; ; attempt++ {
				err := b.store.Verify(t.Context(), pod, 1)
				if err == nil {
					break
				}
				var damaged *store.Damaged
				if !errors.As(err, &damaged) || attempt > 20 {
					t.Fatalf("attempt %d: %v", attempt, err)
				}
				check(t, mend())
			}
			b.wantTree(t, 1, 1)
		})
	}
}

func TestFullHolderSaysSo(t *testing.T) {
	authority, keys := newAuthority(t), storetest.NewKeys()
	a := newNode(t, authority, keys, store.Options{})
	b := newNode(t, authority, keys, store.Options{MaxBytes: 1 << 20})
	a.seal(t, 1)
	if _, err := a.client.Replicate(t.Context(), b.address, pod, 1); !errors.Is(err, store.ErrBudget) {
		t.Errorf("a generation of 2 MB for a holder with 1 MB: %v", err)
	}
	if used := b.store.Used(); used > 1<<20 {
		t.Errorf("the holder uses %d bytes", used)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	keys := storetest.NewKeys()
	ours, theirs := newAuthority(t), newAuthority(t)
	a, stranger := newNode(t, ours, keys, store.Options{}), newNode(t, theirs, keys, store.Options{})
	a.seal(t, 1)
	for name, ask := range map[string]func(context.Context) error{
		"a client of another authority": func(ctx context.Context) error { return stranger.client.Fetch(ctx, a.address, pod, 1) },
		"a server of another authority": func(ctx context.Context) error {
			_, err := a.client.Replicate(ctx, stranger.address, pod, 1)
			return err
		},
		"a client without certificate": func(ctx context.Context) error {
			config, err := ours.ClientTLS("client")
			check(t, err)
			config.GetClientCertificate = nil
			c := transfer.NewClient(a.store, config)
			defer c.Close()
			_, err = c.Held(ctx, a.address, pod)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := ask(ctx); status.Code(err) != codes.Unavailable {
				t.Errorf("want Unavailable, got %v", err)
			}
		})
	}
	if pods, err := stranger.store.Pods(); err != nil || len(pods) > 0 {
		if segments, _ := stranger.store.Segments(pod); len(segments) > 0 {
			t.Errorf("the stranger got %v: %v", segments, err)
		}
	}
}

// A recovery asks all holders at once. Those that are gone must not hold it up.
func TestDeadPeerFailsFast(t *testing.T) {
	a, _ := newPair(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel connects, and nobody answers
	check(t, err)
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	closed.Close()
	for name, address := range map[string]string{"silent": silent.Addr().String(), "closed": closed.Addr().String()} {
		for range 3 {
			start := time.Now()
			if _, err := a.client.Held(t.Context(), address, pod); status.Code(err) != codes.Unavailable {
				t.Errorf("%s: want Unavailable, got %v", name, err)
			}
			if took := time.Since(start); took > 2*transfer.DialTimeout {
				t.Errorf("%s: it took %s to notice", name, took)
			}
		}
	}
}

func TestStalledFetchEnds(t *testing.T) {
	a, b := newPair(t)
	gen := a.seal(t, 1)
	b.client.SetPatience(300 * time.Millisecond)
	start := time.Now()
	if err := b.client.Fetch(t.Context(), proxy(t, a.address, holdertest.Silence, gen.NewBytes/2), pod, 1); !errors.Is(err, transfer.ErrStalled) {
		t.Errorf("want %v, got %v", transfer.ErrStalled, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s to notice", took)
	}
	b.client.SetPatience(10 * time.Second)
	check(t, b.client.Fetch(t.Context(), a.address, pod, 1))
	b.wantTree(t, 1, 1)
}

func TestServerRefusesWhatIsNoGeneration(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	files, err := a.store.Files(pod, 1)
	check(t, err)
	segment, manifest := files[0].GetName(), files[len(files)-1].GetName()
	content := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(a.dir, pod.Namespace, pod.PodUID, name))
		check(t, err)
		return data
	}
	peer, err := a.client.Dial(b.address)
	check(t, err)
	put := func(requests ...*peerv1.PutRequest) error {
		stream, err := peer.Put(t.Context())
		check(t, err)
		for _, r := range requests {
			if stream.Send(r) != nil {
				break // CloseAndRecv says why
			}
		}
		_, err = stream.CloseAndRecv()
		return err
	}
	ours, junk := podKey, bytes.Repeat([]byte{1}, 100)
	sized := func(name string, data []byte) *peerv1.PutRequest {
		return &peerv1.PutRequest{Pod: ours, Name: name, Size: int64(len(data)), Data: data}
	}
	otherPod := sized(manifest, content(manifest))
	otherPod.Pod = &peerv1.PodKey{Namespace: pod.Namespace, PodUid: "other"}
	other := "segments/" + strings.Repeat("ab", 16) + ".seg"
	for name, c := range map[string]struct {
		want     codes.Code
		requests []*peerv1.PutRequest
	}{
		"a path above":                 {codes.InvalidArgument, []*peerv1.PutRequest{sized("../../../../etc/passwd", junk)}},
		"a path through":               {codes.InvalidArgument, []*peerv1.PutRequest{sized("segments/../latest", junk)}},
		"an absolute path":             {codes.InvalidArgument, []*peerv1.PutRequest{sized("/etc/passwd", junk)}},
		"the pointer":                  {codes.InvalidArgument, []*peerv1.PutRequest{sized("latest", junk)}},
		"a temporary file":             {codes.InvalidArgument, []*peerv1.PutRequest{sized(segment+".tmp", junk)}},
		"a namespace above":            {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: &peerv1.PodKey{Namespace: "..", PodUid: "x"}, Name: segment, Size: 100, Data: junk}}},
		"a pod above":                  {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: &peerv1.PodKey{Namespace: "a", PodUid: "../x"}, Name: segment, Size: 100, Data: junk}}},
		"a piece without a file":       {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: ours, Data: junk}}},
		"more than was announced":      {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: ours, Name: segment, Size: 99, Data: junk}}},
		"less than was announced":      {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: ours, Name: segment, Size: 101, Data: junk}}},
		"a negative size":              {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: ours, Name: segment, Size: -1}}},
		"a file in a file":             {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: ours, Name: segment, Size: 101, Data: junk}, sized(segment, junk)}},
		"what is no segment":           {codes.InvalidArgument, []*peerv1.PutRequest{sized(segment, junk)}},
		"a segment of another name":    {codes.InvalidArgument, []*peerv1.PutRequest{sized(other, content(segment))}},
		"what is no manifest":          {codes.FailedPrecondition, []*peerv1.PutRequest{sized(manifest, junk)}},
		"a manifest of another number": {codes.FailedPrecondition, []*peerv1.PutRequest{sized("manifests/2.man", content(manifest))}},
		"a manifest of another pod":    {codes.FailedPrecondition, []*peerv1.PutRequest{otherPod}},
		"a manifest without segments":  {codes.FailedPrecondition, []*peerv1.PutRequest{sized(manifest, content(manifest))}},
		"a manifest with one segment":  {codes.FailedPrecondition, []*peerv1.PutRequest{sized(segment, content(segment)), sized(manifest, content(manifest))}},
		"an enormous manifest":         {codes.InvalidArgument, []*peerv1.PutRequest{{Pod: ours, Name: manifest, Size: 1 << 40, Data: junk}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := put(c.requests...); status.Code(err) != c.want {
				t.Errorf("want %s, got %v", c.want, err)
			}
		})
	}
	if held, err := b.store.List(pod); err != nil || len(held) > 0 {
		t.Errorf("held: %v, %v", held, err)
	}
	for name := range storetest.ReadTree(t, b.dir) {
		if strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, ".man") {
			t.Errorf("%s is left over", name)
		}
	}
	// None of it is in the way of the real one.
	_, err = a.client.Replicate(t.Context(), b.address, pod, 1)
	check(t, err)
	b.wantTree(t, 1, 1)
}

func TestUsedNumberIsNotReplaced(t *testing.T) {
	a, b := newPair(t)
	a.seal(t, 1)
	b.seal(t, 2)
	if _, err := a.client.Replicate(t.Context(), b.address, pod, 1); status.Code(err) != codes.AlreadyExists {
		t.Errorf("want AlreadyExists, got %v", err)
	}
	b.wantTree(t, 1, 2)
}
