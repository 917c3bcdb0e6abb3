package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// soaking is everything that a run needs.
type soaking struct {
	stress   *stress
	observer *observer
	cart     string // the birth of its process
	redis    string // the run ID of its process
	address  func(ctx context.Context) (*redisClient, error)
}

// open brings the pods and their clients up, and the load program onto the nodes.
func open(ctx context.Context, c *cluster.Cluster, api client.Client, folder string, o options) (*soaking, error) {
	module, err := image.Module("")
	if err != nil {
		return nil, err
	}
	nodes, err := deploy.NodeNames(c)
	if err != nil {
		return nil, err
	}
	s := &soaking{stress: &stress{cluster: c, nodes: nodes, dir: folder, burstMemory: o.burstMemory, level: o.level}}
	binary, archive, err := buildLoad(ctx, module, folder)
	if err != nil {
		return nil, err
	}
	s.stress.binary = binary
	cacheDir, err := o.cluster.Folder()
	if err != nil {
		return nil, err
	}
	redisArchive, err := image.FromDebian(ctx, filepath.Join(cacheDir, "cache"), redisImage, []string{"redis-server"}, []string{"redis-server"})
	if err != nil {
		return nil, err
	}
	for _, archive := range []string{archive, redisArchive} {
		if err := c.LoadImage(ctx, archive); err != nil {
			return nil, err
		}
	}
	if err := s.stress.install(ctx); err != nil {
		return nil, err
	}
	rest, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	watching, err := client.NewWithWatch(rest, client.Options{Scheme: api.Scheme()})
	if err != nil {
		return nil, fmt.Errorf("build the client: %w", err)
	}
	logs, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("build the client: %w", err)
	}
	s.observer = &observer{
		shop: &loss.Shop{Cluster: c, Client: api, Namespace: namespace},
		api:  watching, logs: logs, say: o.cluster.Progress, tally: newTally(), freezes: newFreezes(),
	}
	if err := s.openPods(ctx, c, api); err != nil {
		return nil, err
	}
	return s, nil
}

// openPods starts the pods and their clients.
func (s *soaking) openPods(ctx context.Context, c *cluster.Cluster, api client.Client) error {
	o := s.observer
	if err := o.shop.Open(ctx, workload.StatefulSet(namespace)); err != nil {
		return err
	}
	if err := api.Create(ctx, redisPod()); err != nil {
		return fmt.Errorf("create redis: %w", err)
	}
	if err := o.shop.StartShopper(ctx, generations); err != nil {
		return err
	}
	redis, err := observe.ReadyPod(ctx, api, namespace, redisLabels)
	if err != nil {
		return err
	}
	if _, err := observe.Durable(ctx, api, redis, generations); err != nil {
		return err
	}
	if o.shopper, err = observe.ReadyPod(ctx, api, namespace, workload.ShopperLabels); err != nil {
		return err
	}
	for _, object := range s.stress.memoryPods() {
		if err := api.Create(ctx, object); err != nil {
			return fmt.Errorf("create %T %s: %w", object, object.GetName(), err)
		}
	}
	status, err := o.shop.At(o.shopper).Status(ctx)
	if err != nil {
		return fmt.Errorf("ask the shopper: %w", err)
	}
	o.acked, s.cart = status.Acked, status.Last.Birth
	s.address = func(ctx context.Context) (*redisClient, error) { return dialRedis(ctx, c, redis) }
	if o.redis, err = s.address(ctx); err != nil {
		return err
	}
	if s.redis, err = s.runID(ctx); err != nil {
		return err
	}
	return o.counters(ctx)
}

// runID is what redis calls its process.
func (s *soaking) runID(ctx context.Context) (string, error) {
	r, err := s.address(ctx)
	if err != nil {
		return "", err
	}
	defer r.conn.Close()
	if _, err := r.ask("INFO server"); err != nil {
		return "", err
	}
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("redis does not tell its run_id: %w", err)
		}
		if id, found := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); found {
			return id, nil
		}
	}
}
