// Package cluster runs a real Kubernetes cluster on one Linux machine, without
// containers around it, without a registry and without a network but its own: etcd, API
// server, controllers and scheduler on one machine of namespaces, kubelet, containerd
// and kube-proxy on one per node. Nodes can lose their power and their network, and
// come back.
//
// Everything of a cluster lies in its folder, in network namespaces held there, and in
// control groups named after it; the host's interfaces, mounts and settings stay as
// they are. Stop leaves nothing behind but logs.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/cgroups"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/filelock"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/machine"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/netns"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/pki"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/provision"
)

// ErrRunning is returned by Start for a cluster that runs already.
var ErrRunning = errors.New("the cluster is already running")

// ErrNotRunning is returned by Attach for a cluster that does not run.
var ErrNotRunning = errors.New("the cluster is not running")

// cleanUpLimit bounds what is done to clean up after a start that failed or was given up.
const cleanUpLimit = time.Minute

// A Cluster is a running cluster. Its methods may be called from several goroutines.
type Cluster struct {
	config          Config
	paths           paths
	state           clusterState
	schedulerBinary string // built for Config.Scheduler; empty: Kubernetes' own
}

// Start starts a cluster and returns when its nodes are Ready. What a crashed earlier
// one of the same name has left is removed first. When Start fails, or ctx ends before
// it returns, everything that it has made is removed again, except logs.
func Start(ctx context.Context, config Config) (_ *Cluster, err error) {
	config, err = config.completeForStart()
	if err != nil {
		return nil, err
	}
	c := &Cluster{config: config, paths: paths{config.Dir, config.Name}}
	unlock, err := c.lockForStart()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.removeDead(ctx); err != nil {
		return nil, err
	}

	begin := time.Now()
	pause, err := c.provision(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			return
		}
		fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpLimit)
		defer cancel()
		if cleanErr := c.destroy(fresh); cleanErr != nil {
			err = errors.Join(err, cleanErr)
		}
	}()
	if err := c.build(ctx, pause); err != nil {
		return nil, fmt.Errorf("start cluster %s: %w (logs: %s)", config.Name, err, c.paths.pastLogs())
	}
	c.state.Complete = true
	if err := write(c.paths.state(), c.state); err != nil {
		return nil, err
	}
	config.Progress(fmt.Sprintf("cluster %s with %d nodes is ready after %s", config.Name, config.Nodes, time.Since(begin).Round(100*time.Millisecond)))
	return c, nil
}

// Attach returns a cluster that was started by another program. Only Name, Dir and
// Progress of the configuration matter.
func Attach(config Config) (*Cluster, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	c := &Cluster{config: config, paths: paths{config.Dir, config.Name}}
	c.state, err = c.paths.loadCluster()
	if errors.Is(err, fs.ErrNotExist) || err == nil && !c.alive() {
		return nil, fmt.Errorf("cluster %s: %w", config.Name, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("attach to cluster %s: %w", config.Name, err)
	}
	c.config.Nodes = c.state.Nodes
	return c, nil
}

// Remove stops the cluster that the configuration names, or removes what a crashed one
// has left. There need not be one.
func Remove(ctx context.Context, config Config) error {
	config, err := config.complete()
	if err != nil {
		return err
	}
	c := &Cluster{config: config, paths: paths{config.Dir, config.Name}}
	return c.Stop(ctx)
}

// Stop ends the cluster at once and removes everything of it, except the logs, which
// move to the folder logs beside clusters. It may be called again.
func (c *Cluster) Stop(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(c.paths.lock()), 0o755); err != nil {
		return fmt.Errorf("stop cluster %s: %w", c.config.Name, err)
	}
	lock, err := filelock.Wait(ctx, c.paths.lock(), func(holder string) {
		c.config.Progress("waiting for " + holder + ", which works on the cluster")
	})
	if err != nil {
		return fmt.Errorf("stop cluster %s: %w", c.config.Name, err)
	}
	defer lock.Release()
	return c.destroy(ctx)
}

func (c *Cluster) lockForStart() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(c.paths.lock()), 0o755); err != nil {
		return nil, fmt.Errorf("start cluster %s: %w", c.config.Name, err)
	}
	lock, err := filelock.Try(c.paths.lock())
	if held, ok := errors.AsType[*filelock.Held](err); ok {
		return nil, fmt.Errorf("start cluster %s: %s works on it: wait for that, or use another name", c.config.Name, held.Holder)
	}
	if err != nil {
		return nil, fmt.Errorf("start cluster %s: %w", c.config.Name, err)
	}
	return lock.Release, nil
}

