package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

// powerOff cuts a node's power until the scenario is over.
func (s *stage) powerOff(ctx context.Context, node string) error {
	s.undo(func(ctx context.Context) error { return s.cluster.PowerOn(ctx, node) })
	return s.cluster.PowerOff(ctx, node)
}

var powerScenarios = []scenario{
	{
		name: "power-cut", short: true, about: "the node loses its power", want: outcome{moved: len(everybody)},
		fault: func(ctx context.Context, s *stage) error {
			if err := s.powerOff(ctx, s.node(workload.Ledger)); err != nil {
				return err
			}
			return s.recovered(ctx, everybody...)
		},
	},
	{
		name: "power-returns", about: "the node loses its power, comes back, and runs a new protected pod", want: outcome{moved: len(everybody)},
		fault: func(ctx context.Context, s *stage) error {
			node := s.node(workload.Ledger)
			if err := s.powerOff(ctx, node); err != nil {
				return err
			}
			if err := s.recovered(ctx, everybody...); err != nil {
				return err
			}
			if err := s.cluster.PowerOn(ctx, node); err != nil {
				return err
			}
			return s.usable(ctx, node)
		},
	},
	{
		name: "reboot", about: "the node loses its power and gets it back at once", want: outcome{moved: anyNumber},
		fault: func(ctx context.Context, s *stage) error {
			node := s.node(workload.Ledger)
			if err := s.powerOff(ctx, node); err != nil {
				return err
			}
			if err := s.cluster.PowerOn(ctx, node); err != nil {
				return err
			}
			return s.lasts(ctx, afterKill)
		},
	},
	{
		name: "two-lost", apart: true, replicas: 2, about: "two of five nodes lose their power together", want: outcome{moved: len(everybody)},
		fault: func(ctx context.Context, s *stage) error {
			for _, name := range steppers {
				if err := s.powerOff(ctx, s.node(name)); err != nil {
					return err
				}
			}
			return s.recovered(ctx, everybody...)
		},
	},
	{
		name: "storm", short: true, apart: true, about: "three of five nodes lose their network together, for 25 s",
		want: outcome{moved: 0, held: v1alpha1.HeldStormGuard}, fault: storm,
	},
	{
		name: "target-lost", replicas: 2, about: "the node that takes over loses its power during the restore", want: outcome{moved: len(everybody), replaced: true}, fault: targetLost,
	},
	{
		name: "stalled", about: "every process of the node stands still for 10 s, and goes on", want: outcome{moved: len(everybody), overlap: 500 * time.Millisecond},
		fault: func(ctx context.Context, s *stage) error {
			node := s.node(workload.Ledger)
			s.undo(func(ctx context.Context) error { return s.cluster.Unstall(ctx, node) })
			if err := s.cluster.Stall(ctx, node); err != nil {
				return err
			}
			if err := s.lasts(ctx, 10*time.Second); err != nil {
				return err
			}
			if err := s.cluster.Unstall(ctx, node); err != nil {
				return err
			}
			return s.recovered(ctx, everybody...)
		},
	},
}

// usable waits until a node that was lost runs a new protected pod, and that has a
// checkpoint.
func (s *stage) usable(ctx context.Context, node string) error {
	begin := time.Now()
	err := observe.Until(ctx, "node "+node+" may run protected pods again", func(ctx context.Context) (bool, string, error) {
		var fence v1alpha1.Fence
		err := s.api.Get(ctx, types.NamespacedName{Name: node}, &fence)
		return fence.Spec.State == v1alpha1.FenceRunning, "Fence " + string(fence.Spec.State), err
	})
	if err != nil {
		return err
	}
	if err := observe.NodesReady(ctx, s.api, []string{node}); err != nil {
		return err
	}
	s.note("the node could be used again %s after it was back", seconds(time.Since(begin)))
	labels := workload.Labels("guest")
	guest := workload.Deployment(s.namespace, s.address, "")
	guest.Name, guest.Spec.Selector.MatchLabels, guest.Spec.Template.Labels = "guest", labels, labels
	guest.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	guest.Spec.Template.Spec.Containers[0].Args[0] = "--name=" + workload.Name(s.namespace, "guest")
	if err := s.api.Create(ctx, guest); err != nil {
		return fmt.Errorf("create a pod on node %s: %w", node, err)
	}
	pod, err := observe.ReadyPod(ctx, s.api, s.namespace, labels)
	if err != nil {
		return err
	}
	_, err = observe.Durable(ctx, s.api, pod, 1)
	return err
}

// storm cuts off so many nodes that the fault must be elsewhere: nothing is moved.
func storm(ctx context.Context, s *stage) error {
	free, err := s.freeNodes(ctx)
	if err != nil {
		return err
	}
	if len(free) < 3 {
		return fmt.Errorf("the scenario needs three nodes without a watcher, and there are %d: use more nodes", len(free))
	}
	nodes := free[:3]
	if !slices.Contains(nodes, s.node(workload.Ledger)) || !slices.Contains(nodes, s.node(workload.Counter)) {
		return fmt.Errorf("the steppers are on %s and %s, not among %v", s.node(workload.Ledger), s.node(workload.Counter), nodes)
	}
	for _, node := range nodes {
		s.undo(func(ctx context.Context) error { return s.cluster.HealNetwork(ctx, node) })
		if err := s.cluster.CutNetwork(ctx, node); err != nil {
			return err
		}
	}
	return s.lasts(ctx, 25*time.Second)
}

// targetLost takes the power of the node that a recovery has just chosen.
func targetLost(ctx context.Context, s *stage) error {
	if err := s.powerOff(ctx, s.node(workload.Ledger)); err != nil {
		return err
	}
	if err := s.reached(ctx, v1alpha1.PhaseScheduled); err != nil {
		return err
	}
	migrations, err := s.migrations(ctx)
	if err != nil {
		return err
	}
	for _, m := range migrations {
		if m.Status.Claim != nil {
			s.note("%s was to be restored on %s, in phase %s", m.Spec.Pod.Name, m.Status.Claim.NodeName, m.Status.Phase)
			if err := s.powerOff(ctx, m.Status.Claim.NodeName); err != nil {
				return err
			}
			return s.settle(ctx)
		}
	}
	return errors.New("no Migration is claimed, though one was Scheduled")
}
