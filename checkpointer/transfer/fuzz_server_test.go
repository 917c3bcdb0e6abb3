package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// stream is the server's end of a call whose messages are all there.
type stream[In, Out any] struct {
	grpc.ServerStream
	ctx  context.Context
	in   []*In
	sent []*Out
}

func (s *stream[In, Out]) Context() context.Context { return s.ctx }

func (s *stream[In, Out]) Recv() (*In, error) {
	if len(s.in) == 0 {
		return nil, io.EOF
	}
	next := s.in[0]
	s.in = s.in[1:]
	return next, nil
}

func (s *stream[In, Out]) Send(m *Out) error {
	s.sent = append(s.sent, m)
	return nil
}

func (s *stream[In, Out]) SendAndClose(m *Out) error { return s.Send(m) }

// target is a server of a store with one small generation.
type target struct {
	*transfer.Server
	store *store.Store
	dir   string
	files []*peerv1.File
}

func newTarget(t testing.TB) *target {
	t.Helper()
	parent := t.TempDir()
	n := &target{dir: filepath.Join(parent, "store")}
	var err error
	n.store, err = store.Open(n.dir, fuzzKeys, store.Options{MaxBytes: 1 << 20})
	check(t, err)
	t.Cleanup(func() { n.store.Close() })
	_, err = n.store.Seal(t.Context(), pod, store.Generation{}, storetest.Tree{"file": string(storetest.Pages(1, 20))}.Write(t), nil)
	check(t, err)
	n.files, err = n.store.Files(pod, 1)
	check(t, err)
	n.Server = transfer.NewServer(n.store)
	return n
}

var fuzzKeys = storetest.NewKeys()

var storedForm = regexp.MustCompile(`^(\.|lock|[a-z0-9-]+(/[A-Za-z0-9-]+(/(latest|manifests|segments|manifests/[0-9]+\.man|segments/[0-9a-f]{32}\.seg(\.partial)?))?)?)$`)

// check wants an answer that the asker can make sense of, and the store as it was
// but for files that may be there.
func (n *target) check(t *testing.T, err error) {
	t.Helper()
	expected := []codes.Code{codes.OK, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.ResourceExhausted, codes.AlreadyExists, codes.Aborted}
	if code := status.Code(err); !slices.Contains(expected, code) && !errors.Is(err, io.EOF) {
		t.Errorf("%s: %v", code, err)
	}
	check(t, n.store.Verify(t.Context(), pod, 1))
	beside, err := os.ReadDir(filepath.Dir(n.dir))
	check(t, err)
	if len(beside) != 1 {
		t.Fatalf("there are files beside the store: %v", beside)
	}
	check(t, fs.WalkDir(os.DirFS(n.dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil && !storedForm.MatchString(name) {
			t.Errorf("%q is in the store", name)
		}
		return err
	}))
	if used := n.store.Used(); used < 0 || used > 1<<20 {
		t.Errorf("the store says that it uses %d bytes of %d", used, 1<<20)
	}
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	check(t, err)
	return data
}

// decode skips inputs that are no message: gRPC answers those itself.
func decode[M any, P interface {
	*M
	proto.Message
}](t *testing.T, data []byte) P {
	m := P(new(M))
	if proto.Unmarshal(data, m) != nil {
		t.Skip()
	}
	return m
}

