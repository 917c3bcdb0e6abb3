package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// How long a peer may take before it counts as gone. None of them bounds a
// whole copy: that is the caller's context.
const (
	// dialTimeout bounds connection and handshake, within one cluster's network.
	dialTimeout = 500 * time.Millisecond
	// deadAfter is how long sent bytes may stay unacknowledged.
	deadAfter = 3 * time.Second
	// getStall bounds the time between two pieces of a generation that a
	// recovery waits for.
	getStall = 5 * time.Second
	// putStall bounds the time between two pieces that a holder takes: it
	// includes its fsync, which a busy disk makes slow.
	putStall = 60 * time.Second
)

// Client copies generations between its own store and those of other nodes. It
// keeps one connection to each of them.
type Client struct {
	store    *store.Store
	tls      *tls.Config
	getStall time.Duration
	putStall time.Duration

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// NewClient returns a client for the store. The configuration comes from
// identity.Authority.ClientTLS.
func NewClient(s *store.Store, config *tls.Config) *Client {
	return &Client{store: s, tls: config, getStall: getStall, putStall: putStall, conns: map[string]*grpc.ClientConn{}}
}

// Close closes all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for address, conn := range c.conns {
		errs = append(errs, conn.Close())
		delete(c.conns, address)
	}
	return errors.Join(errs...)
}

// peer returns the client of a node. Its calls fail at once while the node
// cannot be reached: they do not wait for it to come back.
func (c *Client) peer(address string) (peerv1.PeerClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.conns[address]
	if conn == nil {
		var err error
		// A dialer of our own, so that no proxy from the environment is used.
		conn, err = grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(credentials.NewTLS(c.tls)),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
			}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: dialTimeout},
				MinConnectTimeout: dialTimeout,
			}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: deadAfter, PermitWithoutStream: true}),
			grpc.WithInitialWindowSize(windowSize),
			grpc.WithInitialConnWindowSize(2*windowSize),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		)
		if err != nil {
			return nil, err
		}
		c.conns[address] = conn
	}
	return peerv1.NewPeerClient(conn), nil
}

// Held asks a node which generations of a pod it holds, newest first. What the
// protocol does not carry, as the node's facts, is empty.
func (c *Client) Held(ctx context.Context, address string, key store.Key) ([]store.Generation, error) {
	peer, err := c.peer(address)
	if err != nil {
		return nil, fmt.Errorf("ask %s what it holds of %s: %w", address, key, err)
	}
	response, err := peer.Held(ctx, &peerv1.HeldRequest{Pod: fromKey(key)})
	if err != nil {
		return nil, fmt.Errorf("ask %s what it holds of %s: %w", address, key, fromStatus(err))
	}
	var list []store.Generation
	for _, g := range response.GetGenerations() {
		list = append(list, toGeneration(g))
	}
	return list, nil
}

// Replicate copies a generation of the own store to another node, and returns
// how many bytes had to be sent. When it returns without an error, the
// generation is on the other node's stable storage. After an error, another call sends
// only what has not arrived. The error wraps store.ErrBudget when the other node
// has no room, and store.ErrNotFound when the own store has no such generation.
func (c *Client) Replicate(ctx context.Context, address string, key store.Key, number int64) (int64, error) {
	sent, err := c.replicate(ctx, address, key, number)
	if err != nil {
		return sent, fmt.Errorf("copy generation %d of %s to %s: %w", number, key, address, err)
	}
	return sent, nil
}

func (c *Client) replicate(ctx context.Context, address string, key store.Key, number int64) (sent int64, err error) {
	peer, err := c.peer(address)
	if err != nil {
		return 0, err
	}
	defer c.store.Hold(key, number)()
	files, err := c.store.Files(key, number)
	if err != nil {
		return 0, err
	}
	for attempt := 1; ; attempt++ {
		response, err := peer.Missing(ctx, &peerv1.MissingRequest{Pod: fromKey(key), Files: files})
		if err != nil {
			return sent, fromStatus(err)
		}
		missing := slices.DeleteFunc(slices.Clone(files), func(f *peerv1.File) bool {
			return !slices.Contains(response.GetNames(), f.GetName())
		})
		if len(missing) == 0 {
			return sent, nil
		}
		n, err := c.put(ctx, peer, key, missing)
		sent += n
		// Between the question and the manifest's arrival the other node may
		// have removed a segment that nothing referred to yet: ask once more.
		if status.Code(err) == codes.FailedPrecondition && attempt == 1 {
			continue
		}
		return sent, fromStatus(err)
	}
}

// put sends files, and waits until they are on stable storage.
func (c *Client) put(ctx context.Context, peer peerv1.PeerClient, key store.Key, files []*peerv1.File) (sent int64, err error) {
	watched, dog, stop := watch(ctx, c.putStall)
	defer stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(watched), errStalled) {
			err = errStalled
		}
	}()
	stream, err := peer.Put(watched)
	if err != nil {
		return 0, err
	}
	pod := fromKey(key)
	buf := make([]byte, pieceSize)
	for _, f := range files {
		err := sendFile(c.store, key, f, buf, func(name string, size int64, data []byte) error {
			err := stream.Send(&peerv1.PutRequest{Pod: pod, Name: name, Size: size, Data: data})
			pod = nil
			sent += int64(len(data))
			dog.progress()
			return err
		})
		if errors.Is(err, io.EOF) {
			break // the other node ended the stream, and CloseAndRecv says why
		}
		if err != nil {
			return sent, fmt.Errorf("send %s: %w", f.GetName(), err)
		}
	}
	_, err = stream.CloseAndRecv()
	return sent, err
}

// Fetch copies a generation from another node into the own store, unless it is
// there already. Segments in which Materialize found damage are fetched again.
// The error wraps store.ErrNotFound when the other node does not have it.
func (c *Client) Fetch(ctx context.Context, address string, key store.Key, number int64) error {
	if err := c.fetch(ctx, address, key, number); err != nil {
		return fmt.Errorf("fetch generation %d of %s from %s: %w", number, key, address, err)
	}
	return nil
}

func (c *Client) fetch(ctx context.Context, address string, key store.Key, number int64) error {
	if c.store.Complete(ctx, key, number) == nil {
		return nil
	}
	peer, err := c.peer(address)
	if err != nil {
		return err
	}
	have, err := c.store.Segments(key)
	if err != nil {
		return err
	}
	err = c.get(ctx, peer, key, number, have)
	var damaged *store.Damaged
	if errors.As(err, &damaged) && len(have) > 0 {
		// One of the segments that are here already is cut short.
		err = c.get(ctx, peer, key, number, nil)
	}
	return err
}

func (c *Client) get(ctx context.Context, peer peerv1.PeerClient, key store.Key, number int64, have []string) (err error) {
	imp, err := c.store.Import(key)
	if err != nil {
		return err
	}
	r := &receiver{imp: imp}
	defer r.close()
	watched, dog, stop := watch(ctx, c.getStall)
	defer stop()
	stream, err := peer.Get(watched, &peerv1.GetRequest{Pod: fromKey(key), Generation: number, Have: have})
	if err != nil {
		return fromStatus(err)
	}
	for {
		response, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && r.incoming != nil:
			return fmt.Errorf("the stream ended %d bytes before its file", r.left)
		case errors.Is(err, io.EOF):
			return c.store.Complete(ctx, key, number)
		case err != nil && errors.Is(context.Cause(watched), errStalled):
			return errStalled
		case err != nil:
			return fromStatus(err)
		}
		dog.pause()
		if err := r.piece(ctx, response.GetName(), response.GetSize(), response.GetData()); err != nil {
			return err
		}
		dog.progress()
	}
}
