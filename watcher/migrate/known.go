package migrate

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// Known is what is known now of each node that has a fence record. It may be called once
// the driver is set up.
func (d *Driver) Known() []decide.Node { return d.nodes.known(time.Now()) }

// Paused is why an operator has paused recoveries, empty if none has.
func (d *Driver) Paused() string { return d.pause.reason() }

// ProtectedPods are the protected pods of a node that can be had elsewhere.
func (d *Driver) ProtectedPods(ctx context.Context, node string) ([]corev1.Pod, error) {
	return d.protectedPods(ctx, node)
}
