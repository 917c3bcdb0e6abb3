// Lifeboat-watcher notices the loss of nodes, recovers their protected pods on
// others, and admits pods that ask for protection. Several replicas run; one leads.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
	"github.com/lifeboat-dev/lifeboat/watcher"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
	"github.com/lifeboat-dev/lifeboat/watcher/trigger"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, ctrl.GetConfig); err != nil {
		fmt.Fprintln(os.Stderr, "lifeboat-watcher:", err)
		os.Exit(1)
	}
}

// run runs the program, and starts it anew where an error ended it that had nothing to
// do with how it was started.
func run(ctx context.Context, find func() (*rest.Config, error)) error {
	started := time.Now()
	err := command(find).ExecuteContext(ctx)
	if err == nil || time.Since(started) < ranFor {
		return err
	}
	slog.Error("the watcher starts anew", "err", err)
	return errors.Join(err, startAnew(ctx))
}

// command is the program. Find says how to reach the cluster.
func command(find func() (*rest.Config, error)) *cobra.Command {
	config := watcher.Config{PodName: os.Getenv("POD_NAME"), PodIP: os.Getenv("POD_IP"), Triggers: trigger.Default}
	level := slog.LevelInfo
	c := &cobra.Command{
		Use: "lifeboat-watcher", Short: "Notices the loss of nodes and recovers their protected pods",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := find()
			if err != nil {
				return fmt.Errorf("find the cluster: %w", err)
			}
			config.StartedAnew = startedAnew()
			config.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			return watcher.Run(c.Context(), config, api)
		},
	}
	flags := c.Flags()
	flags.StringVar(&config.Namespace, "namespace", v1alpha1.SystemNamespace, "Lifeboat's own namespace")
	flags.StringVar(&config.MetricsAddress, "metrics-address", ":8080", "address of /metrics, /healthz and /readyz")
	flags.IntVar(&config.WebhookPort, "webhook-port", 9443, "port of the admission webhook")
	flags.IntVar(&config.APIPort, "api-port", 8443, "port of the REST API")
	flags.IntVar(&config.MemberPort, "member-port", membership.DefaultPort, "port of the membership, the same on every node")
	flags.IntVar(&config.Moves.PerNode, "moves-per-node", move.DefaultLimits.PerNode, "how many pods are moved on purpose from and to one node at a time")
	flags.IntVar(&config.Moves.Cluster, "moves-at-once", move.DefaultLimits.Cluster, "how many pods are moved on purpose at a time")
	flags.BoolVar(&config.HoldConnections, "hold-connections", true, "have new connections wait while a pod is moved live, where its Services allow it")
	config.Triggers.AddFlags(flags)
	flags.TextVar(&config.Pressure, "pressure", detect.DefaultPressure, "from how much waiting on a node is short of something, in per cent of the time (0: never)")
	flags.TextVar(&level, "log-level", level, "debug, info, warn or error")
	return c
}
