package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// recovery is the watcher's part of the recovery of one node's pods, as a watch of
// the API sees it.
type recovery struct {
	// silent is when the node fell silent; lost and fenced are when its record said so.
	silent, lost, fenced time.Time
	// recorded is when the last pod had its Migration, prepared when the last of these
	// had its status, and deleted when the last pod was gone.
	recorded, prepared, deleted time.Time
	// held is how many Migrations name a checkpoint.
	held int
	// requests are those that the watcher made from the declaration to the end, and
	// asked how often it asked nodes for what they hold.
	requests map[string]int
	asked    int64
}

// recoveryWatch follows a recovery.
type recoveryWatch struct {
	node string
	pods int

	mu                          sync.Mutex
	seen                        recovery
	recorded, prepared, removed map[string]bool // by the pod's name
	ended                       error
}

// watchRecovery follows what happens to a node and its pods from now on.
func watchRecovery(ctx context.Context, api client.WithWatch, node string, pods int) (*recoveryWatch, error) {
	r := &recoveryWatch{node: node, pods: pods, recorded: map[string]bool{}, prepared: map[string]bool{}, removed: map[string]bool{}}
	for _, list := range []client.ObjectList{&v1alpha1.FenceList{}, &v1alpha1.MigrationList{}, &corev1.PodList{}} {
		var options []client.ListOption
		switch list.(type) {
		case *corev1.PodList:
			options = append(options, client.MatchingFields{"spec.nodeName": node})
		case *v1alpha1.FenceList:
			options = append(options, client.MatchingFields{"metadata.name": node})
		}
		if err := follow(ctx, api, list, r.note, r.end, options...); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *recoveryWatch) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = errors.Join(r.ended, err)
}

func (r *recoveryWatch) note(event watch.Event) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	first := func(at *time.Time, done bool) {
		if done && at.IsZero() {
			*at = now
		}
	}
	switch object := event.Object.(type) {
	case *v1alpha1.Fence:
		first(&r.seen.lost, object.Spec.State == v1alpha1.FenceLost)
		first(&r.seen.fenced, object.Spec.State == v1alpha1.FenceFenced)
	case *v1alpha1.Migration:
		if object.Spec.SourceNode != r.node {
			return
		}
		r.recorded[object.Spec.Pod.Name] = true
		if slices.ContainsFunc(object.Status.Phases, func(p v1alpha1.PhaseTime) bool { return p.Phase == v1alpha1.PhaseFenced }) &&
			!r.prepared[object.Spec.Pod.Name] {
			r.prepared[object.Spec.Pod.Name] = true
			if object.Status.Checkpoint != nil {
				r.seen.held++
			}
		}
	case *corev1.Pod:
		if event.Type == watch.Deleted {
			r.removed[object.Name] = true
		}
	}
	first(&r.seen.recorded, len(r.recorded) >= r.pods)
	first(&r.seen.prepared, len(r.prepared) >= r.pods)
	first(&r.seen.deleted, len(r.removed) >= r.pods)
}

// now is what was seen until now.
func (r *recoveryWatch) now() (recovery, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen, r.ended
}

// step waits until a step of the recovery was seen.
func (r *recoveryWatch) step(ctx context.Context, within time.Duration, what string, at func(recovery) time.Time) (recovery, error) {
	var seen recovery
	err := until(ctx, within, what, func(context.Context) (err error) {
		if seen, err = r.now(); err == nil && at(seen).IsZero() {
			err = errNotYet
		}
		return err
	})
	return seen, err
}

var errNotYet = errors.New("not yet")
