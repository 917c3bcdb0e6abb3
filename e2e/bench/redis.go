package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const redisAddress = "127.0.0.1:6379"

// redisCommand is Debian's redis, which keeps its data in memory alone.
var redisCommand = []string{"/usr/bin/redis-server", "--save", "", "--appendonly", "no", "--dir", "/tmp"}

const (
	// A value and what redis keeps beside it take redisValue + redisRest bytes.
	redisValue = 1000
	redisRest  = 128
	// redisLoadTime bounds how long redis may take to start and to take its data.
	redisLoadTime = 30 * time.Second
)

// loadRedis fills redis with values that are text, but hardly compress.
func (s *subject) loadRedis(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, redisLoadTime)
	defer cancel()
	err := s.pod.In(unix.CLONE_NEWNET, func() error {
		conn, err := dialRedis(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
		return errors.Join(loadRedis(conn, int(s.Bytes/(redisValue+redisRest))), quitRedis(conn))
	})
	if err != nil {
		return fmt.Errorf("load redis: %w", err)
	}
	return nil
}

// dialRedis connects to redis, which has just been started.
func dialRedis(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{Timeout: pollDialTime}).DialContext(ctx, "tcp4", redisAddress)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pollTime):
		}
	}
}

func loadRedis(conn net.Conn, values int) error {
	random := rand.NewChaCha8([32]byte{})
	raw := make([]byte, redisValue*3/4)
	out, in := bufio.NewWriter(conn), bufio.NewReader(conn)
	const batch = 1000
	for n := 0; n < values; n += batch {
		for key := n; key < min(n+batch, values); key++ {
			_, _ = random.Read(raw) // it does not fail
			fmt.Fprintf(out, "SET key:%d %s\r\n", key, base64.StdEncoding.EncodeToString(raw))
		}
		if err := out.Flush(); err != nil {
			return err
		}
		for range min(batch, values-n) {
			answer, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			if answer != "+OK\r\n" {
				return fmt.Errorf("redis answers %q", answer)
			}
		}
	}
	return nil
}

// quitRedis has redis close the connection: runc's checkpoint refuses open ones.
func quitRedis(conn net.Conn) error {
	if _, err := fmt.Fprint(conn, "QUIT\r\n"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	return err
}
