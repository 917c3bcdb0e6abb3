package main

import (
	"context"
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

// A program is told by how its command line begins, as the kernel shows it, with
// spaces between the arguments.
type program string

// The programs that are stopped and killed.
const (
	agent      program = "/lifeboat-checkpointer agent"
	fencer     program = "/lifeboat-checkpointer fencer"
	watcher    program = "/lifeboat-watcher"
	kubelet    program = "kubelet "
	containerd program = "containerd "
	apiServer  program = "kube-apiserver "
)

// signalling sends a signal to the programs whose command line begins so. It fails if
// there is none.
const signalling = `found=1
for p in /proc/[0-9]*; do
	line="$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" || continue
	case "$line" in "$1"*) kill -"$2" "${p#/proc/}" && found=0;; esac
done
exit $found`

// signal sends a signal to a program on a machine.
func (s *stage) signal(ctx context.Context, machine string, p program, signal string) error {
	if _, err := s.cluster.NodeExec(ctx, machine, "sh", "-c", signalling, "sh", string(p), signal); err != nil {
		return fmt.Errorf("send SIG%s to %q on %s: %w", signal, p, machine, err)
	}
	return nil
}

// stopped stops a program for a time.
func (s *stage) stopped(ctx context.Context, machine string, p program, d time.Duration) error {
	if err := s.signal(ctx, machine, p, "STOP"); err != nil {
		return err
	}
	on := func(ctx context.Context) error { return s.signal(ctx, machine, p, "CONT") }
	s.undo(on)
	if err := s.lasts(ctx, d); err != nil {
		return err
	}
	return on(ctx)
}

// On the node of both steppers.
func killed(p program) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		if err := s.signal(ctx, s.node(workload.Ledger), p, "KILL"); err != nil {
			return err
		}
		return s.lasts(ctx, afterKill)
	}
}

func stopped(p program, d time.Duration) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error { return s.stopped(ctx, s.node(workload.Ledger), p, d) }
}

// afterKill is how long is looked at what comes of a killed program: longer than it
// takes Lifeboat to find a node lost.
const afterKill = 10 * time.Second

var processScenarios = []scenario{
	{name: "agent-killed", about: "the checkpointer's agent is killed", want: outcome{standstill: 2 * time.Second}, fault: killed(agent)},
	{name: "agent-stopped", about: "the checkpointer's agent stands still for 30 s", want: outcome{moved: anyNumber}, fault: stopped(agent, 30*time.Second)},
	{name: "fencer-killed", about: "the fencer is killed", want: outcome{standstill: 5 * time.Second}, fault: killed(fencer)},
	{name: "fencer-stopped", about: "the fencer stands still for 30 s", want: outcome{standstill: 5 * time.Second}, fault: stopped(fencer, 30*time.Second)},
	{name: "kubelet-killed", about: "kubelet is killed", want: outcome{standstill: 2 * time.Second}, fault: killed(kubelet)},
	{name: "kubelet-stopped", about: "kubelet stands still for 60 s", want: outcome{standstill: 2 * time.Second}, fault: stopped(kubelet, time.Minute)},
	{name: "containerd-killed", about: "containerd is killed", want: outcome{standstill: 2 * time.Second}, fault: killed(containerd)},
	{name: "containerd-stopped", about: "containerd stands still for 30 s", want: outcome{standstill: 2 * time.Second}, fault: stopped(containerd, 30*time.Second)},
}
