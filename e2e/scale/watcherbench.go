package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

const (
	watcherToken = "watcher-token"
	// watcherUser is bound to the shipped roles.
	watcherUser = "system:serviceaccount:lifeboat-system:lifeboat-watcher"
	// noticedWithin bounds how long the watcher may take to declare a node lost whose
	// Lease alone speaks for it.
	noticedWithin = 2 * time.Minute
	// recoveredWithin bounds each step after that.
	recoveredWithin = 2 * time.Minute
	// afterwards is how long requests are counted after the last pod is gone.
	afterwards = 2 * time.Second
)

// watcherOptions are how the watcher is measured.
type watcherOptions struct {
	nodes, podsPerNode               int
	settle, idle                     time.Duration
	checkpointInterval, loadInterval time.Duration
	program                          string
}

func (o watcherOptions) validate() error {
	if o.nodes < minNodes || o.nodes > 1<<16 || o.podsPerNode < 1 || o.podsPerNode > podsOnNode {
		return fmt.Errorf("use %d to %d nodes, with 1 to %d pods each", minNodes, 1<<16, podsOnNode)
	}
	if min(o.idle, o.checkpointInterval, o.loadInterval) < time.Second {
		return errors.New("--idle, --interval and --load must be at least 1s")
	}
	return nil
}

// watcherRun is what was measured.
type watcherRun struct {
	watcherOptions
	// ready is how long the watcher took to lead and to know all nodes.
	ready time.Duration
	// idle: memory at the end, processor time and requests over it, and the writes a
	// second that the cluster itself made, which the watcher hears of.
	memory                 memory
	processor              time.Duration
	took                   time.Duration
	requests               map[string]int
	leases, reports, loads float64
	recovery               recovery
	// after is the memory after the recovery.
	after memory
}

func watcherCommand(output func(string) error) *cobra.Command {
	var o watcherOptions
	cmd := &cobra.Command{
		Use: "watcher", Short: "Measure what the watcher costs, and the recovery of one node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			run, err := benchWatcher(cmd.Context(), teller(), o)
			if err != nil {
				return err
			}
			return output(watcherTable(run))
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.nodes, "nodes", 1000, "nodes")
	flags.IntVar(&o.podsPerNode, "pods", 10, "protected pods on each")
	flags.DurationVar(&o.settle, "settle", 20*time.Second, "time before anything is measured")
	flags.DurationVar(&o.idle, "idle", 2*time.Minute, "time that is measured without a loss")
	flags.DurationVar(&o.checkpointInterval, "interval", 2*time.Minute, "time between two checkpoints of a pod, each of which is reported to the API")
	flags.DurationVar(&o.loadInterval, "load", time.Minute, "time between two changes of a node's load that its checkpointer tells; at most every 10s")
	flags.StringVar(&o.program, "program", "", "watcher to measure (default: built from the sources here)")
	return cmd
}

// benchWatcher makes a cluster, and runs a watcher in it.
func benchWatcher(ctx context.Context, progress func(string), o watcherOptions) (*watcherRun, error) {
	if o.program == "" {
		var err error
		if o.program, err = build(ctx, progress, "cmd/lifeboat-watcher"); err != nil {
			return nil, err
		}
	}
	run := &watcherRun{watcherOptions: o}
	return run, within(ctx, progress, func(s *scope) error {
		p, err := startPlane(s, watcherToken, watcherUser, "namespace.yaml", "watcher-rbac.yaml")
		if err != nil {
			return err
		}
		held, err := startHolders(s, p, o.nodes)
		if err != nil {
			return err
		}
		progress(fmt.Sprintf("making %d nodes", o.nodes))
		if err := p.createNodes(s.ctx, o.nodes, held.address); err != nil {
			return err
		}
		progress(fmt.Sprintf("making %d protected pods", o.nodes*o.podsPerNode))
		pods := &population{p: p, holders: held, nodes: o.nodes, perNode: o.podsPerNode}
		if err := pods.create(s.ctx); err != nil {
			return err
		}
		// Now, because nobody serves the webhook at the name that it gives.
		if err := p.apply(s.ctx, "admission.yaml"); err != nil {
			return err
		}
		return within(s.ctx, progress, func(s *scope) error { return run.measure(s, p, pods) })
	})
}

