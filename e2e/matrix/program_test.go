package matrix

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"
)

// program is one program of the matrix, and what its clients know of it.
type program interface {
	// setup is how its pod runs it.
	setup() setup
	// numbers are what the program counts, in the order in which sessions tell them.
	numbers() []number
	// fill brings in data before the load begins, and remembers what identifies
	// the process.
	fill(ctx context.Context, s *subject) error
	// open connects a client. What it waits for ends with ctx.
	open(ctx context.Context, s *subject) (session, error)
	// check judges the program after its restore by all that is its alone.
	check(t *testing.T, s *subject)
	// mark is a text that the container's log has once a client has worked with
	// the restored program, or check has been called.
	mark() string
}

// setup is how a pod runs a program. The container has the pod's emptyDir volume
// at /data, and a ConfigMap with the file, if there is one, at /program.
type setup struct {
	port          int
	command       []string
	file, content string
	// user is whose the processes are; 0 is root.
	user int64
}

// number is something that a program counts. It only grows.
type number struct {
	name string
	// perSecond is how fast it can grow by itself; 0 when requests alone make it grow.
	perSecond float64
}

// clock is the pace of a number that may leap: it follows a clock.
var clock = math.Inf(1)

// session is one client's connection with a program.
type session interface {
	// step has the program do some work, and returns its numbers. Of all sessions,
	// one at a time makes steps.
	step() ([]int64, error)
	// ping asks for a sign of life.
	ping() error
	Close() error
}

// answerLimit bounds how long one answer may take.
const answerLimit = 20 * time.Second

// lines is a connection on which both sides speak in lines.
type lines struct {
	conn net.Conn
	r    *bufio.Reader
}

// dialLines connects with a port of a subject's pod. The connection ends with ctx.
func dialLines(ctx context.Context, s *subject, port int) (*lines, error) {
	conn, err := s.dial(ctx, port)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return &lines{conn, bufio.NewReader(conn)}, nil
}

func (l *lines) Close() error { return l.conn.Close() }

// send sends text as it is.
func (l *lines) send(text string) error {
	if err := l.conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return err
	}
	_, err := io.WriteString(l.conn, text)
	return err
}

// line reads one line, without its end.
func (l *lines) line() (string, error) {
	text, err := l.r.ReadString('\n')
	return strings.TrimRight(text, "\r\n"), err
}

// ask sends a line and reads one.
func (l *lines) ask(format string, args ...any) (string, error) {
	request := fmt.Sprintf(format, args...)
	if err := l.send(request + "\r\n"); err != nil {
		return "", err
	}
	answer, err := l.line()
	if err != nil {
		return "", fmt.Errorf("%.40s: %w", request, err)
	}
	return answer, nil
}

// want sends a line and requires an answer.
func (l *lines) want(answer, format string, args ...any) error {
	got, err := l.ask(format, args...)
	if err == nil && got != answer {
		err = fmt.Errorf("the answer to %.40q is %q, not %q", fmt.Sprintf(format, args...), got, answer)
	}
	return err
}

// bytes reads a text of a length and the end of the line after it.
func (l *lines) bytes(length int) (string, error) {
	text := make([]byte, length+2)
	if _, err := io.ReadFull(l.r, text); err != nil {
		return "", err
	}
	return string(text[:length]), nil
}
