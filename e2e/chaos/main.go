// Command chaos breaks a local cluster in every way that Lifeboat must live with, one
// after the other, and prints what came of each: whether a copy ever ran beside another,
// what was lost, and for how long the programs stood still.
//
// It ends with status 1 when a scenario failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/e2e/witness"
	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

// scenarios are all, in the order of the table.
var scenarios = slices.Concat(powerScenarios, networkScenarios, apiScenarios, watcherScenarios(), processScenarios)

func main() {
	begin := time.Now()
	config := cluster.Config{Progress: func(step string) {
		fmt.Fprintf(os.Stderr, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}
	only := flag.String("only", "", "scenarios to run, separated by commas; a part of a name stands for all that begin with it")
	list := flag.Bool("list", false, "list the scenarios and end")
	write := flag.String("write", "", "document whose marked table gets the rows, as docs/explanation/chaos.md")
	attach := flag.Bool("attach", false, "use a running cluster that was started for Lifeboat, and leave it running")
	flag.IntVar(&config.Nodes, "nodes", 5, "number of nodes")
	flag.StringVar(&config.Name, "name", "chaos", "the cluster's name")
	flag.Parse()
	if *list {
		for _, sc := range scenarios {
			fmt.Printf("%-26s %s\n", sc.name, sc.about)
		}
		return
	}
	// A second interrupt ends the program at once; the next start cleans up then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, config, *only, *write, *attach); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, config cluster.Config, only, write string, attach bool) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	t, closeAll, err := open(ctx, config, attach)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	var names []string
	for _, sc := range scenarios {
		names = append(names, sc.name)
	}
	var rows []row
	failures := 0
	for _, sc := range chosen {
		r := t.perform(ctx, sc)
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("interrupted in %s: %w", sc.name, ctx.Err()), printTable(os.Stdout, rows))
		}
		if !t.report(r) {
			failures++
		}
		rows = append(rows, r.row())
		// At once: an interruption must not lose what has come to its end.
		if write != "" {
			if err := writeTable(write, rows, names); err != nil {
				return err
			}
		}
	}
	if err := printTable(os.Stdout, rows); err != nil {
		return err
	}
	if failures > 0 {
		return fmt.Errorf("%d of %d scenarios failed", failures, len(chosen))
	}
	return nil
}

// choose returns the scenarios that --only names.
func choose(only string) ([]scenario, error) {
	if only == "" {
		return scenarios, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(only, ",") {
		matches := func(sc scenario) bool { return sc.name == name }
		if !slices.ContainsFunc(scenarios, matches) {
			matches = func(sc scenario) bool { return strings.HasPrefix(sc.name, name) }
		}
		before := len(chosen)
		for _, sc := range scenarios {
			if matches(sc) {
				chosen = append(chosen, sc)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("--only %s: no scenario has that name: --list tells them", name)
		}
	}
	return chosen, nil
}

// open starts a cluster, or takes the one that runs, with a witness in it.
func open(ctx context.Context, config cluster.Config, attach bool) (_ *theatre, closeAll func() error, err error) {
	stepper, err := buildStepper(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	dir, err := config.Folder()
	if err != nil {
		return nil, nil, err
	}
	redis, err := image.FromDebian(ctx, filepath.Join(dir, "cache"), redisImage, []string{"redis-server"}, []string{"redis-server"})
	if err != nil {
		return nil, nil, err
	}
	start, end := deploy.Start, deploy.Stop
	if attach {
		start, end = deploy.Attach, func(*cluster.Cluster) error { return nil }
	} else {
		config.Images = append(config.Images, stepper, redis)
	}
	c, _, err := start(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, end(c))
		}
	}()
	if attach {
		for _, archive := range []string{stepper, redis} {
			if err := c.LoadImage(ctx, archive); err != nil {
				return nil, nil, err
			}
		}
	}
	rest, err := c.RESTConfig()
	if err != nil {
		return nil, nil, err
	}
	rest.Timeout = apiTimeout
	api, err := observe.NewClient(rest)
	if err != nil {
		return nil, nil, err
	}
	conn, err := c.ListenPacket(ctx, "udp4", net.JoinHostPort(c.ControlPlaneAddress().String(), "0"))
	if err != nil {
		return nil, nil, fmt.Errorf("start the witness: %w", err)
	}
	w := witness.Listen(conn)
	t := &theatre{
		cluster: c, api: api, witness: w, address: conn.LocalAddr().String(),
		progress: func(format string, args ...any) { config.Progress(fmt.Sprintf(format, args...)) },
	}
	return t, func() error { return errors.Join(w.Close(), end(c)) }, nil
}

// apiTimeout bounds each request: the API server may stand still.
const apiTimeout = 5 * time.Second

// buildStepper builds the steppers' image and returns its archive.
func buildStepper(ctx context.Context, config cluster.Config) (string, error) {
	dir, err := config.Folder()
	if err != nil {
		return "", err
	}
	module, err := image.Module("")
	if err != nil {
		return "", err
	}
	folder := filepath.Join(dir, "built", config.Name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("build the stepper: %w", err)
	}
	binary := filepath.Join(folder, "stepper")
	if err := image.GoBinary(ctx, module, "./e2e/witness/stepper", binary); err != nil {
		return "", err
	}
	archive := binary + ".tar"
	return archive, image.FromBinary(archive, workload.Image, binary)
}

// report says what came of a scenario, and whether it passed.
func (t *theatre) report(r *result) bool {
	faults := r.faults()
	verdict := "passed"
	if len(faults) > 0 {
		verdict = "FAILED"
	}
	made, seen := r.lost()
	t.progress("%s %s after %.0f s: %d recoveries, RTO %s, longest standstill %s, %d steps lost, of them %d seen, two copies %s",
		r.scenario.name, verdict, r.took.Seconds(), len(r.moves), seconds(r.rto()), seconds(r.standstill()), made, seen, overlapText(r.overlap()))
	for _, text := range slices.Concat(faults, r.logs) {
		t.progress("    %s", text)
	}
	return len(faults) == 0
}
