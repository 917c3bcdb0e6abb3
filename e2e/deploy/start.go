package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// StopLimit bounds how long it may take to remove a cluster.
const StopLimit = time.Minute

// Start builds everything, starts a cluster with Lifeboat and returns it with a
// client. When it fails, or ctx ends, the cluster is removed again, except its
// logs and a description of its state among them.
func Start(ctx context.Context, config cluster.Config) (*cluster.Cluster, client.Client, error) {
	folder, err := buildFolder(config)
	if err != nil {
		return nil, nil, err
	}
	built, err := Build(ctx, folder, config.Progress)
	if err != nil {
		return nil, nil, err
	}
	c, err := cluster.Start(ctx, built.Cluster(config))
	if err != nil {
		return nil, nil, err
	}
	api, err := install(ctx, c, built, config.Progress)
	if err != nil {
		return nil, nil, errors.Join(err, Describe(c, ""), Stop(c))
	}
	return c, api, nil
}

// Attach builds everything, installs Lifeboat in a cluster that was started by
// another program for it, and returns it with a client.
func Attach(ctx context.Context, config cluster.Config) (*cluster.Cluster, client.Client, error) {
	folder, err := buildFolder(config)
	if err != nil {
		return nil, nil, err
	}
	c, err := cluster.Attach(config)
	if err != nil {
		return nil, nil, err
	}
	built, err := Build(ctx, folder, config.Progress)
	if err != nil {
		return nil, nil, err
	}
	api, err := install(ctx, c, built, config.Progress)
	return c, api, err
}

func install(ctx context.Context, c *cluster.Cluster, built Built, progress func(string)) (client.Client, error) {
	if err := Lifeboat(ctx, c, built, progress); err != nil {
		return nil, err
	}
	config, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	return observe.NewClient(config)
}

// Stop removes a cluster, even when the program is being interrupted.
func Stop(c *cluster.Cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), StopLimit)
	defer cancel()
	return c.Stop(ctx)
}

// describeLimit bounds how long the description of a cluster's state may take.
const describeLimit = 20 * time.Second

// Describe writes the state of Lifeboat and of a namespace into the file
// lifeboat.txt among the cluster's logs.
func Describe(c *cluster.Cluster, namespace string) error {
	ctx, cancel := context.WithTimeout(context.Background(), describeLimit)
	defer cancel()
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	api, err := observe.NewClient(config)
	if err != nil {
		return err
	}
	logs, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("describe the cluster: %w", err)
	}
	file, err := os.Create(filepath.Join(c.Logs(), "lifeboat.txt"))
	if err != nil {
		return fmt.Errorf("describe the cluster: %w", err)
	}
	observe.Dump(ctx, file, api, logs, namespace)
	return file.Close()
}

// buildFolder is where what is built for a cluster lies.
func buildFolder(config cluster.Config) (string, error) {
	dir, err := config.Folder()
	if err != nil {
		return "", err
	}
	name := config.Name
	if name == "" {
		name = "lab"
	}
	return filepath.Join(dir, "built", name), nil
}
