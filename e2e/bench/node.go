package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
)

// buildFiller builds the program of the containers that are measured. It is one of
// its own, for this one's packages fill more memory than it.
func buildFiller(ctx context.Context, file string) error {
	module, err := image.Module("")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return image.GoBinary(ctx, module, "./e2e/bench/filler", file)
}

// inNode runs this program with args in a node, and passes on what it tells.
func inNode(ctx context.Context, folder string, args []string, tell func(event)) error {
	reader, writer := io.Pipe()
	told := make(chan error, 1)
	go func() {
		err := decode(reader, tell)
		reader.CloseWithError(err) // the node must not wait for us
		told <- err
	}()
	err := nodetest.Run(ctx, folder, args, writer, os.Stderr)
	writer.Close()
	if err != nil {
		err = fmt.Errorf("measure in a node: %w", err)
	}
	return errors.Join(err, <-told)
}

func decode(reader io.Reader, tell func(event)) error {
	events := json.NewDecoder(reader)
	for {
		var e event
		err := events.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what was measured: %w", err)
		}
		tell(e)
	}
}
