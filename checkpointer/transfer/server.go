package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	store *store.Store
}

var _ peerv1.PeerServer = (*Server)(nil)

// NewServer returns a server of the store's files.
func NewServer(s *store.Store) *Server { return &Server{store: s} }

// ServerOptions are the options, beside credentials, of a gRPC server with a Server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(windowSize),
		grpc.InitialConnWindowSize(2 * windowSize),
		grpc.MaxConcurrentStreams(64),
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
	names, err := s.store.Missing(key, req.GetFiles())
	if err != nil {
		return nil, toStatus(err)
	}
	return &peerv1.MissingResponse{Names: names}, nil
}

// Put receives files.
func (s *Server) Put(stream grpc.ClientStreamingServer[peerv1.PutRequest, peerv1.PutResponse]) error {
	received, err := s.put(stream)
	if err != nil {
		return toStatus(err)
	}
	return stream.SendAndClose(&peerv1.PutResponse{Bytes: received})
}

func (s *Server) put(stream grpc.ClientStreamingServer[peerv1.PutRequest, peerv1.PutResponse]) (int64, error) {
	req, err := stream.Recv()
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
		if err := r.piece(stream.Context(), req.GetName(), req.GetSize(), req.GetData()); err != nil {
			return 0, err
		}
		if req, err = stream.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return 0, err
		}
	}
	if r.incoming != nil {
		return 0, status.Errorf(codes.InvalidArgument, "the stream ended %d bytes before its file", r.left)
	}
	return r.received, nil
}

// Get sends the files of a generation that the asker lacks.
func (s *Server) Get(req *peerv1.GetRequest, stream grpc.ServerStreamingServer[peerv1.GetResponse]) error {
	key, err := toKey(req.GetPod())
	if err != nil {
		return toStatus(err)
	}
	defer s.store.Hold(key, req.GetGeneration())()
	files, err := s.store.Files(key, req.GetGeneration())
	if err != nil {
		return toStatus(err)
	}
	have := map[string]bool{}
	for _, name := range req.GetHave() {
		have[name] = true
	}
	buf := make([]byte, pieceSize)
	for _, f := range files {
		if have[f.GetName()] {
			continue
		}
		err := sendFile(s.store, key, f, buf, func(name string, size int64, data []byte) error {
			return stream.Send(&peerv1.GetResponse{Name: name, Size: size, Data: data})
		})
		if err != nil {
			return toStatus(fmt.Errorf("send %s of %s: %w", f.GetName(), key, err))
		}
	}
	return nil
}
