package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
)

// Client is a page daemon's connection to the keeper. It is a pages.Keeper.
type Client struct {
	path        string
	description Description

	mu   sync.Mutex
	conn *net.UnixConn // nil: lost
}

var _ pages.Keeper = (*Client)(nil)

// NewClient is for a restore that begins. It connects when the daemon does, and
// again whenever the keeper was lost.
func NewClient(path string, description Description) *Client {
	return &Client{path: path, description: description}
}

// List returns what a keeper holds for daemons that have died, without their data.
func List(path string) ([]Description, error) {
	c := &Client{path: path}
	defer c.Close()
	reply, _, err := c.call(request{Op: opList}, nil)
	return reply.Descriptions, err
}

// Take takes over what the keeper holds of one restore. The client is for the
// options of pages.Resume. If that fails the container must be killed; then
// Client.Drop and Kept.Close end it.
func Take(path, id string) (*Client, pages.Kept, error) {
	c := &Client{path: path, description: Description{ID: id}}
	kept, err := c.take(id)
	if err != nil {
		c.Close()
		return nil, pages.Kept{}, err
	}
	return c, kept, nil
}

func (c *Client) take(id string) (kept pages.Kept, err error) {
	reply, fds, err := c.call(request{Op: opTake, ID: id}, nil)
	if err != nil {
		closeAll(fds)
		return kept, err
	}
	defer func() {
		if err != nil {
			closeAll(fds)
			err = fmt.Errorf("take over the memory of container %s from the keeper: %w", id, err)
		}
	}()
	if len(reply.Descriptions) != 1 || len(fds) != 1 {
		return kept, fmt.Errorf("it came with %d descriptions and %d descriptors", len(reply.Descriptions), len(fds))
	}
	for len(fds)-1 < len(reply.Indices) {
		_, more, err := receive(c.conn)
		fds = append(fds, more...)
		if err != nil {
			return kept, err
		}
		if len(more) == 0 {
			return kept, errors.New("a descriptor is missing")
		}
	}
	if len(fds)-1 != len(reply.Indices) {
		return kept, errors.New("there are too many descriptors")
	}
	kept.State = fds[0]
	for i, index := range reply.Indices {
		if index < len(kept.Userfaultfds) || index >= maxProcesses {
			return pages.Kept{}, fmt.Errorf("process %d is out of order", index)
		}
		for len(kept.Userfaultfds) < index {
			kept.Userfaultfds = append(kept.Userfaultfds, -1)
		}
		kept.Userfaultfds = append(kept.Userfaultfds, fds[i+1])
	}
	c.description = reply.Descriptions[0]
	return kept, nil
}

// Description is what was given to the keeper.
func (c *Client) Description() Description { return c.description }

// call asks and waits for the answer.
func (c *Client) call(r request, fds []int) (answer, []int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply, received, err := c.exchange(r, fds)
	if err != nil {
		c.lose()
		return reply, nil, fmt.Errorf("ask the keeper at %s to %s: %w", c.path, r.Op, err)
	}
	if reply.Error != "" {
		closeAll(received)
		return reply, nil, fmt.Errorf("ask the keeper at %s to %s: it answers: %s", c.path, r.Op, reply.Error)
	}
	return reply, received, nil
}

func (c *Client) exchange(r request, fds []int) (answer, []int, error) {
	if c.conn == nil {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: c.path, Net: "unixpacket"})
		if err != nil {
			return answer{}, nil, err
		}
		c.conn = conn
	}
	if err := send(c.conn, r, fds); err != nil {
		return answer{}, nil, err
	}
	c.conn.SetReadDeadline(time.Now().Add(answerTime))
	raw, received, err := receive(c.conn)
	if err != nil {
		return answer{}, nil, err
	}
	var reply answer
	if err := json.Unmarshal(raw, &reply); err != nil {
		closeAll(received)
		return answer{}, nil, err
	}
	return reply, received, nil
}

// lose closes the connection. c.mu is held.
func (c *Client) lose() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// tell is a call whose answer says nothing.
func (c *Client) tell(r request, fds ...int) error {
	_, received, err := c.call(r, fds)
	closeAll(received)
	return err
}

// Keep implements pages.Keeper.
func (c *Client) Keep(state int) error {
	if c.Lost() {
		c.Close()
	}
	return c.tell(request{Op: opKeep, Description: &c.description}, state)
}

// Add implements pages.Keeper.
func (c *Client) Add(index, userfaultfd int) error {
	return c.tell(request{Op: opAdd, Index: index}, userfaultfd)
}

// Remove implements pages.Keeper.
func (c *Client) Remove(index int) error { return c.tell(request{Op: opRemove, Index: index}) }

// Drop implements pages.Keeper. It ends the connection.
func (c *Client) Drop() error {
	err := c.tell(request{Op: opDrop, ID: c.description.ID})
	if err != nil { // the connection may have been a former keeper's
		err = c.tell(request{Op: opDrop, ID: c.description.ID})
	}
	return errors.Join(err, c.Close())
}

// Lost implements pages.Keeper.
func (c *Client) Lost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return true
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return true
	}
	lost := false
	err = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		lost = n == 0 && err == nil || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return lost || err != nil
}

// Close ends the connection. What was not dropped is kept for Take.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose()
	return nil
}
