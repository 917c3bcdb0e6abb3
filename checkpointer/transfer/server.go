package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Server gives other nodes access to a store. Whoever reaches it has a
// certificate of the cluster's authority: the gRPC server must be made with
// ServerOptions and credentials from identity.
type Server struct {
	peerv1.UnimplementedPeerServer
	store    *store.Store
	sessions sessions
	// sessionIdle is how long a session lasts in which nothing is read.
	sessionIdle time.Duration
	// callIdle is how long an asker may do nothing in another call.
	callIdle time.Duration
	// moved is whether a pod's history goes on elsewhere.
	moved func(store.Key) bool
	// export hands over the state of applications; nil where nothing does.
	export Export
}

var _ peerv1.PeerServer = (*Server)(nil)

// callIdle is more than any client of ours takes between two pieces.
const callIdle = 2 * time.Minute

// ServerOption changes what NewServer returns.
type ServerOption func(*Server)

// RefuseMoved refuses, with ErrMoved, to take anything of a pod for which moved is
// true: an old copy must not add to the history that the pod's successor goes on with.
func RefuseMoved(moved func(store.Key) bool) ServerOption {
	return func(s *Server) { s.moved = moved }
}

// NewServer returns a server of the store's files.
func NewServer(s *store.Store, options ...ServerOption) *Server {
	server := &Server{
		store: s, sessions: sessions{open: map[sessionID]*session{}}, sessionIdle: sessionIdle, callIdle: callIdle,
		moved: func(store.Key) bool { return false },
	}
	for _, option := range options {
		option(server)
	}
	return server
}

// takes returns ErrMoved when nothing more of a pod is taken.
func (s *Server) takes(key store.Key) error {
	if s.moved(key) {
		return fmt.Errorf("take files of %s: %w", key, ErrMoved)
	}
	return nil
}

// ServerOptions are the options, beside credentials, of a gRPC server with a Server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(windowSize),
		grpc.InitialConnWindowSize(2 * windowSize),
		grpc.MaxConcurrentStreams(maxStreams),
		// A peer that lost its power takes its half-received files with it.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Held lists the generations that the store holds of a pod.
func (s *Server) Held(_ context.Context, req *peerv1.HeldRequest) (*peerv1.HeldResponse, error) {
	key, err := toKey(req.GetPod())
	if err != nil {
		return nil, toStatus(err)
	}
	list, err := s.store.List(key)
	if err != nil {
		return nil, toStatus(err)
	}
	response := &peerv1.HeldResponse{}
	for _, g := range list {
		response.Generations = append(response.Generations, fromGeneration(g))
	}
	return response, nil
}

// Missing answers which files the store lacks.
func (s *Server) Missing(_ context.Context, req *peerv1.MissingRequest) (*peerv1.MissingResponse, error) {
	key, err := toKey(req.GetPod())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.takes(key); err != nil {
		return nil, toStatus(err)
	}
	names, err := s.store.Missing(key, req.GetFiles())
	if err != nil {
		return nil, toStatus(err)
	}
	partials, err := s.store.Partials(key)
	if err != nil {
		return nil, toStatus(err)
	}
	response := &peerv1.MissingResponse{Names: names}
	for _, p := range partials {
		if slices.Contains(names, p.Name) {
			response.Partials = append(response.Partials, &peerv1.Partial{Name: p.Name, Size: p.Size})
		}
	}
	return response, nil
}

// guard runs a call, and ends it when the asker does nothing for a while. That
// it is there, and no more, is what the pings of its connection show.
func (s *Server) guard(ctx context.Context, call func(ctx context.Context, dog *watchdog) error) error {
	watched, dog, stop := watch(ctx, s.callIdle)
	dog.pause()
	done := make(chan error, 1)
	go func() {
		defer stop()
		done <- call(watched, dog)
	}()
	select {
	case err := <-done:
		return toStatus(err)
	case <-watched.Done():
		if errors.Is(context.Cause(watched), ErrStalled) {
			// What the call waits for ends with the stream, when this returns.
			return status.Errorf(codes.DeadlineExceeded, "nothing arrived or was taken for %s", s.callIdle)
		}
		return toStatus(<-done)
	}
}

