package scenarios

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// redisConn speaks RESP2 with a redis server over one connection.
type redisConn struct {
	conn net.Conn
	r    *bufio.Reader
}

// replyLimit bounds how long one answer may take.
const replyLimit = 20 * time.Second

func dialRedis(ctx context.Context, ip string) (*redisConn, error) {
	conn, err := lab.Dial(ctx, "tcp", net.JoinHostPort(ip, "6379"))
	if err != nil {
		return nil, err
	}
	return &redisConn{conn, bufio.NewReader(conn)}, nil
}

func (c *redisConn) Close() error { return c.conn.Close() }

// do sends one command and returns its reply: a string, an int64, nil or a []any.
func (c *redisConn) do(args ...string) (any, error) {
	replies, err := c.pipeline([][]string{args})
	if err != nil {
		return nil, err
	}
	return replies[0], nil
}

// pipeline sends commands at once and returns their replies.
func (c *redisConn) pipeline(commands [][]string) ([]any, error) {
	var out strings.Builder
	for _, args := range commands {
		fmt.Fprintf(&out, "*%d\r\n", len(args))
		for _, arg := range args {
			fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(arg), arg)
		}
	}
	if err := c.conn.SetDeadline(time.Now().Add(replyLimit)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c.conn, out.String()); err != nil {
		return nil, err
	}
	replies := make([]any, len(commands))
	for i, args := range commands {
		reply, err := c.reply()
		if err != nil {
			return nil, fmt.Errorf("redis %s: %w", args[0], err)
		}
		replies[i] = reply
	}
	return replies, nil
}

func (c *redisConn) reply() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, fmt.Errorf("empty reply")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return nil, fmt.Errorf("redis: %s", rest)
	}
	number, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("reply %q: %w", line, err)
	}
	switch kind {
	case ':':
		return number, nil
	case '$':
		if number < 0 {
			return nil, nil
		}
		text := make([]byte, number+2)
		if _, err := io.ReadFull(c.r, text); err != nil {
			return nil, err
		}
		return string(text[:number]), nil
	case '*':
		list := make([]any, max(0, number))
		for i := range list {
			if list[i], err = c.reply(); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("reply of unknown kind %q", line)
}
