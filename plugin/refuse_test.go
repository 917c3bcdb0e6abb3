package plugin

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const gibi = int64(1 << 30)

func TestFilter(t *testing.T) {
	withCheckpoint := func(m *v1alpha1.Migration) {
		m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDeleted, Checkpoint: &v1alpha1.HeldCheckpoint{Generation: 7, Bytes: 4 * gibi}}
	}
	source := parseFacts(v1alpha1.NodeFacts{Architecture: "amd64", KernelVersion: "6.12.1", CRIUVersion: "4.2.1"})
	fresh := &placement{handler: "lifeboat"}
	empty := &placement{handler: "lifeboat", migration: lost("m", "web-1", "ReplicaSet", "rs"), source: source}
	restored := &placement{handler: "lifeboat", migration: lost("m", "web-1", "ReplicaSet", "rs", withCheckpoint), source: source}

	criu := func(v string) func(*v1alpha1.Fence) {
		return func(f *v1alpha1.Fence) { f.Status.Facts.CRIUVersion = v }
	}
	handlers := func(names ...string) func(*v1alpha1.Fence) {
		return func(f *v1alpha1.Fence) { f.Status.Facts.RuntimeHandlers = names }
	}
	available := func(bytes int64) func(*v1alpha1.Fence) {
		return func(f *v1alpha1.Fence) {
			f.Status.Load = &v1alpha1.NodeLoad{At: metav1.Now(), MemoryAvailableBytes: bytes}
		}
	}
	running := func(change ...func(*v1alpha1.Fence)) *v1alpha1.Fence {
		return fence("node-b", "1", v1alpha1.FenceRunning, change...)
	}
	reports := func(names ...string) func(*nodeInfo) {
		return func(n *nodeInfo) {
			for _, name := range names {
				n.node.Status.RuntimeHandlers = append(n.node.Status.RuntimeHandlers, corev1.NodeRuntimeHandler{Name: name})
			}
		}
	}
	memory := func(allocatable, requested int64) func(*nodeInfo) {
		return func(n *nodeInfo) { n.allocatable.bytes, n.requested.bytes = allocatable, requested }
	}
	const (
		older     = "node cannot restore the pod: CRIU 4.1.1 is older than 4.2.1 that made the checkpoint"
		noHandler = "node cannot restore the pod: its container runtime does not know the handler lifeboat"
		full      = "node cannot restore the pod: it has less than 4Gi of memory to give"
	)
	for name, tc := range map[string]struct {
		placement *placement
		fence     *v1alpha1.Fence
		node      *nodeInfo
		want      string
	}{
		"first start, no fence":         {fresh, nil, nil, ""},
		"first start, running":          {fresh, running(criu("")), nil, ""},
		"first start, lost":             {fresh, fence("node-b", "1", v1alpha1.FenceLost), nil, "node is declared lost"},
		"first start, fenced":           {fresh, fence("node-b", "1", v1alpha1.FenceFenced), nil, "node is fenced"},
		"first start, handler missing":  {fresh, running(handlers("runc")), nil, "node's container runtime does not know the handler lifeboat"},
		"first start, little memory":    {fresh, running(available(1)), nodeNamed("node-b", memory(2, 1)), ""},
		"nothing to restore, no fence":  {empty, nil, nil, ""},
		"nothing to restore, old CRIU":  {empty, running(criu("4.1.1")), nil, ""},
		"nothing to restore, fenced":    {empty, fence("node-b", "1", v1alpha1.FenceFenced), nil, "node is fenced"},
		"restore, running":              {restored, running(), nil, ""},
		"restore, old CRIU":             {restored, running(criu("4.1.1")), nil, older},
		"restore, no fence":             {restored, nil, nil, "node has no fence record: no checkpointer has run there"},
		"restore, lost":                 {restored, fence("node-b", "1", v1alpha1.FenceLost), nil, "node is declared lost"},
		"restore, fenced with old CRIU": {restored, fence("node-b", "1", v1alpha1.FenceFenced, criu("4.1.1")), nil, "node is fenced"},

		"handler known to the checkpointer": {restored, running(handlers("", "lifeboat")), nil, ""},
		"handler not known to it":           {restored, running(handlers("", "runc")), nil, noHandler},
		"the kubelet knows it better":       {restored, running(handlers("runc")), nodeNamed("node-b", reports("lifeboat")), ""},
		"the kubelet does not know it":      {restored, running(handlers("lifeboat")), nodeNamed("node-b", reports("runc")), noHandler},

		"just enough memory":     {restored, running(available(4 * gibi)), nodeNamed("node-b", memory(6*gibi, 2*gibi)), ""},
		"too little available":   {restored, running(available(4*gibi - 1)), nodeNamed("node-b", memory(64*gibi, 0)), full},
		"too little unpromised":  {restored, running(available(64 * gibi)), nodeNamed("node-b", memory(6*gibi, 2*gibi+1)), full},
		"memory is not reported": {restored, running(available(0)), nodeNamed("node-b"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := against(t, unreachable(t))
			p.records.putFence("node-b", tc.fence)
			if tc.node == nil {
				tc.node = nodeNamed("node-b")
			}
			state := newCycle()
			state.Write(stateKey, tc.placement)
			if got := p.Filter(t.Context(), state, nil, tc.node).Message(); got != tc.want {
				t.Errorf("Filter says %q\n      want %q", got, tc.want)
			}
		})
	}
}

