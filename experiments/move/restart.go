package move

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// restart is what everybody can do: the pod is deleted, and its owner creates the next
// one, elsewhere as the node is cordoned.
type restart struct{}

func (restart) Prepare(context.Context, *Scene) error { return nil }

func (restart) Move(ctx context.Context, s *Scene) (Outcome, error) {
	if err := cordon(ctx, s, true); err != nil {
		return newOutcome(), err
	}
	o := newOutcome()
	if err := s.API.Delete(ctx, s.Pod); err != nil {
		return o, fmt.Errorf("delete pod %s: %w", s.Pod.Name, err)
	}
	seen := map[string]bool{}
	note := func(name string, happened bool) {
		if happened && !seen[name] {
			seen[name] = true
			o.note(name)
		}
	}
	err := each(ctx, lookEvery, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		if err := s.API.List(ctx, &pods, client.InNamespace(s.Namespace)); err != nil {
			return false, err
		}
		gone := true
		for _, pod := range pods.Items {
			if pod.UID == s.Pod.UID {
				gone = false
				continue
			}
			note(string(v1alpha1.PhaseCreated), true)
			note(string(v1alpha1.PhaseScheduled), pod.Spec.NodeName != "")
			note(string(v1alpha1.PhaseReady), observe.Ready(&pod))
		}
		note(string(v1alpha1.PhaseDeleted), gone)
		return gone && seen[string(v1alpha1.PhaseReady)], nil
	})
	if err != nil {
		return o, fmt.Errorf("wait for the next pod: %w", err)
	}
	o.DoneAt, o.Result = time.Now(), matrix.ResultMoved
	return o, nil
}

func (restart) Clean(ctx context.Context, s *Scene) error { return cordon(ctx, s, false) }

// cordon keeps new pods off the application's node, or lets them onto it again.
func cordon(ctx context.Context, s *Scene, off bool) error {
	var node corev1.Node
	if err := s.API.Get(ctx, client.ObjectKey{Name: s.Pod.Spec.NodeName}, &node); err != nil {
		return fmt.Errorf("cordon node %s: %w", s.Pod.Spec.NodeName, err)
	}
	patch := client.MergeFrom(node.DeepCopy())
	node.Spec.Unschedulable = off
	if err := s.API.Patch(ctx, &node, patch); err != nil {
		return fmt.Errorf("cordon node %s: %w", node.Name, err)
	}
	return nil
}

// lookEvery is the time between two looks where moments are taken by looking.
const lookEvery = 20 * time.Millisecond

// each looks until there is nothing more to see.
func each(ctx context.Context, every time.Duration, look func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		done, err := look(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
