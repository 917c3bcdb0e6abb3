package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	readyLimit   = 4 * time.Minute
	pollInterval = 200 * time.Millisecond
	// A service that has ended this often while the cluster starts does not get better.
	tooManyRestarts = 8
)

// waitUntilReady returns when every machine's services run, every node is Ready, and
// pods can be created.
func (c *Cluster) waitUntilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("not ready within %s", readyLimit))
	defer cancel()
	begin := time.Now()
	names := []string{controlPlane}
	for number := 1; number <= c.state.Nodes; number++ {
		names = append(names, nodeName(number))
	}
	for _, name := range names {
		if err := c.waitForServices(ctx, name); err != nil {
			return err
		}
		if name == controlPlane {
			c.config.Progress(fmt.Sprintf("  the control plane runs (%s)", time.Since(begin).Round(100*time.Millisecond)))
		}
	}
	c.config.Progress(fmt.Sprintf("  the nodes' services run (%s)", time.Since(begin).Round(100*time.Millisecond)))
	rest, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return poll(ctx, func() error {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, node := range nodes.Items {
			if isReady(node) {
				ready++
			}
		}
		if ready < c.state.Nodes {
			return fmt.Errorf("%d of %d nodes are Ready", ready, c.state.Nodes)
		}
		// Without it no pod of the default namespace is admitted.
		_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func isReady(node corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// waitForServices returns when a machine's services all run.
func (c *Cluster) waitForServices(ctx context.Context, name string) error {
	var failing error
	err := poll(ctx, func() error {
		m, err := c.paths.loadMachine(name)
		if err != nil {
			return err
		}
		if !m.Process.Alive() {
			failing = fmt.Errorf("%s went down: %s", name, c.lastLines(name, "init"))
			return nil
		}
		status, err := m.Process.Status(ctx)
		if err != nil {
			return err
		}
		var waiting []string
		for _, service := range status.Services {
			if service.Restarts >= tooManyRestarts {
				failing = fmt.Errorf("%s on %s ends again and again, last with %d: %s",
					service.Name, name, service.LastExit, c.lastLines(name, service.Name))
				return nil
			}
			if service.PID == 0 {
				waiting = append(waiting, service.Name)
			}
		}
		if !status.Running() {
			return fmt.Errorf("%s waits for %s", name, strings.Join(append(waiting, "its images"), ", "))
		}
		return nil
	})
	return errors.Join(err, failing)
}

// lastLines is the end of a service's log.
func (c *Cluster) lastLines(machine, service string) string {
	text, err := os.ReadFile(filepath.Join(c.paths.logs(), machine, service+".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// poll calls f until it succeeds. When ctx ends first, the error holds f's last one.
func poll(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pollInterval):
		}
	}
}
