// Kubectl-lifeboat is run by kubectl as "kubectl lifeboat": it says of pods what
// Lifeboat can do for them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/lifeboat-dev/lifeboat/kubectl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	err := kubectl.New(streams).ExecuteContext(ctx)
	if message := kubectl.Message(err); message != "" {
		fmt.Fprintln(os.Stderr, "error:", message)
	}
	os.Exit(kubectl.ExitStatus(err))
}
