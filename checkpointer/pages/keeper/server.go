package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
)

// Server is the keeper.
type Server struct {
	kill func(Description) error
	log  *slog.Logger

	mu       sync.Mutex
	restores map[string]*restore
	sessions sync.WaitGroup
}

// restore is what is kept of one container.
type restore struct {
	description Description
	state       int
	faults      map[int]int // userfaultfds
	// daemon is whose it is; nil: it has died.
	daemon *session
	// doomed is whether its container must be killed.
	doomed bool
}

// session is one connection.
type session struct {
	conn    *net.UnixConn
	restore *restore
	left    chan struct{} // closed once its end has been taken note of
}

// NewServer makes a keeper. Kill kills the container of a description, and
// returns when none of its processes is left; it is called before userfaultfds
// are let go that nobody else holds while memory is missing, and again after a
// while when it fails.
func NewServer(kill func(Description) error, log *slog.Logger) *Server {
	return &Server{kill: kill, log: log, restores: map[string]*restore{}}
}

// Run serves root at the UNIX socket path until ctx ends. Then whatever has no
// daemon is killed, and the error says what could not be.
func (s *Server) Run(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("serve as keeper: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serve as keeper: remove a former socket: %w", err)
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("serve as keeper: %w", err)
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("serve as keeper: %w", err)
	}
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("serve as keeper: %w", err)
			} else {
				err = nil
			}
			return errors.Join(err, s.end())
		}
		s.sessions.Go(func() { s.serve(ctx, conn) })
	}
}

// serve serves one connection.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if !fromRoot(conn) {
		return
	}
	c := session{conn: conn, left: make(chan struct{})}
	for {
		raw, fds, err := receive(conn)
		if err != nil {
			break
		}
		if c.restore == nil { // it may ask for another's; one that has its own waits for nobody
			s.hear()
		}
		reply, send := s.handle(&c, raw, fds)
		if err := respond(conn, reply, send); err != nil {
			break
		}
	}
	r := s.abandoned(&c, ctx.Err() != nil)
	close(c.left)
	if r != nil {
		s.killAll(ctx, r)
	}
}

// hear waits until the ends of those daemons are taken note of that have died: the
// next daemon may ask sooner than their sessions see it. s.mu is not held.
func (s *Server) hear() {
	s.mu.Lock()
	var gone []*session
	for _, r := range s.restores {
		if r.daemon != nil && r.daemon.hungUp() {
			gone = append(gone, r.daemon)
		}
	}
	s.mu.Unlock()
	for _, c := range gone {
		<-c.left // it reads what was sent before the end, and no more comes
	}
}

func (c *session) hungUp() bool {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return false
	}
	hup := false
	err = raw.Control(func(fd uintptr) {
		events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(events, 0)
		for errors.Is(err, unix.EINTR) { // a signal of the runtime's own
			n, err = unix.Poll(events, 0)
		}
		hup = err == nil && n == 1 && events[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
	})
	return hup && err == nil
}

func fromRoot(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return controlErr == nil && err == nil && peer.Uid == 0
}

