package agent

import "sync"

// changes tells whoever waits that a Migration has changed. The zero value is ready.
type changes struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait returns what is closed at the next change. It is to be asked for before looking
// at what may change.
func (c *changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

func (c *changes) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}
