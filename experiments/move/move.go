// Package move has the ways by which an application gets to another node, with Lifeboat
// and without it, behind one interface.
package move

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// Scene is an application that runs and is worked with.
type Scene struct {
	Cluster *cluster.Cluster
	API     client.Client
	Cell    matrix.Cell
	// Namespace has the application and nothing else, Pod is its pod.
	Namespace string
	Pod       *corev1.Pod
}

// Moment is when something had happened on the way.
type Moment struct {
	Name string
	At   time.Time
}

// Outcome is what came of a move.
type Outcome struct {
	// AskedAt is when the move was asked for, or the power was cut.
	AskedAt time.Time
	// DoneAt is when whoever asked was told that it is done.
	DoneAt time.Time
	// Result, Reason and Message are the Migration's, or matrix.ResultMoved.
	Result, Reason, Message string
	Moments                 []Moment
	// Pause is for how long the old copy stood still before it was gone, RPO the age of the
	// state that came back, in seconds, Bytes what was copied. NaN is not known.
	Pause, RPO, Bytes float64
}

func newOutcome() Outcome {
	return Outcome{AskedAt: time.Now(), Pause: math.NaN(), RPO: math.NaN(), Bytes: math.NaN()}
}

func (o *Outcome) note(name string) { o.Moments = append(o.Moments, Moment{name, time.Now()}) }

// Strategy is one way to get an application to another node.
type Strategy interface {
	// Prepare does what may be done before the move is asked for.
	Prepare(ctx context.Context, s *Scene) error
	// Move moves the application. An error says that nothing was measured; a move that
	// failed is an outcome.
	Move(ctx context.Context, s *Scene) (Outcome, error)
	// Clean makes the cluster what it was. It is called whatever happened before.
	Clean(ctx context.Context, s *Scene) error
}

// reasonNotDone is why a move failed that took longer than it may.
const reasonNotDone = "NotDone"

// Within moves an application. A move that is not done within the limit is a failed one,
// with what was seen of it.
func Within(ctx context.Context, limit time.Duration, way Strategy, s *Scene) (Outcome, error) {
	moving, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	o, err := way.Move(moving, s)
	if err != nil && ctx.Err() == nil && errors.Is(moving.Err(), context.DeadlineExceeded) {
		o.DoneAt, o.Result, o.Reason, o.Message = time.Now(), string(v1alpha1.ResultFailed), reasonNotDone, err.Error()
		return o, nil
	}
	return o, err
}

// Of returns a cell's strategy.
func Of(strategy matrix.Strategy) (Strategy, error) {
	switch strategy {
	case matrix.Restart:
		return restart{}, nil
	case matrix.Stock:
		return &stock{}, nil
	case matrix.Failover:
		return failover{}, nil
	}
	if planned, known := plannedStrategies[strategy]; known {
		return plannedMove{planned}, nil
	}
	return nil, fmt.Errorf("%q is no strategy", strategy)
}

var plannedStrategies = map[matrix.Strategy]v1alpha1.Strategy{
	matrix.Cold: v1alpha1.StrategyCold, matrix.Warm: v1alpha1.StrategyWarm, matrix.Live: v1alpha1.StrategyLive,
	matrix.Handover: v1alpha1.StrategyApplication, matrix.Replace: v1alpha1.StrategyReplace,
}
