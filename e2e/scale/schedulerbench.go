package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// variant is one of the ways to place pods that are compared.
type variant struct {
	name                          string
	plugin, protected, successors bool
}

// variants are measured in this order, again and again. Ratios are to the first.
var variants = []variant{
	{name: "without the plugin"},
	{name: "unprotected", plugin: true},
	{name: "protected", plugin: true, protected: true},
	{name: "successors", plugin: true, protected: true, successors: true},
}

// size is how many pods are placed on how many nodes.
type size struct{ nodes, pods int }

func parseSizes(texts []string) ([]size, error) {
	var sizes []size
	for _, text := range texts {
		var s size
		if n, err := fmt.Sscanf(text, "%d:%d", &s.nodes, &s.pods); n != 2 || err != nil || s.nodes < minNodes || s.pods < 2 || s.pods > s.nodes*podsOnNode {
			return nil, fmt.Errorf("--sizes: %q is not allowed; use nodes:pods, as 1000:2000, with at least %d nodes and at most %d pods on each",
				text, minNodes, podsOnNode)
		}
		sizes = append(sizes, s)
	}
	return sizes, nil
}

const (
	minNodes = 10
	// podsOnNode is how many pods fit on a node, with the shorter rows' room to spare.
	podsOnNode = 100
	// patience is how long it may take until one more pod has a node.
	patience = 30 * time.Second
)

// schedulerOptions are how the scheduler is measured.
type schedulerOptions struct {
	sizes               []size
	rounds              int
	successors, stream  int
	rate                float64
	only                []string
	program, profileDir string
}

func (o schedulerOptions) validate() error {
	if o.rounds < 1 || o.successors < 2 || o.stream < 1 || o.rate <= 0 {
		return errors.New("--rounds and --stream must be at least 1, --successors at least 2, and --rate above 0")
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(variants, func(v variant) bool { return v.name == name }) {
			return fmt.Errorf("--only: there is no %q", name)
		}
	}
	return nil
}

func (o schedulerOptions) variants() []variant {
	if len(o.only) == 0 {
		return variants
	}
	return slices.DeleteFunc(slices.Clone(variants), func(v variant) bool { return !slices.Contains(o.only, v.name) })
}

// schedulerRun is what one run of a variant came to.
type schedulerRun struct {
	size    size
	variant variant
	// placed is how many pods waited at the begin, and perSecond how many of them got
	// a node in a second.
	placed    int
	perSecond float64
	// processor is what the scheduler used of the processors for each of them, and
	// cycle how long it took to choose a node, on average.
	processor, cycle time.Duration
	// requests are those that the scheduler made for them.
	requests map[string]int
	// latencies are those of pods that came one by one.
	latencies []time.Duration
	// toHolders is how many of the placed came to a node with their checkpoint.
	toHolders int
}

func schedulerCommand(output func(string) error) *cobra.Command {
	var o schedulerOptions
	var sizes []string
	cmd := &cobra.Command{
		Use: "scheduler", Short: "Measure how fast pods are placed, with the plugin and without", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.sizes, err = parseSizes(sizes); err != nil {
				return err
			}
			if err := o.validate(); err != nil {
				return err
			}
			runs, err := benchScheduler(cmd.Context(), teller(), o)
			return errors.Join(err, output(schedulerTable(runs)))
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&sizes, "sizes", []string{"1000:2000", "5000:3000"}, "numbers of nodes, and of the pods that are placed on them at once")
	flags.IntVar(&o.rounds, "rounds", 3, "runs of each variant")
	flags.IntVar(&o.successors, "successors", 300, "pods that take the place of lost ones, in the variants with such")
	flags.IntVar(&o.stream, "stream", 150, "pods that come one by one, for their latency")
	flags.Float64Var(&o.rate, "rate", 25, "how many of these come in a second")
	flags.StringSliceVar(&o.only, "only", nil, "names of the variants to measure (default all)")
	flags.StringVar(&o.program, "program", "", "scheduler to measure (default: built from the sources here)")
	flags.StringVar(&o.profileDir, "profile", "", "folder for a processor profile of each run")
	return cmd
}

// benchScheduler runs all variants in turn, for each size on a control plane of its
// own. It returns what it has measured until an error.
func benchScheduler(ctx context.Context, progress func(string), o schedulerOptions) (runs []schedulerRun, err error) {
	if o.program == "" {
		if o.program, err = build(ctx, progress, "cmd/lifeboat-scheduler"); err != nil {
			return nil, err
		}
	}
	for _, size := range o.sizes {
		err := within(ctx, progress, func(s *scope) error {
			progress(fmt.Sprintf("making %d nodes", size.nodes))
			p, err := startPlane(s, schedulerToken, schedulerUser, "scheduler/rbac.yaml")
			if err != nil {
				return err
			}
			if err := p.createNodes(s.ctx, size.nodes, func(int) string { return "" }); err != nil {
				return err
			}
			for round := range o.rounds {
				for _, v := range o.variants() {
					run, err := runVariant(s.ctx, progress, p, o, size, v, round)
					if err != nil {
						return fmt.Errorf("%d nodes, %s: %w", size.nodes, v.name, err)
					}
					runs = append(runs, run)
					progress(fmt.Sprintf("%d nodes, round %d of %d, %s: %.0f pods a second", size.nodes, round+1, o.rounds, v.name, run.perSecond))
				}
			}
			return nil
		})
		if err != nil {
			return runs, err
		}
	}
	return runs, nil
}

