// Command scale measures Lifeboat in a large cluster: how fast its scheduler places
// pods, and what its watcher costs. The API server and its etcd are real, and so are
// Lifeboat's programs; the nodes are objects alone, with nobody behind them.
//
// It ends with status 1 when something was not measured.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/marked"
)

// module is the folder of the Lifeboat module that the working folder lies in.
var module string

func main() {
	// A second interrupt ends the program at once, and the programs that it has
	// started with it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	klog.SetLogger(logr.Discard()) // what matters comes back as an error
	err := newCommand().ExecuteContext(ctx)
	switch {
	case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
		fmt.Fprintln(os.Stderr, "scale: interrupted; nothing is left of it")
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// interrupted is the exit code that shells give to a program that SIGINT has ended.
const interrupted = 130

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "scale", Short: "Measure Lifeboat's scheduler and watcher in a large cluster",
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			module, err = image.Module("")
			return err
		},
	}
	var write bool
	root.PersistentFlags().BoolVar(&write, "write", false, "write the table into docs/benchmarks.md as well")
	output := func(block string) func(table string) error {
		return func(table string) error {
			if _, err := fmt.Fprint(os.Stdout, table); err != nil || !write {
				return err
			}
			return marked.Write(filepath.Join(module, "docs/benchmarks.md"), block, "```\n"+table+"```\n")
		}
	}
	root.AddCommand(schedulerCommand(output("scale-scheduler")), watcherCommand(output("scale-watcher")))
	return root
}

// teller returns a function that tells of progress, with the time since now.
func teller() func(step string) {
	begin := time.Now()
	return func(step string) { fmt.Fprintf(os.Stderr, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step) }
}

// build builds one of Lifeboat's programs from the sources here and returns its path.
func build(ctx context.Context, progress func(step string), folder string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	progress("building " + filepath.Base(folder))
	output := filepath.Join(cache, "lifeboat/built/scale", filepath.Base(folder))
	return output, image.GoBinary(ctx, filepath.Join(module, folder), ".", output, "-ldflags=-s -w")
}
