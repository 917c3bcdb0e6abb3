// Package stock is what Kubernetes does by itself about lost nodes: the settings with
// which it notices them fastest, and the nodes that it takes for lost and are not.
package stock

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
)

// Fastest are the settings that notice a lost node as fast as they go. A Lease cannot
// be shorter than a second, and is renewed four times in it. Kubernetes accepts any
// grace period: this one is four renewals.
var Fastest = cluster.NodeMonitor{
	Every: 250 * time.Millisecond, Grace: time.Second, Status: time.Second, Lease: time.Second,
}

// lookEvery is how often the nodes are looked at for losses that are none: a node
// that wrongly counts as lost stays so until its kubelet next writes its status.
const lookEvery = 250 * time.Millisecond

// FalseLosses counts the nodes that Kubernetes took for lost though they had power.
type FalseLosses struct {
	count int
	done  chan struct{}
	stop  context.CancelFunc
}

// WatchFalseLosses looks at all nodes of a cluster until End is called, or ctx ends.
// Tell hears of each node that is wrongly taken for lost.
func WatchFalseLosses(ctx context.Context, c *cluster.Cluster, api client.Client, tell func(node string)) *FalseLosses {
	ctx, stop := context.WithCancel(ctx)
	f := &FalseLosses{done: make(chan struct{}), stop: stop}
	go func() {
		defer close(f.done)
		ready := map[string]bool{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lookEvery):
			}
			nodes, powered := look(ctx, c, api)
			for _, name := range compare(ready, nodes, powered) {
				f.count++
				tell(name)
			}
		}
	}()
	return f
}

// End stops looking and returns how many there were.
func (f *FalseLosses) End() int {
	f.stop()
	<-f.done
	return f.count
}

// look returns the nodes, and which of them have power. What cannot be read now is seen
// the next time.
func look(ctx context.Context, c *cluster.Cluster, api client.Client) (nodes []corev1.Node, powered map[string]bool) {
	var list corev1.NodeList
	if err := api.List(ctx, &list); err != nil {
		return nil, nil
	}
	machines, err := c.Nodes()
	if err != nil {
		return nil, nil
	}
	powered = map[string]bool{}
	for _, machine := range machines {
		powered[machine.Name] = machine.PoweredOn
	}
	return list.Items, powered
}

// compare brings ready up to date and returns the nodes that are no longer ready and
// have power.
func compare(ready map[string]bool, nodes []corev1.Node, powered map[string]bool) (lost []string) {
	for i := range nodes {
		name, is := nodes[i].Name, Ready(&nodes[i])
		if ready[name] && !is && powered[name] {
			lost = append(lost, name)
		}
		ready[name] = is
	}
	return lost
}

// Ready says whether Kubernetes takes a node for alive and well.
func Ready(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
