// Kubectl-lifeboat is run by kubectl as "kubectl lifeboat": it shows how pods are
// protected, and moves them.
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
	// A second interrupt ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	err := kubectl.New(streams).ExecuteContext(ctx)
	if message := kubectl.Message(err); message != "" {
		fmt.Fprintln(os.Stderr, "error:", message)
	}
	os.Exit(kubectl.ExitStatus(err))
}
