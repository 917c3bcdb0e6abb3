package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// maxRead is the most that one Read may ask for, in bytes.
	maxRead = 8 << 20
	// maxSessions is how many generations may be open at once. Each is a pod that
	// is being restored from here; what is more is better served by other holders.
	maxSessions = 256
	// maxStreams is how many calls one connection may have open: its sessions, and
	// some reads for each of them.
	maxStreams = 4 * maxSessions
	// maxSessionFiles is how many of its files a session keeps open. Each read of
	// another one opens it anew.
	maxSessionFiles = 64
	// sessionIdle is how long a session lasts in which nothing is read, in case its
	// asker has forgotten it: it keeps the pod's files from being removed. An
	// asker that comes back later opens the generation again.
	sessionIdle = 5 * time.Minute
)

// sessions are the generations that are open to be read piece by piece.
type sessions struct {
	mu   sync.Mutex
	open map[sessionID]*session
}

type sessionID [16]byte

// session is one of them.
type session struct {
	store *store.Store
	key   store.Key
	sizes map[string]int64 // of the generation's files
	reads chan struct{}    // takes one for each read, without waiting

	mu    sync.Mutex
	files map[string]*os.File
	ended bool
}

func (s *sessions) begin(st *store.Store, key store.Key, files []*peerv1.File) (sessionID, *session, error) {
	n := &session{store: st, key: key, sizes: map[string]int64{}, reads: make(chan struct{}, 1), files: map[string]*os.File{}}
	for _, f := range files {
		n.sizes[f.GetName()] = f.GetSize()
	}
	var id sessionID
	rand.Read(id[:]) // never fails: it ends the program instead
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= maxSessions {
		return id, nil, status.Errorf(codes.Unavailable, "%d generations are open here already: read this one from another holder", len(s.open))
	}
	s.open[id] = n
	return id, n, nil
}

func (s *sessions) find(id []byte) (*session, error) {
	if len(id) != len(sessionID{}) {
		return nil, status.Errorf(codes.InvalidArgument, "a session's name has %d bytes, not %d", len(sessionID{}), len(id))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.open[sessionID(id)]
	if n == nil {
		return nil, status.Error(codes.Aborted, "the generation is not open here any more: open it again")
	}
	return n, nil
}

func (s *sessions) end(id sessionID) {
	s.mu.Lock()
	n := s.open[id]
	delete(s.open, id)
	s.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
	for _, file := range n.files {
		file.Close() // nothing was written
	}
}

// file returns an open file of the session. Release must be called after its use.
func (n *session) file(name string) (file *os.File, release func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return nil, nil, status.Error(codes.Aborted, "the generation was closed meanwhile: open it again")
	}
	if file := n.files[name]; file != nil {
		return file, func() {}, nil
	}
	if file, err = n.store.OpenFile(n.key, name); err != nil {
		return nil, nil, err
	}
	if len(n.files) >= maxSessionFiles {
		return file, func() { file.Close() }, nil
	}
	n.files[name] = file
	return file, func() {}, nil
}

// check refuses a range that is not one of the session's files.
func (n *session) check(name string, offset, length int64) error {
	size, ok := n.sizes[name]
	switch {
	case !ok:
		return status.Errorf(codes.InvalidArgument, "%q is not a file of the generation", name)
	case length < 1 || length > maxRead:
		return status.Errorf(codes.InvalidArgument, "%d bytes are asked for: ask for 1 to %d", length, maxRead)
	case offset < 0 || offset > size-length:
		return status.Errorf(codes.InvalidArgument, "bytes %d to %d are asked for of %s, which has %d", offset, offset+length, name, size)
	}
	return nil
}

// Open makes a generation readable until the asker ends the call, or has read
// nothing for a while.
func (s *Server) Open(req *peerv1.OpenRequest, stream grpc.ServerStreamingServer[peerv1.OpenResponse]) error {
	key, err := toKey(req.GetPod())
	if err != nil {
		return toStatus(err)
	}
	defer s.store.Hold(key, req.GetGeneration())()
	files, err := s.store.Files(key, req.GetGeneration())
	if err != nil {
		return toStatus(err)
	}
	id, session, err := s.sessions.begin(s.store, key, files)
	if err != nil {
		return err
	}
	defer s.sessions.end(id)
	if err := stream.Send(&peerv1.OpenResponse{Session: id[:], Files: files}); err != nil {
		return err
	}
	idle := time.NewTimer(s.sessionIdle)
	defer idle.Stop()
	for {
		select {
		case <-stream.Context().Done():
			return toStatus(stream.Context().Err())
		case <-session.reads:
			idle.Reset(s.sessionIdle)
		case <-idle.C:
			return status.Errorf(codes.DeadlineExceeded, "nothing was read for %s", s.sessionIdle)
		}
	}
}

// pieces are buffers for parts of files.
var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// Read sends a range of a file of an open generation.
func (s *Server) Read(req *peerv1.ReadRequest, stream grpc.ServerStreamingServer[peerv1.ReadResponse]) error {
	session, err := s.sessions.find(req.GetSession())
	if err != nil {
		return err
	}
	select {
	case session.reads <- struct{}{}:
	default:
	}
	if err := session.check(req.GetName(), req.GetOffset(), req.GetLength()); err != nil {
		return err
	}
	if req.GetLength() <= pieceSize {
		// The first piece is handed to the connection without a wait.
		return session.read(req, stream.Send)
	}
	return s.guard(stream.Context(), func(_ context.Context, dog *watchdog) error {
		return session.read(req, func(piece *peerv1.ReadResponse) error {
			dog.progress()
			defer dog.pause()
			return stream.Send(piece)
		})
	})
}

// read sends a range that was checked.
func (n *session) read(req *peerv1.ReadRequest, send func(*peerv1.ReadResponse) error) error {
	name, offset, left := req.GetName(), req.GetOffset(), req.GetLength()
	file, release, err := n.file(name)
	if err != nil {
		return toStatus(err)
	}
	defer release()
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	for left > 0 {
		data := buf[:min(left, pieceSize)]
		if _, err := file.ReadAt(data, offset); err != nil {
			return readStatus(fmt.Errorf("read %s of %s: %w", name, n.key, err))
		}
		if err := send(&peerv1.ReadResponse{Data: data}); err != nil {
			return err
		}
		offset += int64(len(data))
		left -= int64(len(data))
	}
	return nil
}

// readStatus gives the code for a file of an open generation that cannot be read.
func readStatus(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return status.Errorf(codes.DataLoss, "%v: the file was cut short", err)
	case errors.Is(err, os.ErrClosed):
		return status.Error(codes.Aborted, "the generation was closed meanwhile: open it again")
	}
	return status.Error(codes.DataLoss, err.Error())
}
