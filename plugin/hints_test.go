package plugin

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// restoring is a plugin in which the pod waits for a node for its restore of 4 GiB.
func restoring(t *testing.T) (*Lifeboat, *scheduler, *corev1.Pod) {
	t.Helper()
	p, s := against(t, unreachable(t))
	pod := successor("web-2", "ReplicaSet", "rs")
	s.addPod(t, pod)
	p.waiting.add(pod)
	p.waiting.tried(pod, &placement{
		source: parseFacts(v1alpha1.NodeFacts{KernelVersion: "6.12"}),
		migration: lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) {
			m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDeleted, Checkpoint: &v1alpha1.HeldCheckpoint{Bytes: 4 * gibi}}
		}),
	})
	return p, s, pod
}

func TestFenceHint(t *testing.T) {
	running := func(change ...func(*v1alpha1.Fence)) *v1alpha1.Fence {
		return fence("node-b", "1", v1alpha1.FenceRunning, change...)
	}
	kernel := func(v string) func(*v1alpha1.Fence) {
		return func(f *v1alpha1.Fence) { f.Status.Facts.KernelVersion = v }
	}
	available := func(bytes int64) func(*v1alpha1.Fence) {
		return func(f *v1alpha1.Fence) {
			f.Status.Load = &v1alpha1.NodeLoad{At: metav1.Now(), MemoryAvailableBytes: bytes}
		}
	}
	handlers := func(f *v1alpha1.Fence) { f.Status.Facts.RuntimeHandlers = []string{"lifeboat"} }
	for name, tc := range map[string]struct {
		before, after *v1alpha1.Fence
		want          bool
	}{
		"new":                     {nil, running(), true},
		"new, too old":            {nil, running(kernel("6.1")), false},
		"gone":                    {running(), nil, false},
		"the same":                {running(), running(), false},
		"back":                    {fence("node-b", "1", v1alpha1.FenceFenced), running(), true},
		"fenced":                  {running(), fence("node-b", "1", v1alpha1.FenceFenced), false},
		"kernel new enough":       {running(kernel("6.1")), running(), true},
		"kernel still newer":      {running(), running(kernel("6.18")), false},
		"memory enough":           {running(available(gibi)), running(available(4 * gibi)), true},
		"memory still too little": {running(available(gibi)), running(available(2 * gibi)), false},
		"memory was enough":       {running(available(4 * gibi)), running(available(8 * gibi)), false},
		"handlers told":           {running(), running(handlers), true},
	} {
		t.Run(name, func(t *testing.T) {
			p, s, _ := restoring(t)
			p.fenceChanged(tc.before, tc.after)
			if got := s.takeActivated()["shop/web-2"] > 0; got != tc.want {
				t.Errorf("brought back: %v, want %v", got, tc.want)
			}
		})
	}
}

func TestMigrationHint(t *testing.T) {
	m := func(change ...func(*v1alpha1.Migration)) *v1alpha1.Migration {
		return lost("m", "web-1", "ReplicaSet", "rs", change...)
	}
	generation := func(number int64) func(*v1alpha1.Migration) {
		return func(m *v1alpha1.Migration) {
			m.Status.Phase = v1alpha1.PhaseDeleted
			m.Status.Checkpoint = &v1alpha1.HeldCheckpoint{Generation: number}
		}
	}
	held := func(m *v1alpha1.Migration) {
		m.Status.Phase, m.Status.Held = v1alpha1.PhaseDetected, &v1alpha1.Held{Reason: v1alpha1.HeldPaused}
	}
	others := func(m *v1alpha1.Migration) { m.Spec.Pod.OwnerUID = "another" }
	for name, tc := range map[string]struct {
		before, after *v1alpha1.Migration
		want          bool
	}{
		"new":                       {nil, m(), true},
		"new, another controller's": {nil, m(others), false},
		"new, held":                 {nil, m(held), false},
		"held, then fenced":         {m(held), m(generation(7)), true},
		"empty, then held":          {m(), m(held), true},
		"prepared":                  {m(), m(generation(7)), true},
		"fenced, then deleted":      {m(generation(7), phase(v1alpha1.PhaseFenced)), m(generation(7)), true},
		"a further step":            {m(generation(7)), m(generation(7), phase(v1alpha1.PhaseCreated)), false},
		"another generation":        {m(generation(7)), m(generation(8)), true},
		"claimed by another":        {m(generation(7)), m(generation(7), claimed("other")), true},
		"claimed by this one":       {m(generation(7)), m(generation(7), claimed("new")), false},
		"closed":                    {m(generation(7)), m(generation(7), closed), true},
		"gone":                      {m(generation(7)), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, s, _ := restoring(t)
			p.migrationChanged(tc.before, tc.after)
			if got := s.takeActivated()["shop/web-2"] > 0; got != tc.want {
				t.Errorf("brought back: %v, want %v", got, tc.want)
			}
		})
	}
}

func TestNodeHint(t *testing.T) {
	node := func(name, memory string) *corev1.Node {
		n := nodeNamed(name).node
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
		return n
	}
	for name, tc := range map[string]struct {
		held          bool
		before, after any
		want          framework.QueueingHint
	}{
		"new":                   {false, nil, node("node-b", "16Gi"), framework.Queue},
		"new, pod held":         {true, nil, node("node-b", "16Gi"), framework.QueueSkip},
		"new, too small":        {false, nil, node("node-b", "2Gi"), framework.QueueSkip},
		"new, cannot restore":   {false, nil, node("old", "16Gi"), framework.QueueSkip},
		"new, no Fence":         {false, nil, node("bare", "16Gi"), framework.QueueSkip},
		"more memory":           {false, node("node-b", "8Gi"), node("node-b", "16Gi"), framework.Queue},
		"no more memory":        {false, node("node-b", "16Gi"), node("node-b", "16Gi"), framework.QueueSkip},
		"not a node is no skip": {false, nil, "?", framework.Queue},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, pod := restoring(t)
			if tc.held {
				p.waiting.hold(pod)
			}
			p.records.putFence("node-b", fence("node-b", "1", v1alpha1.FenceRunning))
			p.records.putFence("old", fence("old", "1", v1alpha1.FenceRunning, func(f *v1alpha1.Fence) { f.Status.Facts.KernelVersion = "6.1" }))
			if got, _ := p.nodeHint(klog.Background(), pod, tc.before, tc.after); got != tc.want {
				t.Errorf("hint is %s, want %s", got, tc.want)
			}
		})
	}
}

func TestPodHint(t *testing.T) {
	on := func(node string) *corev1.Pod {
		p := successor("gone", "", "")
		p.UID, p.Spec.NodeName = "gone", node
		return p
	}
	p, _, pod := restoring(t)
	p.records.putFence("node-b", fence("node-b", "1", v1alpha1.FenceRunning))
	p.records.putFence("fenced", fence("fenced", "1", v1alpha1.FenceFenced))
	for name, tc := range map[string]struct {
		gone *corev1.Pod
		want framework.QueueingHint
	}{
		"from a node that could take it": {on("node-b"), framework.Queue},
		"from a fenced node":             {on("fenced"), framework.QueueSkip},
		"from no node":                   {on(""), framework.QueueSkip},
	} {
		if got, err := p.podHint(klog.Background(), pod, tc.gone, nil); got != tc.want || err != nil {
			t.Errorf("%s: hint is %s with error %v, want %s", name, got, err, tc.want)
		}
	}
	p.waiting.tried(pod, &placement{})
	if got, _ := p.podHint(klog.Background(), pod, on("node-b"), nil); got != framework.QueueSkip {
		t.Error("a pod with nothing to restore waits for no memory of ours")
	}
}
