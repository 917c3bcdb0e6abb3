package loss

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// Patience is how long a recovery may take before it counts as one that never comes.
const Patience = 2 * time.Minute

// Lose takes the power from the cart's node and records the recovery until
// Lifeboat has closed its Migration and the shopper has its answers again.
// Follow is told each moment soon after it happened. With an error that ended the
// recording early, the record has what was seen until then.
func (s *Shop) Lose(ctx context.Context, follow func(since time.Duration, m Moment)) (*Record, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	pod, err := observe.ReadyPod(ctx, s.Client, s.Namespace, workload.Labels)
	if err != nil {
		return nil, err
	}
	shopper, err := observe.ReadyPod(ctx, s.Client, s.Namespace, workload.ShopperLabels)
	if err != nil {
		return nil, err
	}
	if err := anyMoment(ctx, pod); err != nil {
		return nil, err
	}
	r := &Record{Source: pod.Spec.NodeName, seeded: s.seeded}
	if err := s.Client.Get(ctx, client.ObjectKeyFromObject(pod), &r.Checkpoint); err != nil {
		return r, fmt.Errorf("read the Checkpoint of pod %s: %w", pod.Name, err)
	}
	if r.LeaderLost, err = s.leaderOn(ctx, r.Source); err != nil {
		return r, err
	}
	if r.Before, err = s.At(pod).Snapshot(ctx); err != nil {
		return r, fmt.Errorf("read the cart before the cut: %w", err)
	}
	r.CutAt = time.Now()
	if err := s.Cluster.PowerOff(ctx, r.Source); err != nil {
		return r, fmt.Errorf("cut the power of node %s: %w", r.Source, err)
	}
	if s.AfterCut != nil {
		if err := s.AfterCut(ctx, pod); err != nil {
			return r, err
		}
	}
	if err := s.follow(ctx, r, pod, shopper, follow); err != nil {
		return r, err
	}
	return r, s.conclude(ctx, r, shopper)
}

// anyMoment waits for a part of the pod's interval that chance decides: a loss
// that always came just after a checkpoint would make the RPO look better than it is.
func anyMoment(ctx context.Context, pod *corev1.Pod) error {
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err != nil {
		return fmt.Errorf("read the annotations of pod %s: %w", pod.Name, err)
	}
	select {
	case <-time.After(rand.N(protection.Interval)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leaderOn says whether the leading watcher runs on the node.
func (s *Shop) leaderOn(ctx context.Context, node string) (bool, error) {
	var leases coordinationv1.LeaseList
	var pods corev1.PodList
	in := client.InNamespace(v1alpha1.SystemNamespace)
	if err := errors.Join(s.Client.List(ctx, &leases, in), s.Client.List(ctx, &pods, in)); err != nil {
		return false, fmt.Errorf("find the leading watcher: %w", err)
	}
	return slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Spec.NodeName == node && slices.ContainsFunc(leases.Items, func(lease coordinationv1.Lease) bool {
			holder := lease.Spec.HolderIdentity
			return holder != nil && strings.HasPrefix(*holder, pod.Name)
		})
	}), nil
}

// follow watches the recovery until the Migration is closed and the shopper has
// been answered.
func (s *Shop) follow(ctx context.Context, r *Record, lost, shopper *corev1.Pod, tell func(time.Duration, Moment)) error {
	seen := map[string]bool{}
	note := func(name string, at time.Time) {
		if seen[name] {
			return
		}
		seen[name] = true
		m := Moment{Name: name, At: at}
		r.Moments = append(r.Moments, m)
		if tell != nil {
			tell(at.Sub(r.CutAt), m)
		}
	}
	return observe.Until(ctx, "the cart is back", func(ctx context.Context) (bool, string, error) {
		var fence v1alpha1.Fence
		if err := s.Client.Get(ctx, types.NamespacedName{Name: r.Source}, &fence); err != nil {
			return false, "", fmt.Errorf("read the Fence of node %s: %w", r.Source, err)
		}
		if changed := fence.Spec.ChangedAt; changed != nil && changed.After(r.CutAt) && fence.Spec.State == v1alpha1.FenceLost {
			note(Declared, changed.Time)
		}
		migration, err := observe.MigrationOf(ctx, s.Client, s.Namespace, lost.UID)
		if err != nil {
			return false, "", err
		}
		phase := "not begun"
		if migration != nil {
			r.Migration = *migration
			phase = "in phase " + string(migration.Status.Phase)
			for _, p := range migration.Status.Phases {
				note(momentOf[p.Phase], p.At.Time)
			}
			if migration.Status.Claim != nil {
				r.Target = migration.Status.Claim.NodeName
			}
		}
		status, err := s.At(shopper).Status(ctx)
		if err != nil {
			return false, "", fmt.Errorf("ask the shopper: %w", err)
		}
		outage, answered := status.Around(r.CutAt)
		if answered {
			note(FirstReply, outage.FirstSuccess)
		}
		return answered && migration != nil && !migration.Open(), fmt.Sprintf("Fence %s, Migration %s, shopper answered %t", fence.Spec.State, phase, answered), nil
	})
}

// conclude takes down what the cart holds now and what the shopper noted.
func (s *Shop) conclude(ctx context.Context, r *Record, shopper *corev1.Pod) error {
	order := map[string]int{}
	for i, name := range Moments {
		order[name] = i
	}
	slices.SortStableFunc(r.Moments, func(a, b Moment) int { return order[a.Name] - order[b.Name] })
	pod, err := observe.ReadyPod(ctx, s.Client, s.Namespace, workload.Labels)
	if err != nil {
		return err
	}
	r.Target = pod.Spec.NodeName
	life, err := s.At(pod).Life(ctx)
	if err != nil {
		return fmt.Errorf("ask the cart after the recovery: %w", err)
	}
	// A process whose timers died with its node would still answer.
	err = observe.Until(ctx, "the cart's ticks go on", func(ctx context.Context) (bool, string, error) {
		var err error
		r.After, err = s.At(pod).Snapshot(ctx)
		return r.After.Ticks > life.Ticks, fmt.Sprintf("%d ticks", r.After.Ticks), err
	})
	if err != nil {
		return err
	}
	if r.Report, err = s.At(shopper).Report(ctx); err != nil {
		return fmt.Errorf("read the shopper's report: %w", err)
	}
	return nil
}
