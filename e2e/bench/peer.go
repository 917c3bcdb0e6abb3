package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"k8s.io/client-go/kubernetes/fake"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// peer is what a node has of a checkpointer: a store on its disk, its server, and
// its client. Peers talk over loopback, with the TLS of real ones.
type peer struct {
	name    string
	dir     string
	store   *store.Store
	client  *transfer.Client
	address string
	server  *grpc.Server
	served  chan error
}

// peers makes peers of one cluster.
type peers struct {
	folder    string
	authority *identity.Authority
	log       *slog.Logger
}

func newPeers(ctx context.Context, folder string, log *slog.Logger) (*peers, error) {
	authority, err := identity.Ensure(ctx, fake.NewClientset(), "lifeboat-system")
	if err != nil {
		return nil, err
	}
	return &peers{folder: folder, authority: authority, log: log}, nil
}

// add starts a peer with an empty store.
func (p *peers) add(ctx context.Context, name string) (_ *peer, err error) {
	n := &peer{name: name, dir: filepath.Join(p.folder, name), served: make(chan error, 1)}
	if err := os.RemoveAll(n.dir); err != nil {
		return nil, err
	}
	if n.store, err = store.Open(n.dir, oneKey{}, store.Options{Logger: p.log}); err != nil {
		return nil, err
	}
	serverTLS, err := p.authority.ServerTLS(name)
	if err != nil {
		return nil, err
	}
	clientTLS, err := p.authority.ClientTLS(name)
	if err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.address = listener.Addr().String()
	n.client = transfer.NewClient(n.store, clientTLS)
	n.server = grpc.NewServer(append(transfer.ServerOptions(), grpc.Creds(credentials.NewTLS(serverTLS)))...)
	peerv1.RegisterPeerServer(n.server, transfer.NewServer(n.store))
	go func() { n.served <- n.server.Serve(listener) }()
	return n, nil
}

// close ends the peer, and removes its store.
func (n *peer) close() error {
	err := n.client.Close()
	n.server.Stop()
	return errors.Join(err, <-n.served, n.store.Close(), os.RemoveAll(n.dir))
}

// oneKey is the key of every namespace.
type oneKey struct{}

const oneKeyID = "bench"

func (oneKey) Key(context.Context, string) (string, [32]byte, error) {
	return oneKeyID, [32]byte{1, 2, 3}, nil
}

func (k oneKey) KeyByID(ctx context.Context, namespace, id string) (key [32]byte, err error) {
	if id != oneKeyID {
		return key, fmt.Errorf("key %q: %w", id, fs.ErrNotExist)
	}
	_, key, err = k.Key(ctx, namespace)
	return key, err
}
