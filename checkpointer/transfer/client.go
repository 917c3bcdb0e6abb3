package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// dialTimeout bounds connection and handshake, within one cluster's network.
	dialTimeout = 500 * time.Millisecond
	// deadAfter is how long sent bytes may stay unacknowledged.
	deadAfter = 3 * time.Second
)

// patience is how long a peer may make no progress before it counts as stalled.
// None of them bounds a whole copy: that is the caller's context.
type patience struct {
	// ask bounds a question that a recovery waits for.
	ask time.Duration
	// get bounds the time between two pieces of a file that a recovery waits for.
	get time.Duration
	// put bounds the time between two pieces that a holder takes, and a question
	// ahead of them: it includes the holder's fsync, which a busy disk makes slow.
	put time.Duration
	// read bounds a small read, which a process that runs already waits for.
	read time.Duration
}

var defaultPatience = patience{ask: 5 * time.Second, get: 5 * time.Second, put: 60 * time.Second, read: 2 * time.Second}

// Client reaches the stores of other nodes, as holders of what its own store has.
// It keeps two connections to each of them.
type Client struct {
	store    *store.Store
	tls      *tls.Config
	limiter  *Limiter
	patience patience

	mu    sync.Mutex
	conns map[route]*grpc.ClientConn
}

// route is one of the connections to a node. What is small and waited for has a
// connection of its own: in the other one it would queue behind megabytes that
// are in the buffers of both ends already.
type route struct {
	address string
	lane    lane
}

type lane int

const (
	urgent lane = iota
	bulk
)

// Option changes what NewClient returns.
type Option func(*Client)

// WithLimiter bounds how fast Replicate sends. Fetch and Segments are never bounded.
func WithLimiter(limiter *Limiter) Option { return func(c *Client) { c.limiter = limiter } }

// NewClient returns a client for the store. The configuration comes from
// identity.Authority.ClientTLS.
func NewClient(s *store.Store, config *tls.Config, options ...Option) *Client {
	c := &Client{store: s, tls: config, patience: defaultPatience, conns: map[route]*grpc.ClientConn{}}
	for _, option := range options {
		option(c)
	}
	return c
}

// Holder returns the node with that name, whose server listens on the address,
// as a holder. No connection is made before its first use.
func (c *Client) Holder(name, address string) Holder { return &peer{c, name, address} }

// Close closes all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for route, conn := range c.conns {
		errs = append(errs, conn.Close())
		delete(c.conns, route)
	}
	return errors.Join(errs...)
}

// dial returns the client of a node. Its calls fail at once while the node
// cannot be reached: they do not wait for it to come back.
func (c *Client) dial(address string, lane lane) (peerv1.PeerClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.conns[route{address, lane}]
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
		c.conns[route{address, lane}] = conn
	}
	return peerv1.NewPeerClient(conn), nil
}
