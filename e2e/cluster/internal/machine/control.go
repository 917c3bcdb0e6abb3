package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// controlSocket is where a machine's first process takes requests, inside the machine.
// It lies in memory and is gone after a power cut.
const controlSocket = "/run/cluster/control.sock"

// The operations of a request.
const (
	opStatus = "status" // how the services do
	opExec   = "exec"   // run a program; its standard files come with the request
	opLoad   = "load"   // load the image archives that are not loaded yet
)

// maxMessage bounds a request or an answer, in bytes.
const maxMessage = 128 << 10

// request and answer travel as one packet each; every connection carries one of both.
type request struct {
	Op   string   `json:"op"`
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"`
}

type answer struct {
	Err      string          `json:"err,omitempty"`
	ExitCode int             `json:"exitCode"`
	Services []ServiceStatus `json:"services,omitempty"`
	Loaded   bool            `json:"loaded,omitempty"`
}

// control answers requests from the host.
type control struct {
	listener   *net.UnixListener
	children   *children
	supervisor *supervisor
	loader     *imageLoader
	log        *slog.Logger
}

func listenControl(c *children, s *supervisor, l *imageLoader, log *slog.Logger) (*control, error) {
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: controlSocket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("take requests: %w", err)
	}
	if err := os.Chmod(controlSocket, 0o600); err != nil {
		return nil, fmt.Errorf("take requests: %w", err)
	}
	return &control{listener: listener, children: c, supervisor: s, loader: l, log: log}, nil
}

func (c *control) serve() {
	for {
		conn, err := c.listener.AcceptUnix()
		if err != nil {
			c.log.Error("no more requests", "err", err)
			return
		}
		go func() {
			defer conn.Close()
			reply, err := c.handle(conn)
			if err != nil {
				reply = answer{Err: err.Error()}
			}
			text, err := json.Marshal(reply)
			if err == nil {
				_, err = conn.Write(text)
			}
			if err != nil && !errors.Is(err, unix.EPIPE) {
				c.log.Warn("answer not delivered", "err", err)
			}
		}()
	}
}

func (c *control) handle(conn *net.UnixConn) (answer, error) {
	req, files, err := receive(conn)
	defer func() {
		for _, fd := range files {
			unix.Close(fd)
		}
	}()
	if err != nil {
		return answer{}, err
	}
	switch req.Op {
	case opStatus:
		loaded := !c.loader.enabled
		select {
		case <-c.loader.first:
			loaded = true
		default:
		}
		return answer{Services: c.supervisor.status(), Loaded: loaded}, nil
	case opLoad:
		return answer{}, c.loader.load()
	case opExec:
		return c.exec(conn, req, files)
	default:
		return answer{}, fmt.Errorf("unknown request %q", req.Op)
	}
}

// exec runs a program for as long as the one who asked for it listens.
func (c *control) exec(conn *net.UnixConn, req request, files []int) (answer, error) {
	if len(files) != 3 {
		return answer{}, fmt.Errorf("run %v: got %d files, want 3", req.Argv, len(files))
	}
	std := [3]uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])}
	pid, ended, err := c.children.start(req.Argv, req.Env, "/", std)
	if err != nil {
		return answer{}, err
	}
	left := make(chan struct{})
	go func() {
		// Nothing more is sent: a read ends when the other side closes the connection.
		_, _ = conn.Read(make([]byte, 1))
		close(left)
	}()
	select {
	case status := <-ended:
		return answer{ExitCode: exitCode(status)}, nil
	case <-left:
		// The program leads a session, so this reaches what it has started too.
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		return answer{ExitCode: exitCode(<-ended)}, nil
	}
}

// receive reads a request and the files that came with it.
func receive(conn *net.UnixConn) (request, []int, error) {
	text := make([]byte, maxMessage)
	rights := make([]byte, unix.CmsgSpace(3*4))
	n, rn, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return request{}, nil, fmt.Errorf("read request: %w", err)
	}
	var files []int
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return request{}, nil, fmt.Errorf("read request: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return request{}, files, fmt.Errorf("read request: %w", err)
		}
		files = append(files, fds...)
	}
	for _, fd := range files {
		unix.CloseOnExec(fd)
	}
	var req request
	if err := json.Unmarshal(text[:n], &req); err != nil {
		return request{}, files, fmt.Errorf("read request: %w", err)
	}
	return req, files, nil
}
