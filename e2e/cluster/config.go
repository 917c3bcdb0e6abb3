package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/provision"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
)

const (
	defaultName  = "lab"
	defaultNodes = 3
	maxNodes     = 100
)

// DirVariable is the environment variable with the folder of all clusters and their cache.
const DirVariable = provision.DirVariable

// Config says what cluster to start. The zero value is a cluster "lab" of three nodes
// with stock Kubernetes.
type Config struct {
	// Name tells clusters apart that run at the same time. It is 1 to 20 small letters,
	// digits and dashes. Default: "lab".
	Name string
	// Nodes is how many nodes the cluster has, n1, n2 and so on. Default: 3.
	Nodes int
	// Dir is the folder of all clusters and of the cache. Default: $LIFEBOAT_LAB, or
	// "lifeboat" in the user's cache folder.
	Dir string
	// Module is the folder of the Lifeboat module. Default: the one that the working
	// folder lies in.
	Module string
	// Scheduler replaces Kubernetes' scheduler.
	Scheduler Scheduler
	// ContainerdDropIns are files with further tables for containerd's configuration,
	// for instance a runtime handler. Their text is appended to it: an import would, in
	// containerd 1.7, replace the settings of a whole plugin.
	ContainerdDropIns []string
	// Images are image archives that each node loads when it first boots.
	Images []string
	// NodeMonitor says how fast Kubernetes itself notices a lost node.
	NodeMonitor NodeMonitor
	// Keep says that the cluster is to outlive this program. A cluster that is not kept
	// counts as a leftover once the program that started it has ended.
	Keep bool
	// Progress is told each step of long work. Default: nobody is.
	Progress func(step string)
}

// Scheduler says which scheduler a cluster has. The zero value is Kubernetes' own.
type Scheduler struct {
	// Dir is the folder of the main package to build, itself in a module.
	Dir string
	// ConfigFile is a KubeSchedulerConfiguration; the kubeconfig is put into it.
	ConfigFile string
}

// NodeMonitor says how fast Kubernetes itself notices a lost node. What is zero stays at
// Kubernetes' default.
type NodeMonitor struct {
	// Every is how often the node controller looks at all nodes, Grace how long a node
	// may say nothing until it counts as not ready.
	Every, Grace time.Duration
	// Status is how often a kubelet writes its node's status. Lease is how long its
	// Lease lasts, in whole seconds; it is renewed four times in that.
	Status, Lease time.Duration
}

// flags are those of kube-controller-manager.
func (m NodeMonitor) flags() []string {
	var flags []string
	if m.Every != 0 {
		flags = append(flags, "--node-monitor-period="+m.Every.String())
	}
	if m.Grace != 0 {
		flags = append(flags, "--node-monitor-grace-period="+m.Grace.String())
	}
	return flags
}

// kubelet puts the kubelet's settings into its configuration.
func (m NodeMonitor) kubelet(config map[string]any) {
	if m.Status != 0 {
		config["nodeStatusUpdateFrequency"] = m.Status.String()
	}
	if m.Lease != 0 {
		config["nodeLeaseDurationSeconds"] = int(m.Lease / time.Second)
	}
}

// check refuses what Kubernetes would refuse, or take for its default.
func (m NodeMonitor) check() error {
	if m.Every < 0 || m.Grace < 0 || m.Status < 0 || m.Lease < 0 {
		return fmt.Errorf("node monitor %+v: use times of 0 or more", m)
	}
	if m.Lease%time.Second != 0 {
		return fmt.Errorf("node monitor: a Lease of %s: use whole seconds", m.Lease)
	}
	return nil
}

var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$`)

// complete fills in the defaults and checks the rest.
func (c Config) complete() (Config, error) {
	if c.Name == "" {
		c.Name = defaultName
	}
	if !validName.MatchString(c.Name) {
		return c, fmt.Errorf("cluster name %q: use 1 to 20 small letters, digits and inner dashes", c.Name)
	}
	if c.Nodes == 0 {
		c.Nodes = defaultNodes
	}
	if c.Nodes < 1 || c.Nodes > maxNodes {
		return c, fmt.Errorf("%d nodes: use 1 to %d", c.Nodes, maxNodes)
	}
	if err := c.NodeMonitor.check(); err != nil {
		return c, err
	}
	var err error
	if c.Dir, err = c.Folder(); err != nil {
		return c, err
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c, nil
}

// Folder is the folder of all clusters and of their cache: Dir, or the default.
func (c Config) Folder() (string, error) {
	if c.Dir == "" {
		return provision.DefaultDir()
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return "", fmt.Errorf("find a folder for the cluster: %w", err)
	}
	return dir, nil
}

// completeForStart adds what only a start needs.
func (c Config) completeForStart() (Config, error) {
	c, err := c.complete()
	if err != nil {
		return c, err
	}
	if os.Geteuid() != 0 {
		return c, errors.New("a local cluster needs root, for namespaces and mounts: run this as root")
	}
	if c.Module, err = image.Module(c.Module); err != nil {
		return c, err
	}
	if err := checkDisk(c.Dir); err != nil {
		return c, err
	}
	for _, list := range [][]*string{pointers(c.ContainerdDropIns), pointers(c.Images), {&c.Scheduler.Dir, &c.Scheduler.ConfigFile}} {
		for _, path := range list {
			if *path == "" {
				continue
			}
			if *path, err = filepath.Abs(*path); err != nil {
				return c, err
			}
			if _, err := os.Stat(*path); err != nil {
				return c, fmt.Errorf("cluster configuration: %w", err)
			}
		}
	}
	return c, nil
}

// checkDisk refuses a folder on which the machines' overlays cannot stand.
func checkDisk(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder for clusters: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("look at file system of %s: %w", dir, err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("%s lies on an overlay file system, as in a container, and nodes need overlays of their own: set %s to a folder on a disk or a volume", dir, DirVariable)
	}
	return nil
}

func pointers(list []string) []*string {
	var all []*string
	for i := range list {
		all = append(all, &list[i])
	}
	return all
}
