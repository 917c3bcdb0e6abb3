// Lifeboat-checkpointer runs on every node: it checkpoints the protected pods
// there, holds copies of other nodes' checkpoints, prepares restores, and keeps
// the node's fence.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/checkpointer/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command.New().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lifeboat-checkpointer:", err)
		os.Exit(command.ExitCode(err))
	}
}
