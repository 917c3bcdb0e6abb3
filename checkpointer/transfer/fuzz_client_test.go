package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// impostor is a holder that answers whatever it was told to.
type impostor struct {
	peerv1.UnimplementedPeerServer
	address string

	mu      sync.Mutex
	held    *peerv1.HeldResponse
	missing *peerv1.MissingResponse
	get     []*peerv1.GetResponse
	open    *peerv1.OpenResponse
	read    []*peerv1.ReadResponse
	put     []*peerv1.PutRequest // what came
}

// newImpostor returns it, and a node that takes it for a holder.
func newImpostor(t testing.TB) (*impostor, *node) {
	t.Helper()
	authority := newAuthority(t)
	n := newNode(t, authority, fuzzKeys, store.Options{})
	n.client.SetPatience(5 * time.Second)
	serverTLS, err := authority.ServerTLS("server")
	check(t, err)
	i := &impostor{}
	server := grpc.NewServer(append(transfer.ServerOptions(), grpc.Creds(credentials.NewTLS(serverTLS)))...)
	peerv1.RegisterPeerServer(server, i)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	i.address = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return i, n
}

func (i *impostor) Held(_ context.Context, _ *peerv1.HeldRequest) (*peerv1.HeldResponse, error) {
	return i.held, nil
}

func (i *impostor) Missing(context.Context, *peerv1.MissingRequest) (*peerv1.MissingResponse, error) {
	return i.missing, nil
}

func (i *impostor) Put(stream grpc.ClientStreamingServer[peerv1.PutRequest, peerv1.PutResponse]) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&peerv1.PutResponse{})
		}
		if err != nil {
			return err
		}
		i.mu.Lock()
		i.put = append(i.put, request)
		i.mu.Unlock()
	}
}

func (i *impostor) Get(_ *peerv1.GetRequest, stream grpc.ServerStreamingServer[peerv1.GetResponse]) error {
	return sendAll(i.get, stream.Send)
}

func (i *impostor) Open(_ *peerv1.OpenRequest, stream grpc.ServerStreamingServer[peerv1.OpenResponse]) error {
	return stream.Send(i.open)
}

func (i *impostor) Read(_ *peerv1.ReadRequest, stream grpc.ServerStreamingServer[peerv1.ReadResponse]) error {
	return sendAll(i.read, stream.Send)
}

func sendAll[M any](messages []*M, send func(*M) error) error {
	for _, m := range messages {
		if err := send(m); err != nil {
			return err
		}
	}
	return nil
}

// delimited decodes messages that follow their lengths.
func delimited[M any, P interface {
	*M
	proto.Message
}](t *testing.T, data []byte) []P {
	var list []P
	for r := bytes.NewReader(data); r.Len() > 0; {
		m := P(new(M))
		if protodelim.UnmarshalFrom(r, m) != nil {
			t.Skip()
		}
		list = append(list, m)
	}
	return list
}

func delimit[M proto.Message](t testing.TB, list ...M) []byte {
	var buf bytes.Buffer
	for _, m := range list {
		_, err := protodelim.MarshalTo(&buf, m)
		check(t, err)
	}
	return buf.Bytes()
}

