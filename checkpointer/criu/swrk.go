package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// abortTime is how long CRIU may take to let go of the tasks after its request
// was given up. Killed any earlier, it could leave its code in them.
const abortTime = 10 * time.Second

// swrk is one CRIU process that waits for one request over a socket that only
// it and we hold. Started before the pause, it keeps the start of the program
// out of it.
//
// The messages are those of go-criu; its own way of starting CRIU is not used,
// because there every process started meanwhile inherits CRIU's end of the
// socket, and the death of CRIU then goes unnoticed with the tasks frozen.
type swrk struct {
	cmd  *exec.Cmd
	conn *net.UnixConn
	// pages is our end of the socket at which a dump offers the processes'
	// memory. CRIU keeps the tasks stopped until it is closed.
	pages *os.File
}

// The descriptors that CRIU is started with.
const (
	requestDescriptor = 3
	pagesDescriptor   = 4
)

// startSwrk starts CRIU with a user's real ID. It must run within Host.Run.
func startSwrk(ctx context.Context, path string, user credentials) (*swrk, error) {
	ours, theirs, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	pages, offered, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer offered.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		pages.Close()
		return nil, fmt.Errorf("make a socket to CRIU: %w", err)
	}
	// Not bound to ctx: killing CRIU is the last resort, see call.
	cmd := command(context.WithoutCancel(ctx), path, "swrk", strconv.Itoa(requestDescriptor))
	cmd.ExtraFiles = []*os.File{theirs, offered}
	if err := user.start(cmd); err != nil {
		conn.Close()
		pages.Close()
		return nil, fmt.Errorf("start CRIU: %w", err)
	}
	return &swrk{cmd: cmd, conn: conn.(*net.UnixConn), pages: pages}, nil
}

func socketPair(kind int) (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket to CRIU: %w", err)
	}
	return os.NewFile(uintptr(pair[0]), "criu"), os.NewFile(uintptr(pair[1]), "criu"), nil
}

// ready waits until CRIU answers, so that it is known to be up.
func (s *swrk) ready(ctx context.Context) error {
	kind := rpc.CriuReqType_VERSION
	return s.call(ctx, &rpc.CriuReq{Type: &kind, KeepOpen: proto.Bool(true)}, nil)
}

// call sends a request and waits until CRIU has fulfilled it. CRIU tells the
// stages of its work to notify, by the names of its action scripts; an error
// from notify makes it undo its work. Once ctx has ended CRIU is told so at its
// next stage.
func (s *swrk) call(ctx context.Context, req *rpc.CriuReq, notify func(script string) error) error {
	stop := context.AfterFunc(ctx, func() {
		s.conn.SetReadDeadline(time.Now().Add(abortTime))
	})
	defer stop()
	message := make([]byte, 64<<10)
	var refused error
	for {
		raw, err := proto.Marshal(req)
		if err != nil {
			return fmt.Errorf("encode the request to CRIU: %w", err)
		}
		if _, err := s.conn.Write(raw); err != nil {
			return fmt.Errorf("send the request to CRIU: %w", err)
		}
		n, err := s.conn.Read(message)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errors.Join(ctx.Err(), fmt.Errorf("no answer within %v of that", abortTime), s.cmd.Cancel())
		}
		if err != nil {
			return errors.Join(refused, fmt.Errorf("wait for CRIU's answer: %w", err))
		}
		resp := new(rpc.CriuResp)
		if err := proto.Unmarshal(message[:n], resp); err != nil {
			return fmt.Errorf("decode CRIU's answer: %w", err)
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY || notify == nil {
			if refused == nil && !resp.GetSuccess() {
				refused = &criuError{errno: int(resp.GetCrErrno()), message: resp.GetCrErrmsg()}
			}
			return refused
		}
		if refused == nil {
			refused = ctx.Err()
		}
		if refused == nil {
			refused = notify(resp.GetNotify().GetScript())
		}
		req = &rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(refused == nil)}
	}
}

// close ends CRIU, which exits when its socket is closed.
func (s *swrk) close() error {
	s.conn.Close()
	s.pages.Close()
	// An exit code tells nothing that the answer has not told.
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("wait for CRIU to exit: %w", err)
	}
	return nil
}

// criuError is a request that CRIU could not fulfil.
type criuError struct {
	errno   int
	message string
}

func (e *criuError) Error() string {
	text := "CRIU refused"
	if e.errno != 0 {
		text += ": " + unix.Errno(e.errno).Error()
	}
	if lines := errorLines(e.message); len(lines) > 0 {
		text += ": " + lines[0]
	}
	return text
}
