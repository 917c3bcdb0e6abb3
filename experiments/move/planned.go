package move

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// plannedMove is a planned move by Lifeboat.
type plannedMove struct{ strategy v1alpha1.Strategy }

func (plannedMove) Prepare(context.Context, *Scene) error { return nil }

func (p plannedMove) Move(ctx context.Context, s *Scene) (Outcome, error) {
	o := newOutcome()
	m, err := p.ask(ctx, s)
	if err != nil {
		return o, err
	}
	o.AskedAt = m.Spec.LostAt.Time
	err = observe.Until(ctx, fmt.Sprintf("the Migration %s has a result", m.Name), func(ctx context.Context) (bool, string, error) {
		err := s.API.Get(ctx, client.ObjectKeyFromObject(m), m)
		return !m.Open(), fmt.Sprintf("phase %q, held %+v", m.Status.Phase, m.Status.Held), err
	})
	if err != nil {
		o.phases(m)
		return o, err
	}
	o.take(m)
	return o, nil
}

// ask creates the Migration.
func (p plannedMove) ask(ctx context.Context, s *Scene) (*v1alpha1.Migration, error) {
	for {
		var checkpoint *v1alpha1.Checkpoint
		held := &v1alpha1.Checkpoint{}
		switch err := s.API.Get(ctx, client.ObjectKeyFromObject(s.Pod), held); {
		case err == nil:
			checkpoint = held
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("read the Checkpoint of pod %s: %w", s.Pod.Name, err)
		}
		var known v1alpha1.MigrationList
		if err := s.API.List(ctx, &known, client.InNamespace(s.Namespace)); err != nil {
			return nil, fmt.Errorf("list the Migrations: %w", err)
		}
		move := v1alpha1.Move{Strategy: p.strategy, Reason: v1alpha1.MigrationRequested}
		m := v1alpha1.NewMove(s.Pod, move, v1alpha1.NextEpoch(s.Pod, checkpoint, known.Items), time.Now())
		err := s.API.Create(ctx, m)
		if err == nil {
			return m, nil
		}
		if !apierrors.IsAlreadyExists(err) || ctx.Err() != nil {
			return nil, fmt.Errorf("ask for a move of pod %s: %w", s.Pod.Name, err)
		}
	}
}

func (plannedMove) Clean(context.Context, *Scene) error { return nil }

// phases takes over a Migration's phases.
func (o *Outcome) phases(m *v1alpha1.Migration) {
	for _, phase := range m.Status.Phases {
		o.Moments = append(o.Moments, Moment{string(phase.Phase), phase.At.Time})
	}
}

// take takes what a closed Migration says.
func (o *Outcome) take(m *v1alpha1.Migration) {
	status := m.Status
	o.DoneAt = time.Now()
	o.Result, o.Reason, o.Message = string(status.Result), status.Reason, status.Message
	o.phases(m)
	if source := status.Source; source != nil {
		o.Bytes = float64(source.BytesSent)
		if source.PausedAt != nil && source.StoppedAt != nil {
			o.Pause = source.StoppedAt.Sub(source.PausedAt.Time).Seconds()
		}
	}
	if status.Result == v1alpha1.ResultRestored {
		o.RPO = status.RPOSeconds
	}
}