func FuzzHeldResponse(f *testing.F) {
	i, n := newImpostor(f)
	f.Add(encode(f, &peerv1.HeldResponse{Generations: []*peerv1.Generation{{Number: 1, Containers: []string{"c"}}, {Number: -1}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		i.held = decode[peerv1.HeldResponse](t, data)
		list, err := n.client.Held(t.Context(), i.address, pod)
		if err == nil && len(list) != len(i.held.GetGenerations()) {
			t.Errorf("of %d generations %d are held", len(i.held.GetGenerations()), len(list))
		}
	})
}

func FuzzMissingResponse(f *testing.F) {
	i, n := newImpostor(f)
	n.seal(f, 1)
	files, err := n.store.Files(pod, 1)
	check(f, err)
	name, size := files[0].GetName(), files[0].GetSize()
	f.Add(encode(f, &peerv1.MissingResponse{Names: []string{name, "../x"}, Partials: []*peerv1.Partial{{Name: name, Size: size / 2}}}))
	f.Add(encode(f, &peerv1.MissingResponse{Names: []string{name}, Partials: []*peerv1.Partial{{Name: name, Size: -1}, {Name: name, Size: 1 << 62}}}))
	sizes := map[string]int64{}
	for _, file := range files {
		sizes[file.GetName()] = file.GetSize()
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		i.missing, i.put = decode[peerv1.MissingResponse](t, data), nil
		sent, err := n.client.Replicate(t.Context(), i.address, pod, 1)
		if err != nil {
			return // it cannot be sent, as a name that is not UTF-8
		}
		var came, left int64
		for _, request := range i.put {
			if request.GetName() != "" {
				if left != 0 || request.GetSize() != sizes[request.GetName()] || request.GetOffset() < 0 || request.GetOffset() >= request.GetSize() {
					t.Fatalf("%d bytes before the end of the file before it: %s of %d bytes from %d on", left, request.GetName(), request.GetSize(), request.GetOffset())
				}
				left = request.GetSize() - request.GetOffset()
			}
			left -= int64(len(request.GetData()))
			came += int64(len(request.GetData()))
		}
		if left != 0 || came != sent {
			t.Errorf("%d bytes lack, and %d were sent, not %d", left, came, sent)
		}
	})
}

func FuzzGetResponses(f *testing.F) {
	i, n := newImpostor(f)
	source := newTarget(f)
	var whole []*peerv1.GetResponse
	for _, file := range source.files {
		data := storetest.ReadTree(f, source.dir)[filepath.Join(pod.Namespace, pod.PodUID, file.GetName())]
		whole = append(whole, &peerv1.GetResponse{Name: file.GetName(), Size: file.GetSize(), Data: []byte(data)})
	}
	f.Add(delimit(f, whole...))
	f.Add(delimit(f, whole[1:]...))
	f.Add(delimit(f, &peerv1.GetResponse{Name: whole[0].GetName(), Size: 1 << 62, Offset: 1 << 61, Data: []byte("a")}))
	f.Add(delimit(f, &peerv1.GetResponse{Name: "../../../x", Size: -1, Offset: -1}, &peerv1.GetResponse{Data: []byte("a")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		i.get = delimited[peerv1.GetResponse](t, data)
		err := n.client.Fetch(t.Context(), i.address, pod, 1)
		if err == nil {
			check(t, n.store.Complete(t.Context(), pod, 1))
		}
		check(t, n.store.Remove(pod))
		if used := n.store.Used(); used != 0 {
			t.Errorf("%d bytes are left over", used)
		}
	})
}

func FuzzOpenResponse(f *testing.F) {
	i, n := newImpostor(f)
	f.Add(encode(f, &peerv1.OpenResponse{Session: make([]byte, 16), Files: []*peerv1.File{{Name: "manifests/1.man", Size: 5}}}), delimit(f, &peerv1.ReadResponse{Data: []byte("hello")}))
	f.Add(encode(f, &peerv1.OpenResponse{Files: []*peerv1.File{{Size: 1 << 62}}}), []byte{})
	f.Add(encode(f, &peerv1.OpenResponse{}), delimit(f, &peerv1.ReadResponse{}, &peerv1.ReadResponse{Data: []byte("he")}, &peerv1.ReadResponse{Data: []byte("llo")}))
	f.Fuzz(func(t *testing.T, open, read []byte) {
		i.open, i.read = decode[peerv1.OpenResponse](t, open), delimited[peerv1.ReadResponse](t, read)
		from, err := n.client.Holder("impostor", i.address).Segments(t.Context(), pod, 1)
		if err != nil {
			return
		}
		defer from.Close()
		var want []byte
		for _, r := range i.read {
			want = append(want, r.GetData()...)
		}
		if manifest, err := from.Manifest(t.Context()); err == nil && !bytes.Equal(manifest, want) {
			t.Error("the manifest is not what came")
		}
		buf := make([]byte, 5)
		if err := from.ReadAt(t.Context(), "segments/x.seg", buf, 0); (err == nil) != (len(want) == 5) || (err == nil && !bytes.Equal(buf, want)) {
			t.Errorf("%q came, and %q was read: %v", want, buf, err)
		}
	})
}
