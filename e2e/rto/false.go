package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

// lookEvery is how often the nodes are looked at for losses that are none: a node
// that wrongly counts as lost stays so until its kubelet next writes its status.
const lookEvery = 250 * time.Millisecond

// falseLosses counts the nodes that Kubernetes took for lost though they had power.
type falseLosses struct {
	count int
	done  chan struct{}
	stop  context.CancelFunc
}

// watchFalseLosses looks at all nodes until end is called.
func watchFalseLosses(ctx context.Context, shop *loss.Shop, progress func(string)) *falseLosses {
	ctx, stop := context.WithCancel(ctx)
	f := &falseLosses{done: make(chan struct{}), stop: stop}
	go func() {
		defer close(f.done)
		ready := map[string]bool{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lookEvery):
			}
			for _, name := range lookAtNodes(ctx, shop, ready) {
				f.count++
				progress(fmt.Sprintf("false loss: Kubernetes takes node %s for lost, and it has power", name))
			}
		}
	}()
	return f
}

// end stops looking and returns how many there were.
func (f *falseLosses) end() int {
	f.stop()
	<-f.done
	return f.count
}

// lookAtNodes brings ready up to date and returns the nodes that are no longer ready
// and have power. What cannot be read now is seen the next time.
func lookAtNodes(ctx context.Context, shop *loss.Shop, ready map[string]bool) (lost []string) {
	var nodes corev1.NodeList
	if err := shop.Client.List(ctx, &nodes); err != nil {
		return nil
	}
	machines, err := shop.Cluster.Nodes()
	if err != nil {
		return nil
	}
	powered := map[string]bool{}
	for _, machine := range machines {
		powered[machine.Name] = machine.PoweredOn
	}
	for i := range nodes.Items {
		name, is := nodes.Items[i].Name, nodeReady(&nodes.Items[i])
		if ready[name] && !is && powered[name] {
			lost = append(lost, name)
		}
		ready[name] = is
	}
	return lost
}