// runVariant measures one variant once: first pods that wait already when the
// scheduler begins, then pods that come one by one.
func runVariant(ctx context.Context, progress func(string), p *plane, o schedulerOptions, size size, v variant, round int) (schedulerRun, error) {
	run := schedulerRun{size: size, variant: v, placed: size.pods}
	if v.successors {
		run.placed = min(o.successors, size.pods)
	}
	err := within(ctx, progress, func(s *scope) (err error) {
		if err := p.holdLease(s.ctx); err != nil {
			return err
		}
		s.atEnd(func() error {
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if ctx.Err() != nil {
				return nil // all of it goes
			}
			return errors.Join(p.releaseLease(after), p.removeAll(after))
		})
		if v.successors {
			if err := p.setFence(s.ctx, nodeName(0), v1alpha1.FenceFenced); err != nil {
				return err
			}
			defer func() {
				err = errors.Join(err, p.setFence(context.WithoutCancel(s.ctx), nodeName(0), v1alpha1.FenceRunning))
			}()
		}
		watch, err := watchPlacements(s.ctx, p)
		if err != nil {
			return err
		}
		waiting, stream := newBatch("waiting", run.placed, v), newBatch("stream", o.stream, v)
		for _, b := range []batch{waiting, stream} {
			if err := p.createMigrations(s.ctx, b, size.nodes); err != nil {
				return err
			}
		}
		scheduler, err := startScheduler(s, p, o.program, v)
		if err != nil {
			return err
		}
		if err := each(s.ctx, run.placed, func(ctx context.Context, i int) error { return p.Create(ctx, waiting.pod(i)) }); err != nil {
			return err
		}
		err = until(s.ctx, readyWithin, "the scheduler has seen all pods", func(ctx context.Context) error {
			if queued, err := scheduler.queued(ctx); err != nil || queued < run.placed {
				return errors.Join(err, fmt.Errorf("it has seen %d of %d", queued, run.placed))
			}
			return nil
		})
		if err != nil {
			return err
		}
		profile := p.profile(s, scheduler, o, fmt.Sprintf("%d-%s-%d", size.nodes, strings.ReplaceAll(v.name, " ", "-"), round))
		if err := run.measureWaiting(s.ctx, p, scheduler, watch, waiting); err != nil {
			return err
		}
		if err := <-profile; err != nil {
			return err
		}
		return run.measureStream(s.ctx, p, watch, stream, o.rate)
	})
	return run, err
}

// measureWaiting lets the scheduler begin, and measures until all pods have nodes.
func (run *schedulerRun) measureWaiting(ctx context.Context, p *plane, scheduler *scheduler, watch *placements, b batch) error {
	position, err := p.audit.position()
	if err != nil {
		return err
	}
	before, err := processorTime(scheduler.Process.Pid)
	if err != nil {
		return err
	}
	if err := p.releaseLease(ctx); err != nil {
		return err
	}
	if err := watch.all(ctx, len(b.names), patience); err != nil {
		return err
	}
	after, err := processorTime(scheduler.Process.Pid)
	if err != nil {
		return err
	}
	span, err := watch.span(b.names)
	if err != nil {
		return err
	}
	requests, err := p.audit.await(ctx, position, "create pods/binding", len(b.names))
	if err != nil {
		return err
	}
	run.perSecond = float64(len(b.names)-1) / span.Seconds()
	run.processor = (after - before) / time.Duration(len(b.names))
	run.requests = counts(requests)
	if run.cycle, err = scheduler.cycle(ctx); err != nil {
		return err
	}
	for i, name := range b.names {
		if b.lost && slices.Contains(b.holders(i, run.size.nodes), watch.nodeOf(name)) {
			run.toHolders++
		}
	}
	return p.checkClaims(ctx, b)
}

// measureStream creates pods at a rate, and measures how long each has no node.
func (run *schedulerRun) measureStream(ctx context.Context, p *plane, watch *placements, b batch, rate float64) error {
	ticker := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer ticker.Stop()
	for i := range b.names {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := p.Create(ctx, b.pod(i)); err != nil {
			return err
		}
	}
	if err := watch.all(ctx, run.placed+len(b.names), patience); err != nil {
		return err
	}
	var err error
	run.latencies, err = watch.latencies(b.names)
	return err
}

// checkClaims makes sure that successors were measured: each has claimed its Migration.
func (p *plane) checkClaims(ctx context.Context, b batch) error {
	if !b.lost {
		return nil
	}
	var migrations v1alpha1.MigrationList
	if err := p.List(ctx, &migrations); err != nil {
		return err
	}
	claimed := map[string]bool{}
	for _, m := range migrations.Items {
		if m.Status.Claim != nil {
			claimed[m.Status.Claim.PodName] = true
		}
	}
	for _, name := range b.names {
		if !claimed[name] {
			return fmt.Errorf("pod %s has a node, but has not claimed its migration", name)
		}
	}
	return nil
}

// profileSeconds is how long a processor profile takes.
const profileSeconds = 5

// profile takes a processor profile of what follows, if one is wanted, and sends nil
// or an error when it is done.
func (p *plane) profile(s *scope, scheduler *scheduler, o schedulerOptions, name string) <-chan error {
	done := make(chan error, 1)
	if o.profileDir == "" {
		done <- nil
		return done
	}
	go func() {
		content, err := scheduler.get(s.ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", profileSeconds))
		if err == nil {
			err = errors.Join(os.MkdirAll(o.profileDir, 0o755), os.WriteFile(filepath.Join(o.profileDir, name+".pprof"), content, 0o600))
		}
		done <- err
	}()
	return done
}
