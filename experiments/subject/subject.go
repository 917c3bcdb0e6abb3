// Package subject has the applications of the experiments as Kubernetes objects, and
// clients that work with them.
package subject

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/experiments/load"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// Client works with one application, from outside the cluster's nodes.
type Client interface {
	load.Service
	// Prepare brings the application's memory to its size, where the application does
	// not do that by itself.
	Prepare(ctx context.Context) error
	// Rewrite rewrites 10 % of the memory a second until ctx ends, where the application
	// does not do that by itself. It goes on after errors.
	Rewrite(ctx context.Context)
	// Counts are what the application has counted for each key.
	Counts(ctx context.Context) (map[string]int, error)
	// Rewritten is how many bytes of the memory were rewritten by now.
	Rewritten(ctx context.Context) (int64, error)
	// Check looks at all memory, and returns how many pages are missing, or do not hold
	// what they must.
	Check(ctx context.Context) (wrong int, err error)
	// Close ends the client's connections.
	Close()
}

// Dial connects with an address, as net.Dialer's DialContext.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Connect returns a client of a cell's application that listens at an IP address.
func Connect(cell matrix.Cell, dial Dial, ip string) (Client, error) {
	address := net.JoinHostPort(ip, strconv.Itoa(Port(cell.Application)))
	switch cell.Application {
	case matrix.Cart, matrix.Stateless:
		return newWeb(cell, dial, address), nil
	case matrix.Redis:
		return newRedis(cell, dial, address), nil
	case matrix.PostgreSQL:
		return newPostgres(cell, dial, address)
	}
	return nil, fmt.Errorf("%q is no application", cell.Application)
}

// Port is where an application listens.
func Port(a matrix.Application) int {
	switch a {
	case matrix.Redis:
		return 6379
	case matrix.PostgreSQL:
		return 5432
	}
	return 8080
}

// percent is how much of the memory is rewritten a second.
const percent = 10

// valueSize is how much of a page's content is kept in one value. With what redis and
// PostgreSQL keep beside it, it fits into 4096 bytes.
const valueSize = 4000

// value is a page's content as a database keeps it.
func value(kind content.Kind, number int, version uint32) []byte {
	page := make([]byte, content.PageSize)
	kind.Fill(page, uint64(number), uint64(version))
	return page[:valueSize]
}