func FuzzHeldRequest(f *testing.F) {
	n := newTarget(f)
	f.Add(encode(f, &peerv1.HeldRequest{Pod: podKey}))
	f.Add(encode(f, &peerv1.HeldRequest{Pod: &peerv1.PodKey{Namespace: "..", PodUid: "../x"}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := n.Held(t.Context(), decode[peerv1.HeldRequest](t, data))
		n.check(t, err)
	})
}

func FuzzMissingRequest(f *testing.F) {
	n := newTarget(f)
	f.Add(encode(f, &peerv1.MissingRequest{Pod: podKey, Files: n.files}))
	f.Add(encode(f, &peerv1.MissingRequest{Pod: podKey, Files: []*peerv1.File{{Name: "manifests/9223372036854775807.man", Size: -1}, {Name: "../x"}, nil}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		request := decode[peerv1.MissingRequest](t, data)
		response, err := n.Missing(t.Context(), request)
		n.check(t, err)
		for _, name := range response.GetNames() {
			if !slices.ContainsFunc(request.GetFiles(), func(f *peerv1.File) bool { return f.GetName() == name }) {
				t.Errorf("%q is missing, and nobody asked for it", name)
			}
		}
	})
}

func FuzzPutRequests(f *testing.F) {
	n := newTarget(f)
	content := func(file *peerv1.File) []byte {
		data, err := os.ReadFile(filepath.Join(n.dir, pod.Namespace, pod.PodUID, file.GetName()))
		check(f, err)
		return data
	}
	add := func(requests ...*peerv1.PutRequest) {
		var buf bytes.Buffer
		for _, r := range requests {
			_, err := protodelim.MarshalTo(&buf, r)
			check(f, err)
		}
		f.Add(buf.Bytes())
	}
	segment, manifest := content(n.files[0]), content(n.files[1])
	other := &peerv1.PodKey{Namespace: "shop", PodUid: "other"}
	size, half := int64(len(segment)), int64(len(segment)-10_000)
	add(&peerv1.PutRequest{Pod: podKey, Name: n.files[0].GetName(), Size: size, Data: segment}, &peerv1.PutRequest{Name: n.files[1].GetName(), Size: int64(len(manifest)), Data: manifest})
	add(&peerv1.PutRequest{Pod: other, Name: n.files[0].GetName(), Size: size, Data: segment[:half]}, &peerv1.PutRequest{Data: segment[half:]})
	add(&peerv1.PutRequest{Pod: other, Name: n.files[0].GetName(), Size: size, Data: segment[:half]})
	add(&peerv1.PutRequest{Pod: other, Name: n.files[0].GetName(), Size: size, Offset: half, Hash: make([]byte, 32), Data: segment[half:]})
	add(&peerv1.PutRequest{Pod: other, Name: "manifests/1.man", Size: 1 << 62, Offset: -1, Data: manifest})
	f.Fuzz(func(t *testing.T, data []byte) {
		n := newTarget(t)
		requests := &stream[peerv1.PutRequest, peerv1.PutResponse]{ctx: t.Context()}
		for r := bytes.NewReader(data); r.Len() > 0; {
			m := &peerv1.PutRequest{}
			if protodelim.UnmarshalFrom(r, m) != nil {
				t.Skip()
			}
			requests.in = append(requests.in, m)
		}
		n.check(t, n.Put(requests))
	})
}

func FuzzGetRequest(f *testing.F) {
	n := newTarget(f)
	name, size := n.files[0].GetName(), n.files[0].GetSize()
	hash, err := n.store.HashSegment(f.Context(), pod, name, size-1)
	check(f, err)
	f.Add(encode(f, &peerv1.GetRequest{Pod: podKey, Generation: 1, Have: []string{name}}))
	f.Add(encode(f, &peerv1.GetRequest{Pod: podKey, Generation: 1, Partials: []*peerv1.Partial{{Name: name, Size: size - 1, Hash: hash}}}))
	f.Add(encode(f, &peerv1.GetRequest{Pod: podKey, Generation: -1, Partials: []*peerv1.Partial{{Name: name, Size: 1 << 62}, nil, {Name: "../x", Size: -1}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		responses := &stream[peerv1.GetRequest, peerv1.GetResponse]{ctx: t.Context()}
		n.check(t, n.Get(decode[peerv1.GetRequest](t, data), responses))
	})
}

func FuzzOpenRequest(f *testing.F) {
	n := newTarget(f)
	f.Add(encode(f, &peerv1.OpenRequest{Pod: podKey, Generation: 1}))
	f.Add(encode(f, &peerv1.OpenRequest{Pod: podKey, Generation: -1 << 63}))
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it ends once it has answered
		responses := &stream[peerv1.OpenRequest, peerv1.OpenResponse]{ctx: ctx}
		err := n.Open(decode[peerv1.OpenRequest](t, data), responses)
		if len(responses.sent) == 1 && status.Code(err) == codes.Canceled {
			err = nil
		}
		n.check(t, err)
		if n.Sessions() > 0 {
			t.Error("the session is still open")
		}
	})
}

func FuzzReadRequest(f *testing.F) {
	n := newTarget(f)
	opened := &opener{stream: stream[peerv1.OpenRequest, peerv1.OpenResponse]{ctx: f.Context()}, answer: make(chan *peerv1.OpenResponse, 1)}
	go n.Open(&peerv1.OpenRequest{Pod: podKey, Generation: 1}, opened)
	session := (<-opened.answer).GetSession()
	name, size := n.files[0].GetName(), n.files[0].GetSize()
	f.Add(true, session, name, int64(0), size)
	f.Add(true, session, name, size-1, int64(1))
	f.Add(true, session, name, int64(1<<63-1), int64(1<<63-1))
	f.Add(true, session, "../../lock", int64(0), int64(1))
	f.Add(false, []byte("another session "), name, int64(-1), int64(-1))
	f.Fuzz(func(t *testing.T, known bool, id []byte, name string, offset, length int64) {
		if known {
			id = session
		}
		responses := &stream[peerv1.ReadRequest, peerv1.ReadResponse]{ctx: t.Context()}
		err := n.Read(&peerv1.ReadRequest{Session: id, Name: name, Offset: offset, Length: length}, responses)
		n.check(t, err)
		var got int64
		for _, r := range responses.sent {
			got += int64(len(r.GetData()))
		}
		if err == nil && got != length || err != nil && got != 0 {
			t.Errorf("%d bytes came in place of %d: %v", got, length, err)
		}
	})
}

// opener passes on what a call to Open is answered with.
type opener struct {
	stream[peerv1.OpenRequest, peerv1.OpenResponse]
	answer chan *peerv1.OpenResponse
}

func (o *opener) Send(m *peerv1.OpenResponse) error {
	o.answer <- m
	return nil
}