// A loss brings many restores at once: those that were placed count before the
// node reports what they took.
func TestFilterCountsRestoresUnderWay(t *testing.T) {
	p, s := against(t, unreachable(t))
	s.nodes["node-b"] = nodeNamed("node-b")
	reported := metav1.Now()
	p.records.putFence("node-b", fence("node-b", "1", v1alpha1.FenceRunning, func(f *v1alpha1.Fence) {
		f.Status.Load = &v1alpha1.NodeLoad{At: reported, MemoryAvailableBytes: 7 * gibi}
	}))
	place := func(name string) (*cycle, *corev1.Pod) {
		m := lost(name, name, "", "", func(m *v1alpha1.Migration) {
			m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDeleted, Checkpoint: &v1alpha1.HeldCheckpoint{Bytes: 4 * gibi}}
		})
		state, pod := newCycle(), successor(name, "", "")
		pod.UID = m.UID
		state.Write(stateKey, &placement{migration: m})
		return state, pod
	}
	first, firstPod := place("first")
	second, secondPod := place("second")
	if got := p.Filter(t.Context(), first, firstPod, s.nodes["node-b"]); !got.IsSuccess() {
		t.Fatalf("the first restore is refused: %s", got.Message())
	}
	p.Reserve(t.Context(), first, firstPod, "node-b")
	if got := p.Filter(t.Context(), second, secondPod, s.nodes["node-b"]); got.IsSuccess() {
		t.Error("the second restore may take memory that the first will take")
	}
	p.Unreserve(t.Context(), first, firstPod, "node-b")
	if got := p.Filter(t.Context(), second, secondPod, s.nodes["node-b"]); !got.IsSuccess() {
		t.Errorf("the second restore is refused after the first was given up: %s", got.Message())
	}
	p.Reserve(t.Context(), first, firstPod, "node-b")
	p.records.putFence("node-b", fence("node-b", "2", v1alpha1.FenceRunning, func(f *v1alpha1.Fence) {
		f.Status.Load = &v1alpha1.NodeLoad{At: metav1.NewTime(reported.Add(2 * fillTime)), MemoryAvailableBytes: 4 * gibi}
	}))
	if got := p.Filter(t.Context(), second, secondPod, s.nodes["node-b"]); !got.IsSuccess() {
		t.Errorf("what the node has reported since counts twice: %s", got.Message())
	}
}

func TestHandlerOf(t *testing.T) {
	for class, want := range map[*string]string{nil: "", ptr.To("lifeboat"): "lifeboat", ptr.To("gvisor"): ""} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{RuntimeClassName: class}}
		if got := handlerOf(pod); got != want {
			t.Errorf("handlerOf = %q, want %q", got, want)
		}
	}
}
