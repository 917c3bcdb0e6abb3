// Command lab runs a local Kubernetes cluster whose nodes can lose their power and
// their network. It needs root on Linux, Go, and on first use Debian's packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
)

func main() {
	// A second interrupt ends the program at once; the next start cleans up then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		os.Exit(int(code))
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "lab: interrupted; what was begun is undone")
		os.Exit(interrupted)
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	if errors.Is(err, cluster.ErrNotRunning) {
		fmt.Fprintln(os.Stderr, "lab: start it with: lab up")
	}
	os.Exit(1)
}

// interrupted is the exit code that shells give to a program that SIGINT has ended.
const interrupted = 130

// exitCode ends lab with the code of a program that it ran.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("ended with %d", int(c)) }
