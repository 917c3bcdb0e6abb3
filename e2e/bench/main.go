// Command bench measures what Lifeboat's checkpoints and restores cost, beside those
// of stock runc on the same container in the same run. It needs root.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

func main() {
	if nodetest.Workload(nil) {
		return
	}
	// A second interrupt ends the program at once, and with it the node.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	err := newCommand().ExecuteContext(ctx)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; nothing is left of it")
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// interrupted is the exit code that shells give to a program that SIGINT has ended.
const interrupted = 130

// newCommand is the whole command line.
func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "bench", Short: "Measure checkpoints and restores beside stock runc's",
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(
		benchCommand(benchCheckpoint, "Measure for how long a checkpoint stops a container"),
		benchCommand(benchStore, "Measure what generations take of disk, network and processor"),
		benchCommand(benchRestore, "Measure how fast a container is back, and its memory filled in"),
	)
	return root
}

func benchCommand(b bench, short string) *cobra.Command {
	var o options
	var out string
	var prefer bool
	cmd := &cobra.Command{
		Use: string(b), Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := plan(b, o)
			if err != nil {
				return err
			}
			if nodetest.Within() {
				if prefer {
					if err := preferCPU(); err != nil {
						return err
					}
				}
				return measure(cmd.Context(), b, rows, os.Stdout)
			}
			if kinds := []string{"", ".csv", ".json"}; !slices.Contains(kinds, filepath.Ext(out)) || (out != "" && filepath.Ext(out) == "") {
				return fmt.Errorf("--out: %s: use a name that ends in .csv or .json", out)
			}
			return run(cmd.Context(), b, out)
		},
	}
	flags := cmd.Flags()
	contents := "random, text, zeros, or redis"
	if b == benchRestore {
		contents = "random, text or zeros"
	}
	flags.StringSliceVar(&o.sizes, "sizes", nil, "sizes of the memory that is filled (default 64M,1G,4G)")
	flags.StringSliceVar(&o.contents, "content", nil, "what it is filled with: "+contents+" (default all)")
	if b != benchRestore {
		flags.IntSliceVar(&o.dirty, "dirty", nil, "percent of the pages that are rewritten between two checkpoints (default 0,1,10)")
	}
	flags.IntVar(&o.runs, "runs", 0, "measurements of each row (default 5 to 20, by its size)")
	flags.BoolVar(&o.quick, "quick", false, "measure a few rows, in less than a minute")
	flags.BoolVar(&o.shared, "shared", false, "have the memory be such that processes share it without a file, as a database's buffers")
	flags.BoolVar(&prefer, "prefer-cpu", false, "give what is measured the processors before all else on this machine")
	flags.StringVar(&out, "out", "", "file to write every measurement to, as .csv or .json")
	return cmd
}

// run measures in a node of its own, and reports.
func run(ctx context.Context, b bench, out string) (err error) {
	r := newReport(b, os.Stdout, os.Stderr)
	// On a disk, as the store of a node is; /tmp is often memory.
	folder, err := os.MkdirTemp("/var/tmp", "lifeboat-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := buildFiller(ctx, filepath.Join(folder, "disk", fillerFile)); err != nil {
		return err
	}
	err = inNode(ctx, folder, os.Args[1:], r.event)
	r.end()
	if out != "" {
		err = errors.Join(err, r.write(out))
	}
	if n := len(r.Failures); err == nil && n > 0 {
		err = fmt.Errorf("%d rows could not be measured", n)
	}
	return err
}