// Put receives files.
func (s *Server) Put(stream grpc.ClientStreamingServer[peerv1.PutRequest, peerv1.PutResponse]) error {
	return s.guard(stream.Context(), func(ctx context.Context, dog *watchdog) error {
		received, err := s.put(ctx, dog, stream)
		if err != nil {
			return err
		}
		return stream.SendAndClose(&peerv1.PutResponse{Bytes: received})
	})
}

func (s *Server) put(ctx context.Context, dog *watchdog, stream grpc.ClientStreamingServer[peerv1.PutRequest, peerv1.PutResponse]) (int64, error) {
	receive := func() (*peerv1.PutRequest, error) {
		dog.progress()
		defer dog.pause()
		return stream.Recv()
	}
	req, err := receive()
	if err != nil {
		return 0, err
	}
	key, err := toKey(req.GetPod())
	if err != nil {
		return 0, err
	}
	imp, err := s.store.Import(key)
	if err != nil {
		return 0, err
	}
	r := &receiver{imp: imp}
	defer r.close()
	for {
		if req.GetName() != "" {
			// Before each file: the last one, the manifest, makes the generation.
			if err := s.takes(key); err != nil {
				return 0, err
			}
		}
		next := piece{name: req.GetName(), size: req.GetSize(), offset: req.GetOffset(), hash: req.GetHash(), data: req.GetData()}
		if err := r.piece(ctx, next); err != nil {
			return 0, err
		}
		if req, err = receive(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return 0, err
		}
	}
	if err := r.end(); err != nil {
		return 0, err
	}
	return r.received, nil
}

// Get sends the files of a generation that the asker lacks.
func (s *Server) Get(req *peerv1.GetRequest, stream grpc.ServerStreamingServer[peerv1.GetResponse]) error {
	key, err := toKey(req.GetPod())
	if err != nil {
		return toStatus(err)
	}
	return s.guard(stream.Context(), func(ctx context.Context, dog *watchdog) error { return s.get(ctx, dog, key, req, stream) })
}

func (s *Server) get(ctx context.Context, dog *watchdog, key store.Key, req *peerv1.GetRequest, stream grpc.ServerStreamingServer[peerv1.GetResponse]) error {
	defer s.store.Hold(key, req.GetGeneration())()
	files, err := s.store.Files(key, req.GetGeneration())
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, name := range req.GetHave() {
		have[name] = true
	}
	partials := map[string]*peerv1.Partial{}
	for _, p := range req.GetPartials() {
		partials[p.GetName()] = p
	}
	buf := make([]byte, pieceSize)
	for _, f := range files {
		if have[f.GetName()] {
			continue
		}
		offset, err := s.common(ctx, key, f, partials[f.GetName()])
		if err == nil {
			err = sendFile(s.store, key, f, offset, nil, buf, func(next piece) error {
				dog.progress()
				defer dog.pause()
				return stream.Send(&peerv1.GetResponse{Name: next.name, Size: next.size, Offset: next.offset, Data: next.data})
			})
		}
		if err != nil {
			return fmt.Errorf("send %s of %s: %w", f.GetName(), key, err)
		}
	}
	return nil
}

// common returns how many bytes of a file the asker has: those of its partial,
// when the file begins with them.
func (s *Server) common(ctx context.Context, key store.Key, f *peerv1.File, p *peerv1.Partial) (int64, error) {
	if p.GetSize() <= 0 || p.GetSize() >= f.GetSize() {
		return 0, nil
	}
	hash, err := s.store.HashSegment(ctx, key, f.GetName(), p.GetSize())
	if err != nil || !bytes.Equal(hash, p.GetHash()) {
		return 0, err
	}
	return p.GetSize(), nil
}
