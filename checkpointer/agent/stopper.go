package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// stopTimeout bounds a stop until the pod's processes are ended: past it the pod
	// goes on.
	stopTimeout = 5 * time.Minute
	// tryAgain is the time between two attempts at what has to succeed.
	tryAgain = 250 * time.Millisecond
	// killTime bounds one attempt to end the processes.
	killTime = 20 * time.Second
)

// errUnfinished means that the checkpointer ended in the middle: the note on the disk
// says to the next one how to go on.
var errUnfinished = errors.New("the checkpointer was ended meanwhile")

// held is a pod that stands still after its last checkpoint: a criu.Hold.
type held interface {
	// Still returns an error unless nothing of the pod has run since.
	Still() error
	// Kill ends all of its processes, and may be called again.
	Kill(ctx context.Context) error
	// Release lets it run.
	Release(ctx context.Context) error
	// Cgroups are what is killed, for the note.
	Cgroups() []string
}

// stopper stops one pod for good. Its fields are the steps; until commit has succeeded
// each failure lets the pod go on, and after it there is only forward.
type stopper struct {
	log *slog.Logger
	// begin notes durably that the pod may be found frozen, and is to go on then.
	begin func() error
	// hook calls the pre-checkpoint hook.
	hook func(ctx context.Context) error
	// take takes the last generation, seals it on the own disk, and leaves the pod
	// frozen. After an error the pod runs.
	take func(ctx context.Context) (v1alpha1.HeldCheckpoint, held, error)
	// copyAway copies the generation to another node; nil where that is for later. It
	// returns who holds it then beside this node, and how many bytes were sent.
	copyAway func(ctx context.Context, generation int64) (holders []string, sent int64, err error)
	// commit notes durably that the pod is to be killed, and retract takes it back. After
	// an error of commit it may be noted or not.
	commit  func(v1alpha1.SourceStatus, held) error
	retract func() error
	// undo is called when a pod goes on whose hook was called.
	undo func(ctx context.Context)
}

// stop returns what is to be told when none of the pod's processes is left. After an
// error the pod runs on, but for errUnfinished.
func (s stopper) stop(ctx context.Context) (status v1alpha1.SourceStatus, err error) {
	life, whole := ctx, context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, stopTimeout, fmt.Errorf("the pod could not be stopped within %s", stopTimeout))
	defer cancel()
	if err := s.begin(); err != nil {
		return status, err
	}
	if err := s.hook(ctx); err != nil {
		return status, err
	}
	last, pod, err := s.take(ctx)
	if err != nil {
		s.undo(whole)
		return status, err
	}
	pausedAt := metav1.NewMicroTime(last.TakenAt.Time)
	status.PausedAt, status.Checkpoint = &pausedAt, &last
	if err := s.secure(ctx, &status, pod); err != nil {
		if ended := s.letGo(life, pod); ended != nil {
			return status, ended
		}
		s.undo(whole)
		return status, err
	}
	if err := s.kill(life, pod); err != nil {
		return status, err
	}
	stoppedAt := metav1.NewMicroTime(time.Now())
	status.StoppedAt = &stoppedAt
	return status, nil
}

// secure does what must have been done before the pod is killed. When it returns nil
// the kill is noted down, and the pod has stood still all the time.
func (s stopper) secure(ctx context.Context, status *v1alpha1.SourceStatus, pod held) error {
	if s.copyAway != nil {
		holders, sent, err := s.copyAway(ctx, status.Checkpoint.Generation)
		status.BytesSent += sent
		if err != nil {
			return err
		}
		status.Checkpoint.Holders = append(status.Checkpoint.Holders, holders...)
	}
	if err := pod.Still(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.commit(*status, pod); err != nil {
		return err
	}
	return pod.Still()
}

// letGo lets the pod go on. Its note must not say then that it is to be killed, so that
// it stands still for as long as that cannot be made sure of.
func (s stopper) letGo(ctx context.Context, pod held) error {
	return s.insist(ctx, "let a pod go on that cannot be stopped for its move", func(ctx context.Context) error {
		if err := s.retract(); err != nil {
			return err
		}
		return pod.Release(ctx)
	})
}

// kill ends the pod's processes; from here on there is no way back.
func (s stopper) kill(ctx context.Context, pod held) error {
	return s.insist(ctx, "end the processes of a pod that is moved", pod.Kill)
}

// insist does something until it succeeds, or the checkpointer ends.
func (s stopper) insist(ctx context.Context, what string, do func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		err := do(attempt)
		cancel()
		if err == nil {
			return nil
		}
		s.log.Error("a step of a planned move fails; trying again", "step", what, "err", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errUnfinished, err)
		case <-time.After(tryAgain):
		}
	}
}