// alive tells whether the cluster's control plane runs.
func (c *Cluster) alive() bool {
	if !c.state.Complete {
		return false
	}
	m, err := c.paths.loadMachine(controlPlane)
	return err == nil && m.Process.Alive()
}

// removeDead removes what a crashed cluster of this name has left. A living one stays
// and is an error, unless it was to end with a program that is gone.
func (c *Cluster) removeDead(ctx context.Context) error {
	old := &Cluster{config: c.config, paths: c.paths}
	var err error
	old.state, err = c.paths.loadCluster()
	if err == nil && old.alive() && (old.state.Keep || old.state.Owner.Alive()) {
		return fmt.Errorf("start cluster %s: %w: stop it first, or use another name", c.config.Name, ErrRunning)
	}
	left, err := old.Leftovers()
	if err != nil {
		return err
	}
	if len(left) == 0 {
		return nil
	}
	c.config.Progress("removing what an earlier cluster of this name has left")
	return old.destroy(ctx)
}

// provision makes sure that the cache has all that the cluster is started from, and
// returns the archive of the pause image.
func (c *Cluster) provision(ctx context.Context) (pause string, err error) {
	cache := provision.Cache{Dir: c.paths.cache(), Module: c.config.Module, Progress: c.config.Progress}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		c.state.Binaries, err = cache.Binaries(ctx)
		return err
	})
	group.Go(func() (err error) {
		root, err := cache.NodeRoot(ctx)
		c.state.NodeRoot = filepath.Join(root, "root")
		return err
	})
	group.Go(func() (err error) {
		pause, err = cache.Pause(ctx)
		return err
	})
	if c.config.Scheduler.Dir != "" {
		group.Go(func() (err error) {
			c.schedulerBinary, err = cache.Scheduler(ctx, c.config.Scheduler.Dir)
			return err
		})
	}
	return pause, group.Wait()
}

// build makes the cluster's machines, boots them and waits until they work.
func (c *Cluster) build(ctx context.Context, pause string) error {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return fmt.Errorf("open a port for the API server: %w", err)
	}
	defer listener.Close()
	c.state.Name, c.state.Nodes = c.config.Name, c.config.Nodes
	c.state.Begun, c.state.Keep = time.Now(), c.config.Keep
	c.state.Port = listener.Addr().(*net.TCPAddr).Port
	if c.state.Owner, err = machine.Self(); err != nil {
		return err
	}
	if err := write(c.paths.state(), c.state); err != nil {
		return err
	}
	creds, err := newCredentials()
	if err != nil {
		return err
	}
	if err := c.writeKubeconfig(creds); err != nil {
		return err
	}
	for _, folder := range []string{c.paths.images(), c.paths.shared()} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("make a folder for all machines: %w", err)
		}
	}
	for _, archive := range append([]string{pause}, c.config.Images...) {
		if err := c.addImage(archive); err != nil {
			return err
		}
	}

	c.config.Progress("booting the control plane and the nodes")
	port, err := listener.File()
	if err != nil {
		return fmt.Errorf("open a port for the API server: %w", err)
	}
	defer port.Close()
	if err := netns.Create(c.paths.netns(controlPlane)); err != nil {
		return err
	}
	if err := netns.SetUpSwitch(c.paths.netns(controlPlane), gateway, serviceRange); err != nil {
		return err
	}
	spec := c.controlPlaneSpec()
	if err := spec.Prepare(); err != nil {
		return err
	}
	if err := c.writeControlPlane(spec, creds); err != nil {
		return err
	}
	if err := c.boot(ctx, spec, port); err != nil {
		return err
	}
	for number := 1; number <= c.state.Nodes; number++ {
		spec := c.nodeSpec(number)
		if err := spec.Prepare(); err != nil {
			return err
		}
		if err := c.writeNode(spec, number, creds); err != nil {
			return err
		}
		if err := c.bootNode(ctx, spec, number); err != nil {
			return err
		}
	}
	return c.waitUntilReady(ctx)
}

func (c *Cluster) writeKubeconfig(creds credentials) error {
	server := fmt.Sprintf("https://127.0.0.1:%d", c.state.Port)
	text, err := creds.authority.Kubeconfig(server, c.config.Name, pki.Subject{User: "admin", Groups: []string{"system:masters"}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.paths.kubeconfig(), text, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// group is a machine's control group.
func (c *Cluster) group(name string) (cgroups.Group, error) {
	return cgroups.New(c.paths.cgroup() + "/" + name)
}