// handle does what one packet asks for. The descriptors are the server's now. It
// returns descriptors that are duplicates for the other side.
func (s *Server) handle(c *session, raw []byte, fds []int) (answer, []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r request
	reply, send, used, err := answer{}, []int(nil), false, json.Unmarshal(raw, &r)
	if err == nil {
		switch r.Op {
		case opKeep:
			err = s.keep(c, r.Description, fds)
			used = err == nil
		case opAdd:
			err = c.add(r.Index, fds)
			used = err == nil
		case opRemove:
			err = c.remove(r.Index)
		case opDrop:
			s.drop(c, r.ID)
		case opList:
			reply.Descriptions = s.list()
		case opTake:
			reply, send, err = s.take(c, r.ID)
		default:
			err = fmt.Errorf("%q is no request", r.Op)
		}
	}
	if !used {
		closeAll(fds)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply, send
}

func (s *Server) keep(c *session, d *Description, fds []int) error {
	switch {
	case d == nil || d.ID == "" || len(d.ID) > maxID || len(d.CgroupsPath) > maxPath || len(d.Data) > maxData:
		return fmt.Errorf("a restore needs an ID of at most %d bytes, and a cgroups path of at most %d, and data of at most %d", maxID, maxPath, maxData)
	case len(fds) != 1:
		return fmt.Errorf("a state came with %d descriptors", len(fds))
	case c.restore != nil && c.restore.description.ID != d.ID:
		return errors.New("a connection is for one restore")
	case s.restores[d.ID] == nil && len(s.restores) >= maxRestores:
		return fmt.Errorf("%d restores are kept already", maxRestores)
	}
	if old := s.restores[d.ID]; old != nil {
		old.close() // the same daemon's, from before it lost its connection
	}
	c.restore = &restore{description: *d, state: fds[0], faults: map[int]int{}, daemon: c}
	s.restores[d.ID] = c.restore
	return nil
}

func (c *session) add(index int, fds []int) error {
	switch {
	case c.restore == nil || c.restore.daemon != c:
		return errNotDaemon
	case len(fds) != 1:
		return fmt.Errorf("a process came with %d descriptors", len(fds))
	case index < 0 || index >= maxProcesses:
		return fmt.Errorf("process %d is impossible", index)
	}
	if old, found := c.restore.faults[index]; found {
		unix.Close(old)
	}
	c.restore.faults[index] = fds[0]
	return nil
}

func (c *session) remove(index int) error {
	if c.restore == nil || c.restore.daemon != c {
		return errNotDaemon
	}
	if fd, found := c.restore.faults[index]; found {
		unix.Close(fd)
		delete(c.restore.faults, index)
	}
	return nil
}

// drop is for the restore's daemon, also on a new connection, and for whoever has
// killed a container that has none.
func (s *Server) drop(c *session, id string) {
	r := s.restores[id]
	if r == nil {
		return
	}
	r.close()
	delete(s.restores, id)
	if c.restore == r {
		c.restore = nil
	}
}

func (s *Server) list() []Description {
	var out []Description
	for _, id := range slices.Sorted(maps.Keys(s.restores)) {
		if r := s.restores[id]; r.daemon == nil {
			out = append(out, Description{ID: id, CgroupsPath: r.description.CgroupsPath})
		}
	}
	return out
}

func (s *Server) take(c *session, id string) (answer, []int, error) {
	r := s.restores[id]
	switch {
	case c.restore != nil:
		return answer{}, nil, errors.New("a connection is for one restore")
	case r == nil:
		return answer{}, nil, errUnknown
	case r.daemon != nil:
		return answer{}, nil, errOwned
	}
	indices := slices.Sorted(maps.Keys(r.faults))
	var send []int
	for _, fd := range append([]int{r.state}, values(r.faults, indices)...) {
		double, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(send)
			return answer{}, nil, err
		}
		send = append(send, double)
	}
	r.daemon, c.restore = c, r
	return answer{Descriptions: []Description{r.description}, Indices: indices}, send, nil
}

func values(of map[int]int, keys []int) []int {
	out := make([]int, len(keys))
	for i, key := range keys {
		out[i] = of[key]
	}
	return out
}

// abandoned ends a connection. Unless that was the keeper's own doing, the daemon
// has died: a restore is returned that no other one can go on with.
func (s *Server) abandoned(c *session, own bool) *restore {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := c.restore
	if own || r == nil || r.daemon != c || s.restores[r.description.ID] != r {
		return nil
	}
	can, err := pages.Resumable(r.state)
	if can {
		r.daemon = nil
		s.log.Warn("a page daemon has died; its container waits for another one", "container", r.description.ID)
		return nil
	}
	r.doomed = true // the daemon stays, so that nobody takes it
	s.log.Error("a page daemon has died, and what a process did to its memory may be lost: its container is killed",
		"container", r.description.ID, "err", err)
	return r
}

// killAll kills a container until none of it is left, and lets go of its memory.
func (s *Server) killAll(ctx context.Context, r *restore) {
	const pause = time.Second
	for {
		err := s.kill(r.description)
		if err == nil {
			break
		}
		s.log.Error("kill a container whose memory has holes", "container", r.description.ID, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restores[r.description.ID] == r {
		r.close()
		delete(s.restores, r.description.ID)
	}
}

// end kills what has no daemon, or one that cannot be gone on for, and lets go of
// everything.
func (s *Server) end() error {
	s.sessions.Wait()
	s.mu.Lock()
	var orphans []*restore
	for _, r := range s.restores {
		if r.daemon == nil || r.doomed {
			orphans = append(orphans, r)
		}
	}
	s.mu.Unlock()
	var errs error
	for _, r := range orphans {
		if err := s.kill(r.description); err != nil {
			errs = errors.Join(errs, fmt.Errorf("kill container %s, which has no page daemon: %w", r.description.ID, err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.restores {
		r.close()
		delete(s.restores, id)
	}
	return errs
}

func (r *restore) close() {
	unix.Close(r.state)
	for _, fd := range r.faults {
		unix.Close(fd)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
