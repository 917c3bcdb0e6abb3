package main

import (
	"context"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
)

// An API that is away must stop nobody for long, and move nobody.
var apiAway = outcome{moved: 0, standstill: 5 * time.Second}

var apiScenarios = []scenario{
	{name: "api-stopped-short", short: true, about: "the API server stands still for 20 s", want: apiAway, fault: apiStopped(20 * time.Second)},
	{name: "api-stopped", about: "the API server stands still for 60 s", want: apiAway, fault: apiStopped(time.Minute)},
	{name: "api-killed", about: "the API server is down for 60 s", want: apiAway, fault: apiKilled},
}

func apiStopped(d time.Duration) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		return s.stopped(ctx, cluster.ControlPlane, apiServer, d)
	}
}

// apiKilled kills the API server as often as it is started again.
func apiKilled(ctx context.Context, s *stage) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	over := time.NewTimer(time.Minute - time.Second)
	defer over.Stop()
	for {
		// Most times there is none.
		_ = s.signal(ctx, cluster.ControlPlane, apiServer, "KILL")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over.C:
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}
