// Package keeper holds the userfaultfds of page daemons in another process of
// the node, so that the end of a daemon's process makes faults wait instead of
// turning the missing pages into zeros.
package keeper

import (
	"context"
	"log/slog"

	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
)

// Description says to whom kept userfaultfds belong. It is kept as it is.
type Description struct {
	// ID names the restore of one container: the container's ID.
	ID string `json:"id"`
	// CgroupsPath is the container's cgroup, as its configuration names it: what
	// is killed if its memory can no longer be filled in.
	CgroupsPath string `json:"cgroupsPath"`
	// Data is whatever the daemon's owner needs to go on.
	Data []byte `json:"data,omitempty"`
}

// Server is the keeper.
type Server struct{}

// NewServer makes a keeper. Kill kills the container of a description, and
// returns when none of its processes is left; it is called before userfaultfds
// are let go that nobody else holds while memory is missing.
func NewServer(kill func(Description) error, log *slog.Logger) *Server { panic("not yet") }

// Run serves at the UNIX socket path until ctx ends. Then, whatever is kept and
// has no living daemon is killed.
func (s *Server) Run(ctx context.Context, path string) error { panic("not yet") }

// Client is a page daemon's connection to the keeper. It is a pages.Keeper.
type Client struct{}

// Dial connects to the keeper for a restore.
func Dial(path string, description Description) (*Client, error) { panic("not yet") }

// List returns what a keeper holds for daemons that have died.
func List(path string) ([]Description, error) { panic("not yet") }

// Take takes over what the keeper holds of one restore. The client is for
// the options of pages.Resume.
func Take(path, id string) (*Client, pages.Kept, error) { panic("not yet") }

// Keep implements pages.Keeper.
func (c *Client) Keep(state int) error { panic("not yet") }

// Add implements pages.Keeper.
func (c *Client) Add(index, userfaultfd int) error { panic("not yet") }

// Remove implements pages.Keeper.
func (c *Client) Remove(index int) error { panic("not yet") }

// Lost implements pages.Keeper.
func (c *Client) Lost() bool { panic("not yet") }

// Drop implements pages.Keeper.
func (c *Client) Drop() error { panic("not yet") }

// Close ends the connection. What was not dropped is kept for Take.
func (c *Client) Close() error { panic("not yet") }

var _ pages.Keeper = (*Client)(nil)
