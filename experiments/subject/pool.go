package subject

import (
	"context"
	"errors"
	"io"
	"sync"
)

// pool keeps connections for the next request. It dials whenever it has none, however
// often that failed before: libraries' pools wait for a while then, and the end of
// an outage would be seen too late.
type pool[C io.Closer] struct {
	dial func(ctx context.Context) (C, error)

	mu     sync.Mutex
	idle   []C
	closed bool
}

var errClosed = errors.New("the client is closed")

// with has do work with a connection. One that fails is not used again.
func (p *pool[C]) with(ctx context.Context, do func(C) error) error {
	conn, err := p.take(ctx)
	if err != nil {
		return err
	}
	if err := do(conn); err != nil {
		conn.Close()
		return err
	}
	p.put(conn)
	return nil
}

func (p *pool[C]) take(ctx context.Context) (conn C, err error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return conn, errClosed
	}
	if n := len(p.idle); n > 0 {
		conn = p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return conn, nil
	}
	p.mu.Unlock()
	return p.dial(ctx)
}

func (p *pool[C]) put(conn C) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return
	}
	p.idle = append(p.idle, conn)
}

func (p *pool[C]) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conn := range p.idle {
		conn.Close()
	}
	p.idle = nil
}
