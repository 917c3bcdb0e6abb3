// Package command is the command line of lifeboat-checkpointer.
package command

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/go-logr/logr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/agent"
	"github.com/lifeboat-dev/lifeboat/checkpointer/bucket"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/checkpointer/install"
)

// New returns the command with its subcommands: agent, fencer, install and check.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "lifeboat-checkpointer",
		Short:         "Checkpoints protected pods on a node, and keeps the node's fence",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var verbose bool
	root.PersistentFlags().BoolVar(&verbose, "verbose", false, "log every checkpoint")
	root.PersistentPreRun = func(*cobra.Command, []string) { setLog(verbose) }
	root.AddCommand(agentCommand(), fencerCommand(), installCommand(), checkCommand(), rotateCommand())
	return root
}

func setLog(verbose bool) {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	handler := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	slog.SetDefault(slog.New(handler))
	klog.SetSlogLogger(slog.Default())
	ctrllog.SetLogger(logr.FromSlogHandler(handler))
}

func agentCommand() *cobra.Command {
	cfg := agent.Config{NodeName: os.Getenv("NODE_NAME"), NodeIP: os.Getenv("NODE_IP")}
	var bucketConfig func() (*bucket.Config, error)
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Checkpoint this node's protected pods, hold copies, prepare restores",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.NodeName == "" || cfg.NodeIP == "" {
				return fmt.Errorf("the environment variables NODE_NAME and NODE_IP must be set: take them from the pod's spec.nodeName and status.hostIP")
			}
			var err error
			if cfg.Bucket, err = bucketConfig(); err != nil {
				return err
			}
			kube, err := clusterConfig()
			if err != nil {
				return err
			}
			return agent.Run(cmd.Context(), cfg, kube, slog.Default())
		},
	}
	bucketConfig = bucketFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&cfg.Namespace, "namespace", v1alpha1.SystemNamespace, "namespace of Lifeboat's own Secrets")
	f.StringVar(&cfg.StoreDir, "store", "/var/lib/lifeboat", "folder of the checkpoint store")
	f.Int64Var(&cfg.StoreBytes, "store-bytes", 0, "most bytes that the store may use; 0 means a fifth of its file system")
	f.Int64Var(&cfg.CopyBytes, "copy-bytes", 0, "most bytes of checkpoints to send in a second; 0 means no bound")
	f.StringVar(&cfg.RuntimeSocket, "runtime-socket", "/run/containerd/containerd.sock", "CRI socket of the container runtime")
	f.IntVar(&cfg.PeerPort, "peer-port", 7947, "port of the peer protocol")
	f.IntVar(&cfg.MemberPort, "member-port", 7946, "port of the membership")
	f.IntVar(&cfg.MetricsPort, "metrics-port", 7948, "port of the metrics")
	f.IntVar(&cfg.Retain.Count, "retain", 3, "generations to keep of each pod")
	f.DurationVar(&cfg.Retain.Age, "retain-age", 0, "how old generations may become, but for the newest of each pod; 0 means any age")
	return cmd
}

func fencerCommand() *cobra.Command {
	cfg := fence.Config{NodeName: os.Getenv("NODE_NAME")}
	cmd := &cobra.Command{
		Use:   "fencer",
		Short: "Keep this node's fence: freeze protected pods while their permission is out",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.NodeName == "" {
				return fmt.Errorf("the environment variable NODE_NAME must be set: take it from the pod's spec.nodeName")
			}
			kube, err := clusterConfig()
			if err != nil {
				return err
			}
			return fence.Run(cmd.Context(), cfg, kube, slog.Default())
		},
	}
	return cmd
}

func installCommand() *cobra.Command {
	var source, target string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put lifeboat-runtime onto the node",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			wrote, err := install.Runtime(source, target)
			if err == nil {
				slog.Info("runtime is installed", "target", target, "changed", wrote)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&source, "source", "/lifeboat-runtime", "the runtime in this image")
	cmd.Flags().StringVar(&target, "target", "/host/usr/local/bin/lifeboat-runtime", "where to put it")
	return cmd
}

func clusterConfig() (*rest.Config, error) {
	kube, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w; run this as a pod of the cluster", err)
	}
	return kube, nil
}
