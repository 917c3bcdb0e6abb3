package move

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// stream copies a folder by tar at both ends.
func stream(ctx context.Context, s *Scene, source, from, target, to string) (float64, error) {
	if _, err := s.Cluster.NodeExec(ctx, target, "mkdir", "-p", to); err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	sent := make(chan error, 1)
	go func() {
		err := exec(ctx, s, source, null, in, null, "tar", "-C", from, "-cf", "-", ".")
		in.Close()
		sent <- err
	}()
	err = exec(ctx, s, target, out, null, null, "tar", "-C", to, "-xf", "-")
	out.Close()
	if err := errors.Join(err, <-sent); err != nil {
		return 0, fmt.Errorf("copy %s from node %s to node %s: %w", from, source, target, err)
	}
	text, err := s.Cluster.NodeExec(ctx, source, "du", "-sb", from)
	if err != nil {
		return 0, err
	}
	var size float64
	if _, err := fmt.Sscan(string(text), &size); err != nil {
		return 0, fmt.Errorf("measure %s on node %s: %w", from, source, err)
	}
	return size, nil
}

// exec runs a program on a node with the given standard files.
func exec(ctx context.Context, s *Scene, node string, in, out, problems *os.File, argv ...string) error {
	code, err := s.Cluster.NodeExecFiles(ctx, node, in, out, problems, argv...)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s on node %s ended with %d", argv[0], node, code)
	}
	return err
}

// writeFile writes a file on a node.
func writeFile(ctx context.Context, s *Scene, node, file string, text []byte) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	go func() {
		_, _ = in.Write(text) // the other end says if it got less
		in.Close()
	}()
	return exec(ctx, s, node, out, null, null, "sh", "-c", `cat > "$0"`, file)
}
