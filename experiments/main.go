// Command experiments measures which way of moving a pod suits which application: on a
// local cluster, with and without Lifeboat, from the clients' side.
//
//	experiments run      measures what is missing in the table of runs (as root)
//	experiments report   writes plots and docs/experiments.md from the table alone
//	experiments plan     lists what would be measured
//
// The table is the whole state. An interrupt ends the run that is under way, which is
// measured anew the next time, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
	"github.com/lifeboat-dev/lifeboat/experiments/report"
	"github.com/lifeboat-dev/lifeboat/experiments/stage"
)

// options are what the command line says.
type options struct {
	matrix   matrix.Options
	cluster  cluster.Config
	data     string
	logs     string
	document string
	plots    string
}

func main() {
	// A second interrupt ends the program at once; the next start cleans up then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	err := command(ctx, os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "experiments:", err)
		os.Exit(1)
	}
}

const usage = `say what to do: "run", "report" or "plan"`

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	var o options
	flags := flag.NewFlagSet("experiments "+args[0], flag.ContinueOnError)
	flags.IntVar(&o.matrix.Runs, "runs", 5, "how often each combination is measured")
	flags.BoolVar(&o.matrix.All, "all", false, "every combination, which takes days, in place of one dimension varied at a time")
	flags.BoolVar(&o.matrix.Small, "small", false, "the cart with 64 MB alone, to see that all works")
	flags.StringVar(&o.matrix.Only, "only", "", "leave out what does not fit, as in 'app=cart|redis,strategy=live,memory=512'")
	flags.StringVar(&o.data, "data", "experiments/data/runs.csv", "the table of runs")
	flags.StringVar(&o.logs, "logs", "", "folder for the log of all requests of each run (empty: none is kept)")
	flags.StringVar(&o.document, "document", "docs/experiments.md", "the document that report writes")
	flags.StringVar(&o.plots, "plots", "docs/experiments", "the folder for its plots")
	flags.StringVar(&o.cluster.Name, "name", "experiments", "the cluster's name")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is one word too many", flags.Arg(0))
	}
	switch args[0] {
	case "run":
		return o.run(ctx)
	case "report":
		return o.report()
	case "plan":
		return o.plan()
	}
	return fmt.Errorf("%q: %s", args[0], usage)
}

// plan lists the runs that are missing.
func (o options) plan() error {
	plan, table, err := o.open()
	if err != nil {
		return err
	}
	missing := table.Missing(plan)
	for _, run := range missing {
		fmt.Fprintf(os.Stdout, "%s, run %d\n", run.Cell, run.Number)
	}
	fmt.Fprintln(os.Stdout, matrix.Progress(len(plan), table.Rows, missing))
	return nil
}

func (o options) open() ([]matrix.Run, *matrix.Table, error) {
	plan, err := o.matrix.Plan()
	if err != nil {
		return nil, nil, err
	}
	table, err := matrix.Open(o.data)
	return plan, table, err
}

func (o options) report() error {
	table, err := matrix.Open(o.data)
	if err != nil {
		return err
	}
	cells, err := o.matrix.Cells()
	if err != nil {
		return err
	}
	err = report.Write(table.Rows, report.Options{Document: o.document, Plots: o.plots, Source: o.data, Planned: cells})
	if errors.Is(err, report.ErrNothing) {
		return fmt.Errorf("%s: %w: measure with \"run\" first", o.data, err)
	}
	return err
}

// failuresInARow is how many runs in a row may come to nothing until no more are tried.
const failuresInARow = 3

// run measures what is missing.
func (o options) run(ctx context.Context) (err error) {
	plan, table, err := o.open()
	if err != nil {
		return err
	}
	missing := table.Missing(plan)
	progress(plan, table, missing)
	if len(missing) == 0 {
		return nil
	}
	begin := time.Now()
	o.cluster.Progress = func(step string) {
		fmt.Fprintf(os.Stderr, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}
	s, err := stage.Start(ctx, o.cluster, applications(missing))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	s.Logs = o.logs
	failures, skipped := 0, 0
	for i, run := range missing {
		row, err := s.Run(ctx, run)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %d of %d runs are in %s; the same command goes on from there", len(plan)-len(missing)+i-skipped, len(plan), o.data)
		}
		if err != nil {
			failures, skipped = failures+1, skipped+1
			fmt.Fprintf(os.Stderr, "%s, run %d, came to nothing: %v\n", run.Cell, run.Number, err)
			if failures == failuresInARow {
				return errors.Join(fmt.Errorf("%d runs in a row came to nothing, the last with: %w", failures, err), deploy.Describe(s.Cluster, ""))
			}
			continue
		}
		failures = 0
		if err := table.Add(row); err != nil {
			return err
		}
		fmt.Fprintln(os.Stderr, summary(row))
		progress(plan, table, missing[i+1:])
	}
	if skipped > 0 {
		return fmt.Errorf("%d runs came to nothing: the same command tries them again", skipped)
	}
	return nil
}

func progress(plan []matrix.Run, table *matrix.Table, missing []matrix.Run) {
	fmt.Fprintln(os.Stderr, matrix.Progress(len(plan), table.Rows, missing))
}

// summary says in a line what came of a run.
func summary(r matrix.Row) string {
	text := fmt.Sprintf("%s, run %d: %s", r.Cell, r.Number, r.Result)
	if r.Reason != "" {
		text += " " + r.Reason
	}
	if matrix.Known(r.DowntimeMS) {
		text += fmt.Sprintf(", downtime %.0f ms", r.DowntimeMS)
	}
	return text + fmt.Sprintf(", %d of %d requests failed, %d of %d writes lost, %d repeated", r.Failed, r.Requests, r.Lost, r.Acked, r.Repeated)
}

// applications are those of some runs.
func applications(runs []matrix.Run) []matrix.Application {
	var found []matrix.Application
	for _, r := range runs {
		if !slices.Contains(found, r.Application) {
			found = append(found, r.Application)
		}
	}
	return found
}
