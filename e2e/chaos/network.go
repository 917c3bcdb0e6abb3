package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

// dropping loses a part of a node's traffic until the scenario is over.
func (s *stage) dropping(ctx context.Context, node string, drops ...cluster.Drop) error {
	s.undo(func(ctx context.Context) error { return s.cluster.DropTraffic(ctx, node) })
	return s.cluster.DropTraffic(ctx, node, drops...)
}

var networkScenarios = []scenario{
	{
		name: "partition", short: true, about: "the node loses its network, and gets it back", want: outcome{moved: len(everybody)},
		fault: func(ctx context.Context, s *stage) error {
			node := s.node(workload.Ledger)
			s.undo(func(ctx context.Context) error { return s.cluster.HealNetwork(ctx, node) })
			if err := s.cluster.CutNetwork(ctx, node); err != nil {
				return err
			}
			if err := s.recovered(ctx, everybody...); err != nil {
				return err
			}
			if err := s.cluster.HealNetwork(ctx, node); err != nil {
				return err
			}
			return s.usable(ctx, node)
		},
	},
	{
		name: "partition-mute", about: "the node hears everybody and is heard by nobody", want: outcome{moved: len(everybody)},
		fault: oneWay(cluster.Sent),
	},
	{
		name: "partition-deaf", about: "the node is heard by everybody and hears nobody", want: outcome{moved: len(everybody)},
		fault: oneWay(cluster.Received),
	},
	{
		name: "flapping-fast", about: "the node's network goes for 1 s in every 2 s, ten times", want: outcome{moved: anyNumber},
		fault: flapping(10, time.Second, time.Second),
	},
	{
		name: "flapping", about: "the node's network goes for 2.5 s in every 5 s, six times", want: outcome{moved: anyNumber},
		fault: flapping(6, 2500*time.Millisecond, 2500*time.Millisecond),
	},
	{
		name: "flapping-slow", about: "the node's network goes for 6 s in every 10 s, four times", want: outcome{moved: anyNumber},
		fault: flapping(4, 6*time.Second, 4*time.Second),
	},
	{
		name: "partition-api", about: "the node cannot reach the API for 60 s, while peers and watchers reach it",
		want: outcome{moved: anyNumber, standstill: 20 * time.Second},
		fault: func(ctx context.Context, s *stage) error {
			api := netip.PrefixFrom(s.cluster.ControlPlaneAddress(), 32)
			if err := s.dropping(ctx, s.node(workload.Ledger), cluster.Drop{With: []netip.Prefix{api}, Port: cluster.APIPort}); err != nil {
				return err
			}
			return s.lasts(ctx, time.Minute)
		},
	},
	{
		name: "partition-peers", about: "the node reaches the API for 30 s, but no other node", want: outcome{moved: 0, standstill: 5 * time.Second},
		fault: func(ctx context.Context, s *stage) error {
			names, err := deploy.NodeNames(s.cluster)
			if err != nil {
				return err
			}
			var peers []netip.Prefix
			for _, name := range names {
				if name == s.node(workload.Ledger) {
					continue
				}
				prefixes, err := s.cluster.NodePrefixes(name)
				if err != nil {
					return err
				}
				peers = append(peers, prefixes...)
			}
			if err := s.dropping(ctx, s.node(workload.Ledger), cluster.Drop{With: peers}); err != nil {
				return err
			}
			return s.lasts(ctx, 30*time.Second)
		},
	},
}

func oneWay(direction cluster.Direction) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		node := s.node(workload.Ledger)
		if err := s.dropping(ctx, node, cluster.Drop{Direction: direction}); err != nil {
			return err
		}
		if err := s.recovered(ctx, everybody...); err != nil {
			return err
		}
		if err := s.cluster.DropTraffic(ctx, node); err != nil {
			return err
		}
		return s.usable(ctx, node)
	}
}

func flapping(times int, off, on time.Duration) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		node := s.node(workload.Ledger)
		s.undo(func(ctx context.Context) error { return s.cluster.HealNetwork(ctx, node) })
		for range times {
			if err := s.cluster.CutNetwork(ctx, node); err != nil {
				return err
			}
			if err := s.lasts(ctx, off); err != nil {
				return err
			}
			if err := s.cluster.HealNetwork(ctx, node); err != nil {
				return err
			}
			if err := s.lasts(ctx, on); err != nil {
				return err
			}
		}
		return nil
	}
}
