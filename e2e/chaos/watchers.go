package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

// leaderKilledIn kills the leading watcher as soon as a recovery has come to a phase.
func leaderKilledIn(phase v1alpha1.Phase, short bool) scenario {
	return scenario{
		name: "leader-killed-" + strings.ToLower(string(phase)), short: short,
		about: fmt.Sprintf("the leading watcher is killed when a recovery is %s", phase), want: outcome{moved: len(everybody)},
		fault: func(ctx context.Context, s *stage) error {
			if err := s.powerOff(ctx, s.node(workload.Ledger)); err != nil {
				return err
			}
			if err := s.reached(ctx, phase); err != nil {
				return err
			}
			leader, err := s.watchers(ctx)
			if err != nil {
				return err
			}
			if err := s.signal(ctx, leader[0].Spec.NodeName, watcher, "KILL"); err != nil {
				return err
			}
			return s.recovered(ctx, everybody...)
		},
	}
}

// phases are those in which the leading watcher is killed.
var phases = []v1alpha1.Phase{
	v1alpha1.PhaseDetected, v1alpha1.PhaseFenced, v1alpha1.PhaseDeleted,
	v1alpha1.PhaseCreated, v1alpha1.PhaseScheduled, v1alpha1.PhaseRestoring,
}

func watcherScenarios() []scenario {
	var all []scenario
	for _, phase := range phases {
		all = append(all, leaderKilledIn(phase, phase == v1alpha1.PhaseDeleted))
	}
	return append(all, scenario{
		name: "watchers-killed", about: "both watchers are killed when a node has just lost its power", want: outcome{moved: len(everybody)},
		fault: func(ctx context.Context, s *stage) error {
			all, err := s.watchers(ctx)
			if err != nil {
				return err
			}
			if err := s.powerOff(ctx, s.node(workload.Ledger)); err != nil {
				return err
			}
			for _, pod := range all {
				if err := s.signal(ctx, pod.Spec.NodeName, watcher, "KILL"); err != nil {
					return err
				}
			}
			return s.recovered(ctx, everybody...)
		},
	})
}

// reachedEvery is how often a recovery's phase is looked at: some last for tens of
// milliseconds.
const reachedEvery = 10 * time.Millisecond

// reached waits until one of the scenario's recoveries has come to a phase. A loss is
// Detected as soon as the Fence says so, before there is a Migration.
func (s *stage) reached(ctx context.Context, phase v1alpha1.Phase) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if phase == v1alpha1.PhaseDetected {
			var fence v1alpha1.Fence
			if err := s.api.Get(ctx, types.NamespacedName{Name: s.node(workload.Ledger)}, &fence); err != nil {
				return fmt.Errorf("wait for phase %s: %w", phase, err)
			}
			if fence.Spec.State == v1alpha1.FenceLost {
				return nil
			}
		}
		migrations, err := s.migrations(ctx)
		if err != nil {
			return fmt.Errorf("wait for phase %s: %w", phase, err)
		}
		for _, m := range migrations {
			if slices.ContainsFunc(m.Status.Phases, func(p v1alpha1.PhaseTime) bool { return p.Phase == phase }) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for phase %s: %w", phase, ctx.Err())
		case <-time.After(reachedEvery):
		}
	}
}

// watcherPods lists the watchers.
func watcherPods(ctx context.Context, api client.Client) ([]corev1.Pod, error) {
	var pods corev1.PodList
	in := client.InNamespace(v1alpha1.SystemNamespace)
	if err := api.List(ctx, &pods, in, client.MatchingLabels{"app.kubernetes.io/name": deploy.Watcher}); err != nil {
		return nil, fmt.Errorf("find the watchers: %w", err)
	}
	return pods.Items, nil
}

// watchers lists the watchers, the leading one first.
func watchers(ctx context.Context, api client.Client) ([]corev1.Pod, error) {
	pods, err := watcherPods(ctx, api)
	if err != nil {
		return nil, err
	}
	var lease coordinationv1.Lease
	if err := api.Get(ctx, types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: deploy.Watcher}, &lease); err != nil {
		return nil, fmt.Errorf("find the leading watcher: %w", err)
	}
	leads := func(pod corev1.Pod) bool {
		return lease.Spec.HolderIdentity != nil && strings.HasPrefix(*lease.Spec.HolderIdentity, pod.Name)
	}
	first := slices.IndexFunc(pods, leads)
	if first < 0 {
		return nil, fmt.Errorf("find the leading watcher: nobody leads")
	}
	pods[0], pods[first] = pods[first], pods[0]
	return pods, nil
}

// replaceHeldBack deletes watchers' pods whose next start the kubelet holds back, for up
// to five minutes: the scenarios before have killed them often, and what this one has
// shown, it has shown. It says so in the scenario's row.
func (s *stage) replaceHeldBack(ctx context.Context) error {
	pods, err := watcherPods(ctx, s.api)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if !slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
			return c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff"
		}) {
			continue
		}
		s.note("a watcher was held back by its kubelet after several deaths; its pod was replaced afterwards")
		if err := client.IgnoreNotFound(s.api.Delete(ctx, &pod)); err != nil {
			return fmt.Errorf("replace a watcher that is held back: %w", err)
		}
	}
	return nil
}
