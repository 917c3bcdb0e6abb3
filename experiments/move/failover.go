package move

import (
	"context"
	"fmt"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// failover is the loss of the application's node.
type failover struct{}

func (failover) Prepare(context.Context, *Scene) error { return nil }

func (failover) Move(ctx context.Context, s *Scene) (Outcome, error) {
	o := newOutcome()
	if err := s.Cluster.PowerOff(ctx, s.Pod.Spec.NodeName); err != nil {
		return o, fmt.Errorf("cut the power of node %s: %w", s.Pod.Spec.NodeName, err)
	}
	m, err := observe.Closed(ctx, s.API, s.Pod)
	if err != nil {
		if m != nil {
			o.phases(m)
		}
		return o, err
	}
	o.take(m)
	return o, nil
}

// Clean gives the node its power back.
func (failover) Clean(ctx context.Context, s *Scene) error {
	nodes, err := s.Cluster.Nodes()
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if node.PoweredOn {
			continue
		}
		if err := s.Cluster.PowerOn(ctx, node.Name); err != nil {
			return err
		}
	}
	return nil
}