// measure starts the watcher, leaves it alone for a while, and lets it lose a node.
func (run *watcherRun) measure(s *scope, p *plane, pods *population) error {
	leases := &pulse{what: "Leases", n: run.nodes, every: leaseEvery, do: pods.renew}
	reports := &pulse{what: "Checkpoints", n: run.nodes * run.podsPerNode, every: run.checkpointInterval, do: pods.report}
	loads := &pulse{what: "loads", n: run.nodes, every: run.loadInterval, do: pods.tellLoad}
	beats := pulses{leases, reports, loads}
	failed := make(chan error, len(beats))
	for _, beat := range beats {
		go func() { failed <- beat.run(s.ctx) }()
	}
	pause := func(what string, d time.Duration) error {
		s.progress(what)
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case err := <-failed:
			return errors.Join(err, s.ctx.Err())
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	w, err := run.startWatcher(s, p)
	if err != nil {
		return err
	}
	beats.reset()
	if err := pause(fmt.Sprintf("letting the watcher settle for %s", run.settle), run.settle); err != nil {
		return err
	}
	if err := beats.keepUp(run.settle); err != nil {
		return err // the rest would take minutes, and show the same
	}

	position, err := p.audit.position()
	if err != nil {
		return err
	}
	before, err := processorTime(w.Process.Pid)
	if err != nil {
		return err
	}
	begin := time.Now()
	beats.reset()
	if err := pause(fmt.Sprintf("leaving it alone for %s", run.idle), run.idle); err != nil {
		return err
	}
	run.took = time.Since(begin)
	after, err := processorTime(w.Process.Pid)
	if err != nil {
		return err
	}
	run.processor = after - before
	if run.memory, err = memoryOf(w.Process.Pid); err != nil {
		return err
	}
	requests, err := p.audit.since(position)
	if err != nil {
		return err
	}
	run.requests = counts(requests)
	if err := beats.keepUp(run.took); err != nil {
		return err
	}
	run.leases, run.reports, run.loads = leases.rate(run.took), reports.rate(run.took), loads.rate(run.took)
	if err := run.lose(s, p, pods, pause); err != nil {
		return err
	}
	run.after, err = memoryOf(w.Process.Pid)
	return err
}

// lose ends the first node, and follows what the watcher does about it.
func (run *watcherRun) lose(s *scope, p *plane, pods *population, pause func(string, time.Duration) error) error {
	watch, err := watchRecovery(s.ctx, p, nodeName(0), run.podsPerNode)
	if err != nil {
		return err
	}
	position, err := p.audit.position()
	if err != nil {
		return err
	}
	asked := pods.holders.asked.Load()
	silent := time.Now()
	pods.lost.Store(true)
	s.progress("node " + nodeName(0) + " falls silent")
	if err := p.setUnknown(s.ctx, nodeName(0)); err != nil {
		return err
	}
	for _, step := range []struct {
		within time.Duration
		what   string
		at     func(recovery) time.Time
	}{
		{noticedWithin, "the node is declared lost", func(r recovery) time.Time { return r.lost }},
		{recoveredWithin, "the node is fenced", func(r recovery) time.Time { return r.fenced }},
		{recoveredWithin, "each of its pods has a migration", func(r recovery) time.Time { return r.recorded }},
		{recoveredWithin, "each migration says what is held", func(r recovery) time.Time { return r.prepared }},
		{recoveredWithin, "all lost pods are gone", func(r recovery) time.Time { return r.deleted }},
	} {
		seen, err := watch.step(s.ctx, step.within, step.what, step.at)
		if err != nil {
			return err
		}
		s.progress(fmt.Sprintf("%s, after %.1f s", step.what, step.at(seen).Sub(silent).Seconds()))
	}
	if err := pause("counting what is still asked for", afterwards); err != nil {
		return err
	}
	if run.recovery, err = watch.now(); err != nil {
		return err
	}
	run.recovery.silent = silent
	requests, err := p.audit.since(position)
	if err != nil {
		return err
	}
	var made []request
	for _, r := range requests {
		if !strings.HasSuffix(r.resource, "leases") && !r.at.Before(run.recovery.lost.Add(-time.Second)) {
			made = append(made, r)
		}
	}
	run.recovery.requests = counts(made)
	run.recovery.asked = pods.holders.asked.Load() - asked
	if run.recovery.held != run.podsPerNode {
		return fmt.Errorf("%d of %d migrations name a checkpoint", run.recovery.held, run.podsPerNode)
	}
	return nil
}

// setUnknown reports a node as the node lifecycle controller does.
func (p *plane) setUnknown(ctx context.Context, name string) error {
	node := &corev1.Node{}
	if err := p.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		return err
	}
	for i := range node.Status.Conditions {
		node.Status.Conditions[i].Status = corev1.ConditionUnknown
		node.Status.Conditions[i].Reason = "NodeStatusUnknown"
	}
	return p.Status().Update(ctx, node)
}

// startWatcher starts the program, and waits until it leads and knows all nodes.
func (run *watcherRun) startWatcher(s *scope, p *plane) (*controlplane.Program, error) {
	metrics := controlplane.FreeAddress(s)
	begin := time.Now()
	w := controlplane.StartProgram(s, []string{"KUBECONFIG=" + p.Kubeconfig(watcherToken), "POD_NAME=watcher-1", "POD_IP=127.0.0.1"},
		run.program, "--metrics-address", metrics, "--webhook-port", controlplane.FreePort(s), "--api-port", controlplane.FreePort(s), "--member-port", controlplane.FreePort(s))
	alive := fmt.Sprintf("lifeboat_nodes{state=\"Alive\"} %d\n", run.nodes)
	const leads = `leader_election_master_status{name="lifeboat-watcher"} 1` + "\n"
	err := until(s.ctx, readyWithin, "the watcher leads, and sees all nodes alive", func(ctx context.Context) error {
		body, err := get(ctx, http.DefaultClient, "http://"+metrics+"/metrics")
		if err == nil && (!strings.Contains(string(body), alive) || !strings.Contains(string(body), leads)) {
			err = errNotYet
		}
		return err
	})
	run.ready = time.Since(begin)
	return w, err
}
