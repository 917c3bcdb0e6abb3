package peers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
)

// Client asks nodes. It is safe for concurrent use.
type Client struct {
	http *http.Client
}

// NewClient returns a client that shows the certificate of config, which must
// verify the servers' as well. A node's certificate has the node's name as its
// common name.
func NewClient(config *tls.Config) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: config,
		// A connection that is being made goes on when its request has ended.
		DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
		TLSHandshakeTimeout: time.Second,
		// HTTP/1.1: a dead connection takes only its own request with it. One that
		// was not used for a while may be dead, so it is not used again.
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     3 * time.Second,
	}}}
}

// Close closes connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Vouch asks nodes whether they cannot read their record either, and returns those
// that vouch for node. Addresses are IP addresses by the nodes' names, with
// permission.VoucherPort where they name no port. It returns as soon as as many as
// enough have vouched or all have answered, and when ctx ends at the latest.
func (c *Client) Vouch(ctx context.Context, addresses map[string]string, node string, enough int) (vouched []string) {
	answers := ask[vouchAnswer](ctx, c, pathVouch, addresses, node)
	for range addresses {
		select {
		case a := <-answers:
			if a.err == nil && a.value.Vouch {
				vouched = append(vouched, a.node)
			}
		case <-ctx.Done():
			return vouched
		}
		if len(vouched) >= enough {
			return vouched
		}
	}
	return vouched
}

// Promise asks nodes to promise not to vouch for node, and returns those that
// promised, and those that cannot read their own records: for these the API has
// failed. Who is in neither did not answer. It takes PromiseTime at most. Addresses
// are as for Vouch.
func (c *Client) Promise(ctx context.Context, addresses map[string]string, node string) (promised, unreadable []string) {
	ctx, cancel := context.WithTimeout(ctx, PromiseTime)
	defer cancel()
	answers := ask[promiseAnswer](ctx, c, pathPromise, addresses, node)
	for range addresses {
		select {
		case a := <-answers:
			switch {
			case a.err != nil:
			case a.value.Promise:
				promised = append(promised, a.node)
			case !a.value.Readable:
				unreadable = append(unreadable, a.node)
			}
		case <-ctx.Done():
			return sorted(promised), sorted(unreadable)
		}
	}
	return sorted(promised), sorted(unreadable)
}

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}

// result is how one question ended.
type result[T any] struct {
	node  string
	value T
	err   error
}

// ask puts the question to all at once. The channel takes every result without a
// receiver, so that a slow node holds up nothing.
func ask[T any](ctx context.Context, c *Client, path string, addresses map[string]string, node string) <-chan result[T] {
	results := make(chan result[T], len(addresses))
	for peer, address := range addresses {
		go func() {
			r := result[T]{node: peer}
			r.err = c.askOne(ctx, "https://"+withPort(address)+path, peer, node, &r.value)
			results <- r
		}()
	}
	return results
}

func (c *Client) askOne(ctx context.Context, url, peer, node string, into any) error {
	body, err := json.Marshal(question{Node: node})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if name := caller(response.TLS); name != peer {
		return fmt.Errorf("ask node %s at %s: node %q answers there", peer, url, name)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask node %s at %s: %s", peer, url, response.Status)
	}
	return json.NewDecoder(io.LimitReader(response.Body, maxBody)).Decode(into)
}

func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(permission.VoucherPort))
}
