package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"lukechampine.com/blake3"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// hashSize is the size of the BLAKE3 hash at the end of an exported state.
const hashSize = 32

// Export writes the state that the application in a pod hands over into a writer, if
// the Migration of that name moves it to the node that asks. It returns when all of
// the state is written.
type Export func(ctx context.Context, pod store.Key, migration, asker string, into io.Writer) error

// WithExport answers with what export writes. Without it nothing is handed over.
func WithExport(export Export) ServerOption { return func(s *Server) { s.export = export } }

// Export streams the state of an application.
func (s *Server) Export(req *peerv1.ExportRequest, stream grpc.ServerStreamingServer[peerv1.ExportResponse]) error {
	key, err := toKey(req.GetPod())
	if err != nil {
		return toStatus(err)
	}
	if s.export == nil {
		return status.Error(codes.Unimplemented, "this node hands over no state of applications")
	}
	asker, err := askerOf(stream.Context())
	if err != nil {
		return err
	}
	hasher := blake3.New(hashSize, nil)
	pieces := sender(func(data []byte) error { return stream.Send(&peerv1.ExportResponse{Data: data}) })
	if err := s.export(stream.Context(), key, req.GetMigration(), asker, io.MultiWriter(hasher, pieces)); err != nil {
		return toStatus(err)
	}
	return stream.Send(&peerv1.ExportResponse{Hash: hasher.Sum(nil)})
}

// askerOf is the name of the node in the certificate of whoever calls.
func askerOf(ctx context.Context) (string, error) {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			return info.State.PeerCertificates[0].Subject.CommonName, nil
		}
	}
	return "", status.Error(codes.Unauthenticated, "who asks for the state of an application must show a certificate")
}

// sender is a writer that sends pieces.
type sender func([]byte) error

func (s sender) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		piece := p[sent:min(len(p), sent+pieceSize)]
		if err := s(piece); err != nil {
			return sent, err
		}
		sent += len(piece)
	}
	return len(p), nil
}

// Handover is the state of an application on its way. Read returns io.EOF only when
// all of it has come.
type Handover struct {
	stream grpc.ServerStreamingClient[peerv1.ExportResponse]
	stop   context.CancelFunc
	hasher *blake3.Hasher
	rest   []byte
	bytes  int64
	ended  error
}

// Export asks the node with that address for the state of a pod's application.
// The caller closes the Handover. An error of the application comes with its first Read.
func (c *Client) Export(ctx context.Context, address string, pod store.Key, migration string) (*Handover, error) {
	remote, err := c.dial(address, bulk)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	stream, err := remote.Export(ctx, &peerv1.ExportRequest{Pod: fromKey(pod), Migration: migration})
	if err != nil {
		stop()
		return nil, fromStatus(err)
	}
	return &Handover{stream: stream, stop: stop, hasher: blake3.New(hashSize, nil)}, nil
}

// Read implements io.Reader.
func (h *Handover) Read(p []byte) (int, error) {
	for len(h.rest) == 0 && h.ended == nil {
		h.ended = h.next()
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, h.ended
}

// next receives a piece, and returns io.EOF after the last one.
func (h *Handover) next() error {
	response, err := h.stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the state broke off after %d bytes: %w", h.bytes, io.ErrUnexpectedEOF)
	case err != nil:
		return fmt.Errorf("after %d bytes of the state: %w", h.bytes, fromStatus(err))
	case len(response.GetHash()) > 0:
		if !bytes.Equal(response.GetHash(), h.hasher.Sum(nil)) {
			return fmt.Errorf("the state was damaged on its way: its %d bytes have another hash than they had", h.bytes)
		}
		return io.EOF
	}
	h.rest = response.GetData()
	h.bytes += int64(len(h.rest))
	_, _ = h.hasher.Write(h.rest) // it never fails
	return nil
}

// Bytes is how much has come.
func (h *Handover) Bytes() int64 { return h.bytes }

// Close ends the handover, wherever it is.
func (h *Handover) Close() error {
	h.stop()
	return nil
}
