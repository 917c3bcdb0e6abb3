package transfer

import (
	"context"
	"time"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Limits of time that tests shorten.

// SetPatience lets a client take its peers for stalled after that long.
func (c *Client) SetPatience(d time.Duration) { c.patience = patience{d, d, d, d} }

// SetSessionIdle is how long a session may last without a read.
func (s *Server) SetSessionIdle(d time.Duration) { s.sessionIdle = d }

// SetCallIdle is how long an asker may do nothing in a call.
func (s *Server) SetCallIdle(d time.Duration) { s.callIdle = d }

// Sessions is how many generations are open.
func (s *Server) Sessions() int {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	return len(s.sessions.open)
}

// MaxSessions is how many generations may be open at once.
const MaxSessions = maxSessions

// DialTimeout bounds connection and handshake.
const DialTimeout = dialTimeout

// Dial returns the bare protocol.
func (c *Client) Dial(address string) (peerv1.PeerClient, error) { return c.dial(address, bulk) }

// What tests ask of a node whose name does not matter.

// Held asks a node which generations of a pod it holds, as Holder.Held.
func (c *Client) Held(ctx context.Context, address string, key store.Key) ([]store.Generation, error) {
	return c.Holder(address, address).Held(ctx, key)
}

// Replicate copies a generation of the own store to a node, as Holder.Replicate.
func (c *Client) Replicate(ctx context.Context, address string, key store.Key, number int64) (int64, error) {
	return c.Holder(address, address).Replicate(ctx, key, number)
}

// Fetch copies a generation from a node into the own store, as Holder.Fetch.
func (c *Client) Fetch(ctx context.Context, address string, key store.Key, number int64) error {
	return c.Holder(address, address).Fetch(ctx, key, number)
}
