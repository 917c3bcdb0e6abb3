package plugin

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// What nodes are refused for. Whoever follows a recovery tells by the first two
// that no node can take the restore, and lets the pod start anew after a while.
const (
	CannotRestore = "node cannot restore the pod"
	NoFenceRecord = "node has no fence record"
)

// refused says why a node may not take the pod, whatever else runs on it; "" when
// it may. known is nil when it has no Fence.
func refused(pl *placement, object *corev1.Node, known *node) string {
	if reason := refusedByMove(pl, object.Name); reason != "" {
		return reason
	}
	if reason := refusedByFence(pl, known); reason != "" {
		return reason
	}
	if !lacksHandler(pl.handler, object, known) {
		return ""
	}
	if pl.restores() {
		return CannotRestore + ": its container runtime does not know the handler " + pl.handler
	}
	return "node's container runtime does not know the handler " + pl.handler
}

// refusedByMove is what the planned move says that the pod takes part in.
func refusedByMove(pl *placement, node string) string {
	switch {
	case pl.only != "" && node != pl.only:
		return "the pod is being moved to another node"
	case node == pl.avoid && pl.avoid != "":
		return "the pod is being moved off the node"
	}
	return ""
}

// refusedByFence is what a node's Fence alone says.
func refusedByFence(pl *placement, known *node) string {
	if known != nil {
		switch known.fence.Spec.State {
		case v1alpha1.FenceLost:
			return "node is declared lost"
		case v1alpha1.FenceFenced:
			return "node is fenced"
		}
	}
	if !pl.restores() {
		return ""
	}
	if known == nil {
		return NoFenceRecord + ": no checkpointer has run there"
	}
	if reason := incompatible(&pl.source, &known.facts); reason != "" {
		return CannotRestore + ": " + reason
	}
	return ""
}

// lacksHandler says whether a node's container runtime is known not to have the
// handler. What the kubelet says comes before what the checkpointer says; where
// neither says anything, nothing is demanded.
func lacksHandler(handler string, object *corev1.Node, known *node) bool {
	if handler == "" {
		return false
	}
	if object != nil && len(object.Status.RuntimeHandlers) > 0 {
		return !slices.ContainsFunc(object.Status.RuntimeHandlers, func(h corev1.NodeRuntimeHandler) bool { return h.Name == handler })
	}
	if known == nil || len(known.facts.RuntimeHandlers) == 0 {
		return false
	}
	return !slices.Contains(known.facts.RuntimeHandlers, handler)
}

// handlerOf is the handler that the pod needs of a node's container runtime, ""
// when it is not Lifeboat's.
func handlerOf(pod *corev1.Pod) string {
	if name := pod.Spec.RuntimeClassName; name != nil && *name == v1alpha1.RuntimeClassName {
		return v1alpha1.RuntimeHandler
	}
	return ""
}

// noRoom is why a node cannot take a restore of so many bytes. It is the same for
// all nodes, so that the scheduler can add them up.
func noRoom(bytes int64) string {
	return CannotRestore + ": it has less than " + inBytes(bytes) + " of memory to give"
}

// inBytes writes an amount as Kubernetes does, as "1536Mi".
func inBytes(n int64) string {
	for _, unit := range []int64{1 << 30, 1 << 20, 1 << 10} {
		if n >= 10*unit {
			n = (n + unit/2) / unit * unit
			break
		}
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}
