package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
)

// newCommand is the whole command line.
func newCommand() *cobra.Command {
	config := cluster.Config{Keep: true}
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Run a local Kubernetes cluster whose nodes can fail",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&config.Name, "name", "lab", "the cluster's name")
	root.PersistentFlags().StringVar(&config.Dir, "dir", "", "folder of clusters and cache (default $LIFEBOAT_LAB or lifeboat in the user's cache folder)")
	root.AddCommand(
		upCommand(&config),
		downCommand(&config),
		statusCommand(&config),
		kubeconfigCommand(&config),
		nodeCommand(&config, "power-off", "Cut a node's power: everything on it ends at once", (*cluster.Cluster).PowerOff),
		nodeCommand(&config, "power-on", "Boot a node that is off", (*cluster.Cluster).PowerOn),
		nodeCommand(&config, "cut-network", "Take a node off the network; what runs on it runs on", (*cluster.Cluster).CutNetwork),
		nodeCommand(&config, "heal-network", "Put a node back on the network", (*cluster.Cluster).HealNetwork),
		execCommand(&config),
		loadCommand(&config),
	)
	return root
}

func upCommand(config *cluster.Config) *cobra.Command {
	up := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			begin := time.Now()
			config.Progress = func(step string) {
				fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(begin).Seconds(), step)
			}
			c, err := cluster.Start(cmd.Context(), *config)
			if err != nil {
				return err
			}
			fmt.Printf("export KUBECONFIG=%s\nkubectl of its version: %s\n", c.Kubeconfig(), c.Kubectl())
			return nil
		},
	}
	up.Flags().IntVar(&config.Nodes, "nodes", 3, "number of nodes")
	up.Flags().StringVar(&config.Scheduler.Dir, "scheduler", "", "folder of a main package to run as the scheduler (default Kubernetes' own)")
	up.Flags().StringVar(&config.Scheduler.ConfigFile, "scheduler-config", "", "file with the scheduler's KubeSchedulerConfiguration")
	up.Flags().StringSliceVar(&config.ContainerdDropIns, "containerd-config", nil, "file to append to containerd's configuration (may be repeated)")
	up.Flags().StringSliceVar(&config.Images, "image", nil, "image archive to load into each node (may be repeated)")
	return up
}

func downCommand(config *cluster.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster and remove everything of it but its logs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.Progress = func(step string) { fmt.Fprintln(os.Stderr, step) }
			return cluster.Remove(cmd.Context(), *config)
		},
	}
}

func statusCommand(config *cluster.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the cluster's nodes as its hardware sees them",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := cluster.Attach(*config)
			if err != nil {
				return err
			}
			nodes, err := c.Nodes()
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
			fmt.Fprintln(table, "NODE\tADDRESS\tPOWER\tNETWORK\tPID")
			for _, node := range nodes {
				power, network, pid := "on", "up", fmt.Sprint(node.PID)
				if !node.PoweredOn {
					power, pid = "off", "-"
				}
				if node.NetworkCut {
					network = "cut"
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", node.Name, node.IP, power, network, pid)
			}
			return table.Flush()
		},
	}
}

func kubeconfigCommand(config *cluster.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the cluster's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := cluster.Attach(*config)
			if err != nil {
				return err
			}
			fmt.Println(c.Kubeconfig())
			return nil
		},
	}
}

// nodeCommand is a command that does one thing to one node.
func nodeCommand(config *cluster.Config, name, short string, do func(*cluster.Cluster, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   name + " NODE",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Attach(*config)
			if err != nil {
				return err
			}
			return do(c, cmd.Context(), args[0])
		},
	}
}

func execCommand(config *cluster.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARGUMENT]...",
		Short: "Run a command on a node",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Attach(*config)
			if err != nil {
				return err
			}
			code, err := c.NodeExecFiles(cmd.Context(), args[0], os.Stdin, os.Stdout, os.Stderr, args[1:]...)
			if err != nil {
				return err
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}

func loadCommand(config *cluster.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "load ARCHIVE...",
		Short: "Load image archives into every node",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Attach(*config)
			if err != nil {
				return err
			}
			for _, archive := range args {
				if err := c.LoadImage(cmd.Context(), archive); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
