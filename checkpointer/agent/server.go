package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// serveRuntime answers the node's runtime on a UNIX socket that only root can
// open, until ctx ends.
func (a *Agent) serveRuntime(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the earlier socket: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen for the runtime: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("protect the runtime's socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return ended(ctx, "runtime server", err)
		}
		go a.answer(ctx, conn)
	}
}

// answer answers the one request of a connection.
func (a *Agent) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	var req client.Request
	if err := json.NewDecoder(conn).Decode(&req); err != nil {
		a.log.Warn("request of the runtime is unreadable", "err", err)
		return
	}
	var resp client.Response
	switch {
	case req.Create != nil:
		created := a.create(ctx, *req.Create, closed(conn))
		resp.Create = &created
	case req.Report != nil:
		a.reported(ctx, *req.Report)
	default:
		resp.Error = "the request is empty; runtime and checkpointer are of different versions"
	}
	if err := json.NewEncoder(conn).Encode(resp); err != nil {
		a.log.Warn("answer to the runtime was not taken", "err", err)
	}
}

// closed returns what is closed when the other end of a connection, on which nothing
// more is to come, is gone, or this end was closed.
func closed(conn net.Conn) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	}()
	return gone
}
