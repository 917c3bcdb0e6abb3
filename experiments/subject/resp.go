package subject

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// resp is a connection with redis, in redis' own protocol.
type resp struct {
	net.Conn
	in  *bufio.Reader
	out *bufio.Writer
}

func dialRESP(ctx context.Context, dial Dial, address string) (*resp, error) {
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &resp{conn, bufio.NewReaderSize(conn, 64<<10), bufio.NewWriterSize(conn, 64<<10)}, nil
}

// bound has the connection's reads and writes end with ctx, until release is called.
func (r *resp) bound(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { r.SetDeadline(time.Now()) })
	return func() { stop() }
}

// send puts a command on its way, at the latest with flush.
func (r *resp) send(words ...[]byte) {
	fmt.Fprintf(r.out, "*%d\r\n", len(words))
	for _, word := range words {
		// An error stays with the writer, and comes with flush.
		fmt.Fprintf(r.out, "$%d\r\n%s\r\n", len(word), word)
	}
}

func (r *resp) flush() error { return r.out.Flush() }

// errNil is a reply that says that there is no such thing.
var errNil = errors.New("redis has no such key")

// reply reads a number or a text.
func (r *resp) reply() ([]byte, error) {
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	switch line[0] {
	case '+', ':':
		return []byte(line[1:]), nil
	case '-':
		return nil, fmt.Errorf("redis answers %s", line[1:])
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			return nil, fmt.Errorf("redis answers %q", line)
		}
		if n < 0 {
			return nil, errNil
		}
		text := make([]byte, n+len("\r\n"))
		if _, err := io.ReadFull(r.in, text); err != nil {
			return nil, err
		}
		return text[:n], nil
	}
	return nil, fmt.Errorf("redis answers %q", line)
}

// array reads the head of a list of replies, and returns how many follow.
func (r *resp) array() (int, error) {
	line, err := r.line()
	if err != nil {
		return 0, err
	}
	if line[0] != '*' {
		return 0, fmt.Errorf("redis answers %q, not with a list", line)
	}
	return strconv.Atoi(line[1:])
}

func (r *resp) line() (string, error) {
	line, err := r.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("redis answers with an empty line")
	}
	return line, nil
}

// do sends a command and reads its reply, of which only an error matters.
func (r *resp) do(ctx context.Context, words ...string) error {
	defer r.bound(ctx)()
	raw := make([][]byte, len(words))
	for i, word := range words {
		raw[i] = []byte(word)
	}
	r.send(raw...)
	if err := r.flush(); err != nil {
		return err
	}
	_, err := r.reply()
	return err
}
