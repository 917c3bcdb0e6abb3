package holdertest

import (
	"net"
	"slices"
	"sync"
	"testing"
)

// Proxy is a way to a server on which connections can come to harm.
type Proxy struct {
	// Address is where it listens.
	Address string

	mu     sync.Mutex
	passed int64
	each   []int64 // passed, for each connection that there ever was
	fault  Fault
	after  int64
	conns  map[net.Conn]bool
	change chan struct{} // closed when the fault changes
}

// Fault is what happens to the connections of a Proxy.
type Fault int

const (
	// None leaves them alone.
	None Fault = iota
	// Cut ends them, and new ones at once.
	Cut
	// Silence lets nothing pass any more and tells nobody, as when the server's
	// process is stopped. New ones are accepted.
	Silence
)

func (f Fault) String() string { return [...]string{"none", "cut", "silence"}[f] }

// NewProxy returns a way to the server at an address.
func NewProxy(t testing.TB, address string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: listener.Addr().String(), conns: map[net.Conn]bool{}, change: make(chan struct{})}
	var pipes sync.WaitGroup
	pipes.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				continue
			}
			number := p.add(near, far)
			pipes.Go(func() { p.pipe(number, near, far) })
			pipes.Go(func() { p.pipe(number, far, near) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.Break(Cut, 0)
		pipes.Wait()
	})
	return p
}

// Break lets a fault happen once that many bytes have passed from now on, of
// both directions and all connections.
func (p *Proxy) Break(fault Fault, after int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.after = fault, p.passed+after
	// Those that are silenced look again at what to do.
	close(p.change)
	p.change = make(chan struct{})
	if fault == Cut && after == 0 {
		p.cut()
	}
}

// Passed is how many bytes have passed.
func (p *Proxy) Passed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// Connections is how many bytes have passed on each connection that there ever
// was, in the order in which they were made.
func (p *Proxy) Connections() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.each)
}

func (p *Proxy) add(near, far net.Conn) (number int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[near], p.conns[far] = true, true
	p.each = append(p.each, 0)
	if p.fault == Cut && p.passed >= p.after {
		p.cut()
	}
	return len(p.each) - 1
}

// cut ends all connections.
func (p *Proxy) cut() {
	for conn := range p.conns {
		conn.Close()
		delete(p.conns, conn)
	}
}

// pipe copies one direction of a connection.
func (p *Proxy) pipe(number int, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		for data := buf[:n]; len(data) > 0; {
			allowed, wait := p.allow(number, len(data))
			if wait != nil {
				<-wait
				continue
			}
			if _, err := to.Write(data[:allowed]); err != nil || allowed == 0 {
				return
			}
			data = data[allowed:]
		}
		if err != nil {
			return
		}
	}
}

// allow returns how many of the next bytes pass: none when the connections were
// cut. While they are silenced it returns what to wait for.
func (p *Proxy) allow(number, n int) (int, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault != None {
		left := p.after - p.passed
		switch {
		case left <= 0 && p.fault == Silence:
			return 0, p.change
		case left <= 0:
			p.cut()
			return 0, nil
		}
		n = int(min(int64(n), left))
	}
	p.passed += int64(n)
	p.each[number] += int64(n)
	return n, nil
}
