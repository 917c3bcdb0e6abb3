package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// reportEvery bounds how often the status of one Checkpoint is written while
// its condition and holders stay the same: etcd must not pay for every checkpoint.
const reportEvery = 5 * time.Second

// summary is a pod's Checkpoint: the newest status that is known, and what the
// API has.
type summary struct {
	status, reported v1alpha1.CheckpointStatus
	reportedAt       time.Time
	// checkpointable and findings are what was found in the pod before its last
	// checkpoint.
	checkpointable metav1.Condition
	findings       []v1alpha1.Finding
	// verifyAt is when the pod's memory is to be compared with a generation.
	verifyAt time.Time
	// newest is the newest durable generation, for whoever asks.
	newest atomic.Pointer[store.Generation]
}

// knownSummary is what the API has of a pod's checkpoints: an earlier
// checkpointer on the node may have made some.
func (a *Agent) knownSummary(ctx context.Context, pod *corev1.Pod) *summary {
	known := &v1alpha1.Checkpoint{}
	err := a.cache.Get(ctx, ctrlclient.ObjectKeyFromObject(pod), known)
	if err != nil || known.Spec.PodUID != pod.UID {
		return &summary{}
	}
	return &summary{status: *known.Status.DeepCopy(), reported: known.Status}
}

// found takes over what was found in the pod before a checkpoint, or an attempt.
func (s *summary) found(dump *criu.Dump, err error) {
	var not *criu.NotCheckpointable
	switch {
	case err == nil:
		s.checkpointable, s.findings = dump.Preflight.Status()
	case errors.As(err, &not) && not.Preflight != nil:
		s.checkpointable, s.findings = not.Preflight.Status()
	case errors.As(err, &not):
		// Only CRIU saw it.
		s.checkpointable = metav1.Condition{
			Type: v1alpha1.ConditionCheckpointable, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNotCheckpointable, Message: not.Error(),
		}
	}
}

// protected reports a durable generation.
func (a *Agent) protected(ctx context.Context, state podState, g store.Generation, holders []string, pause time.Duration) {
	state.summary.newest.Store(&g)
	takenAt, durableAt := metav1.NewMicroTime(g.TakenAt), metav1.NewMicroTime(time.Now())
	a.report(ctx, state, func(s *v1alpha1.CheckpointStatus) {
		s.Generation, s.Epoch = g.Number, g.Epoch
		s.TakenAt, s.DurableAt = &takenAt, &durableAt
		s.PauseSeconds, s.Pause = pause.Seconds(), roundPause(pause).String()
		s.Bytes, s.NewBytes = g.Bytes, g.NewBytes
		s.Size = humanBytes(g.Bytes)
		s.Holders = holders
		if !state.requested.IsZero() {
			requested := metav1.NewMicroTime(state.requested)
			s.Requested = &requested
		}
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionProtected, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProtected,
			Message: "a durable generation exists; it is restored when the node is lost",
		})
	})
}

// unprotected reports why a pod is not protected. A pod whose newest durable
// generation is recent stays Protected: one failed checkpoint does not undo it.
func (a *Agent) unprotected(ctx context.Context, state podState, why *refusal) {
	if s := state.summary.status; s.TakenAt != nil && time.Since(s.TakenAt.Time) < 3*state.protection.Interval {
		a.report(ctx, state, func(*v1alpha1.CheckpointStatus) {}) // what was found may be new
		return
	}
	before := meta.FindStatusCondition(state.summary.status.Conditions, v1alpha1.ConditionProtected)
	if before == nil || before.Reason != why.reason {
		a.recorder.Event(state.pod, corev1.EventTypeWarning, "LifeboatNotProtected", why.message)
	}
	a.report(ctx, state, func(s *v1alpha1.CheckpointStatus) {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionProtected, Status: metav1.ConditionFalse, Reason: why.reason, Message: why.message,
		})
	})
}

// report changes the pod's status and writes it to the API, unless it was
// written a moment ago and nothing but figures has changed.
func (a *Agent) report(ctx context.Context, state podState, change func(*v1alpha1.CheckpointStatus)) {
	sum := state.summary
	change(&sum.status)
	if sum.checkpointable.Type != "" {
		meta.SetStatusCondition(&sum.status.Conditions, sum.checkpointable)
		sum.status.Findings = sum.findings
	}
	same := sameConditions(sum.status, sum.reported) && slices.Equal(sum.status.Findings, sum.reported.Findings) && slices.Equal(sum.status.Holders, sum.reported.Holders)
	same = same && sum.status.Requested.Equal(sum.reported.Requested)
	if same && time.Since(sum.reportedAt) < reportEvery {
		return
	}
	if err := a.writeCheckpoint(ctx, state.pod, sum.status); err != nil {
		a.log.Warn("report checkpoint", "pod", state.pod.Namespace+"/"+state.pod.Name, "err", err)
		return
	}
	sum.reported, sum.reportedAt = *sum.status.DeepCopy(), time.Now()
}

func sameConditions(x, y v1alpha1.CheckpointStatus) bool {
	for _, kind := range []string{v1alpha1.ConditionProtected, v1alpha1.ConditionCheckpointable} {
		cx, cy := meta.FindStatusCondition(x.Conditions, kind), meta.FindStatusCondition(y.Conditions, kind)
		if (cx == nil) != (cy == nil) || cx != nil && (cx.Status != cy.Status || cx.Reason != cy.Reason || cx.Message != cy.Message) {
			return false
		}
	}
	return true
}

// writeCheckpoint brings the pod's Checkpoint in line with status. A Checkpoint
// of the same name that an earlier pod left is taken over.
func (a *Agent) writeCheckpoint(ctx context.Context, pod *corev1.Pod, status v1alpha1.CheckpointStatus) error {
	key := ctrlclient.ObjectKeyFromObject(pod)
	wanted := v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: v1alpha1.CheckpointSpec{PodUID: pod.UID, NodeName: a.cfg.NodeName},
	}
	current := &v1alpha1.Checkpoint{}
	err := a.api.Get(ctx, key, current)
	switch {
	case apierrors.IsNotFound(err):
		current = wanted.DeepCopy()
		if err := a.api.Create(ctx, current); err != nil {
			return fmt.Errorf("create checkpoint %s: %w", key, err)
		}
	case err != nil:
		return fmt.Errorf("get checkpoint %s: %w", key, err)
	case current.Spec != wanted.Spec:
		current.Spec, current.OwnerReferences = wanted.Spec, wanted.OwnerReferences
		if err := a.api.Update(ctx, current); err != nil {
			return fmt.Errorf("take over checkpoint %s: %w", key, err)
		}
	}
	before := current.DeepCopy()
	current.Status = status
	if err := a.api.Status().Patch(ctx, current, ctrlclient.MergeFrom(before)); err != nil {
		return fmt.Errorf("write the status of checkpoint %s: %w", key, err)
	}
	return nil
}

func roundPause(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// humanBytes writes a size in the units of Kubernetes, as "12Mi".
func humanBytes(n int64) string {
	units := []struct {
		size int64
		name string
	}{{1 << 30, "Gi"}, {1 << 20, "Mi"}, {1 << 10, "Ki"}}
	for _, u := range units {
		if n >= 10*u.size {
			return fmt.Sprintf("%d%s", (n+u.size/2)/u.size, u.name)
		}
		if n >= u.size {
			return fmt.Sprintf("%.1f%s", float64(n)/float64(u.size), u.name)
		}
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}
