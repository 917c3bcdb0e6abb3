package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A Status is how a machine does.
type Status struct {
	Services     []ServiceStatus
	ImagesLoaded bool // the image archives that were there at boot are loaded
}

// Running tells whether every service has been started and the images are loaded.
func (s Status) Running() bool {
	for _, service := range s.Services {
		if service.PID == 0 {
			return false
		}
	}
	return s.ImagesLoaded
}

// Status asks the machine's first process how the machine does.
func (p Process) Status(ctx context.Context) (Status, error) {
	reply, err := p.ask(ctx, request{Op: opStatus})
	if err != nil {
		return Status{}, err
	}
	return Status{Services: reply.Services, ImagesLoaded: reply.Loaded}, nil
}

// LoadImages has the machine load the image archives that it has not loaded yet.
func (p Process) LoadImages(ctx context.Context) error {
	_, err := p.ask(ctx, request{Op: opLoad})
	return err
}

// Exec runs a program on the machine, in its namespaces and cgroups, and returns its
// exit code, 128 + signal if it was killed. When ctx ends, the program is killed.
func (p Process) Exec(ctx context.Context, stdin, stdout, stderr *os.File, argv, env []string) (int, error) {
	reply, err := p.ask(ctx, request{Op: opExec, Argv: argv, Env: env}, stdin, stdout, stderr)
	return reply.ExitCode, err
}

// ask sends one request and waits for its answer.
func (p Process) ask(ctx context.Context, req request, files ...*os.File) (answer, error) {
	if !p.Alive() {
		return answer{}, fmt.Errorf("the machine is off: power it on first")
	}
	path := fmt.Sprintf("/proc/%d/root%s", p.PID, controlSocket)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", path)
	if err != nil {
		return answer{}, fmt.Errorf("reach the machine: %w", err)
	}
	defer conn.Close()
	text, err := json.Marshal(req)
	if err != nil {
		return answer{}, fmt.Errorf("ask the machine: %w", err)
	}
	if len(text) > maxMessage {
		return answer{}, fmt.Errorf("ask the machine: the request has %d bytes, at most %d fit; pass long input on standard input", len(text), maxMessage)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix(text, rights, nil); err != nil {
		return answer{}, fmt.Errorf("ask the machine: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buffer := make([]byte, maxMessage)
	n, err := conn.Read(buffer)
	switch {
	case ctx.Err() != nil:
		return answer{}, fmt.Errorf("ask the machine: %w", ctx.Err())
	case n == 0 && (err == nil || errors.Is(err, io.EOF)), errors.Is(err, unix.ECONNRESET):
		return answer{}, fmt.Errorf("the machine went off before it answered")
	case err != nil:
		return answer{}, fmt.Errorf("ask the machine: %w", err)
	}
	var reply answer
	if err := json.Unmarshal(buffer[:n], &reply); err != nil {
		return answer{}, fmt.Errorf("ask the machine: %w", err)
	}
	if reply.Err != "" {
		return answer{}, errors.New(reply.Err)
	}
	return reply, nil
}
