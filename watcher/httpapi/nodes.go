package httpapi

import (
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Node is a node that has, or had, protected pods or a checkpointer.
type Node struct {
	Name          string     `json:"name"`
	Ready         string     `json:"ready" enum:"True,False,Unknown" doc:"The Node's condition Ready; Unknown where there is no Node of this name any more"`
	Unschedulable bool       `json:"unschedulable" doc:"It was cordoned"`
	ProtectedPods int        `json:"protectedPods" doc:"Protected pods on it"`
	Fence         NodeFence  `json:"fence" doc:"Whether it may run protected pods"`
	Facts         NodeFacts  `json:"facts" doc:"What decides which checkpoints it can restore"`
	Load          *NodeLoad  `json:"load,omitempty"`
	ShuttingDown  *time.Time `json:"shuttingDownSince,omitempty"`
}

// NodeFence is a node's permission to run protected pods.
type NodeFence struct {
	State     string     `json:"state" doc:"Running, Lost or Fenced"`
	Epoch     int64      `json:"epoch"`
	Reason    string     `json:"reason,omitempty" doc:"Why the node was declared lost"`
	Proof     string     `json:"proof,omitempty" doc:"Why its pods cannot run, once it is fenced"`
	ChangedAt *time.Time `json:"changedAt,omitempty"`
}

// NodeFacts is what decides which checkpoints a node can restore.
type NodeFacts struct {
	Architecture    string   `json:"architecture,omitempty"`
	KernelVersion   string   `json:"kernelVersion,omitempty"`
	CRIUVersion     string   `json:"criuVersion,omitempty" doc:"Missing where CRIU does not work on the node"`
	RuncVersion     string   `json:"runcVersion,omitempty"`
	CPUFeatures     []string `json:"cpuFeatures,omitempty"`
	RuntimeHandlers []string `json:"runtimeHandlers,omitempty"`
	Message         string   `json:"message,omitempty" doc:"Why CRIU does not work on the node"`
}

// NodeLoad is how busy a node is. Pressures are in per cent of the last ten seconds.
type NodeLoad struct {
	At                   time.Time `json:"at"`
	CPUPressure          int32     `json:"cpuPressure"`
	MemoryPressure       int32     `json:"memoryPressure"`
	IOPressure           int32     `json:"ioPressure"`
	MemoryAvailableBytes int64     `json:"memoryAvailableBytes"`
}

type nodesOutput struct{ Body *List[Node] }

func (s *service) listNodes(ctx context.Context, in *Page) (*nodesOutput, error) {
	var fences v1alpha1.FenceList
	var nodes corev1.NodeList
	var pods corev1.PodList
	for _, list := range []client.ObjectList{&fences, &nodes, &pods} {
		if err := s.Cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, unavailable("read the nodes", err)
		}
	}
	byName := make(map[string]*corev1.Node, len(nodes.Items))
	for i := range nodes.Items {
		byName[nodes.Items[i].Name] = &nodes.Items[i]
	}
	protectedOn := map[string]int{}
	for i := range pods.Items {
		if pod := &pods.Items[i]; pod.Spec.NodeName != "" && protected(pod) {
			protectedOn[pod.Spec.NodeName]++
		}
	}
	list, err := page(fences.Items, *in, func(f *v1alpha1.Fence) string { return f.Name }, func(f *v1alpha1.Fence) Node {
		return viewNode(f, byName[f.Name], protectedOn[f.Name])
	})
	return &nodesOutput{Body: list}, err
}

func viewNode(fence *v1alpha1.Fence, node *corev1.Node, pods int) Node {
	facts := fence.Status.Facts
	view := Node{
		Name: fence.Name, Ready: string(corev1.ConditionUnknown), ProtectedPods: pods, ShuttingDown: moment(fence.Status.ShuttingDown),
		Fence: NodeFence{State: string(fence.Spec.State), Epoch: fence.Spec.Epoch, Reason: fence.Spec.Reason,
			Proof: string(fence.Spec.Proof), ChangedAt: moment(fence.Spec.ChangedAt)},
		Facts: NodeFacts{Architecture: facts.Architecture, KernelVersion: facts.KernelVersion, CRIUVersion: facts.CRIUVersion, RuncVersion: facts.RuncVersion,
			CPUFeatures: facts.CPUFeatures, RuntimeHandlers: facts.RuntimeHandlers, Message: facts.Message},
	}
	if load := fence.Status.Load; load != nil {
		view.Load = &NodeLoad{At: load.At.UTC(), CPUPressure: load.CPUPressure, MemoryPressure: load.MemoryPressure,
			IOPressure: load.IOPressure, MemoryAvailableBytes: load.MemoryAvailableBytes}
	}
	if node == nil {
		return view
	}
	view.Unschedulable = node.Spec.Unschedulable
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			view.Ready = string(c.Status)
		}
	}
	return view
}

func (s *service) registerNodes(api huma.API) {
	register(api, operation{
		id: "list-nodes", method: "GET", path: "/nodes", tag: "Nodes", summary: "List nodes and what they can restore",
		need: lifeboat("list", "fences"),
	}, s.listNodes)
}
