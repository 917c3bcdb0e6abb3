package plugin

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Of many nodes the holder and the best others are tried; when they cannot take
// the pod, all are.
func TestNarrow(t *testing.T) {
	p, s := against(t, unreachable(t))
	pod := successor("web-2", "ReplicaSet", "rs")
	s.addPod(t, pod)
	var nodes []framework.NodeInfo
	for i := range 300 {
		name := fmt.Sprintf("node-%03d", i)
		state := v1alpha1.FenceRunning
		if i == 298 {
			state = v1alpha1.FenceFenced
		}
		p.records.putFence(name, fence(name, "1", state))
		nodes = append(nodes, nodeNamed(name, func(n *nodeInfo) { n.allocatable.bytes = int64(1000+i) * gibi }))
	}
	p.records.putFence("node-a", fence("node-a", "1", v1alpha1.FenceFenced))
	p.migrationChanged(nil, lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) {
		m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDeleted, Checkpoint: &v1alpha1.HeldCheckpoint{
			Generation: 7, Bytes: gibi, Holders: []string{"node-007", "node-298"},
		}}
	}))
	try := func(nodes []framework.NodeInfo) (*cycle, *framework.PreFilterResult) {
		t.Helper()
		state := newCycle()
		result, status := p.PreFilter(t.Context(), state, pod, nodes)
		if !status.IsSuccess() {
			t.Fatal(status.Message())
		}
		return state, result
	}

	if state, few := try(nodes[:mostCandidates]); !few.AllNodes() {
		t.Errorf("of %d nodes only %d are tried", mostCandidates, len(few.NodeNames))
	} else if _, status := p.PostFilter(t.Context(), state, pod, nil); status.Code() != framework.Unschedulable {
		t.Errorf("other plugins may not help: %s", status.Code())
	}
	state, many := try(nodes)
	names := many.NodeNames.UnsortedList()
	slices.Sort(names)
	// The holder that is not fenced, and the largest others.
	if len(names) != mostCandidates || names[0] != "node-007" || names[1] != "node-200" || slices.Contains(names, "node-298") {
		t.Errorf("of %d nodes %d are tried: %v", len(nodes), len(names), names)
	}
	s.takeActivated()
	if _, status := p.PostFilter(t.Context(), state, pod, nil); status.Code() != framework.UnschedulableAndUnresolvable {
		t.Errorf("other plugins may evict pods: %s", status.Code())
	}
	if s.takeActivated()["shop/web-2"] == 0 {
		t.Error("the pod is not tried again")
	}
	if _, all := try(nodes); !all.AllNodes() {
		t.Errorf("in the next attempt only %d nodes are tried", len(all.NodeNames))
	}
}

// What is done for each node is done for thousands of them in each cycle.
func TestWorkForANodeAllocatesNothing(t *testing.T) {
	p, _ := against(t, unreachable(t))
	p.records.putFence("node-b", fence("node-b", "1", v1alpha1.FenceRunning, func(f *v1alpha1.Fence) {
		f.Status.Facts.CPUFeatures = []string{"avx", "avx2", "sse2"}
		f.Status.Load = &v1alpha1.NodeLoad{CPUPressure: 20, MemoryAvailableBytes: 8 * gibi}
		f.Status.Restores = &v1alpha1.RestoreHistory{Failures: make([]v1alpha1.RestoreFailure, 2)}
	}))
	info := nodeNamed("node-b", func(n *nodeInfo) { n.allocatable.bytes = 8 * gibi })
	state := newCycle()
	state.Write(stateKey, &placement{
		source: p.records.node("node-b").facts, handler: "lifeboat", images: []image{{"web:latest", "docker.io/library/web:latest"}}, domain: "a",
		migration: lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) {
			m.Status.Checkpoint = &v1alpha1.HeldCheckpoint{Bytes: gibi, Holders: []string{"node-c", "node-b"}}
		}),
	})
	work := map[string]func(){
		"Filter": func() {
			if status := p.Filter(t.Context(), state, nil, info); !status.IsSuccess() {
				t.Error(status.Message())
			}
		},
		"Score": func() {
			if score, status := p.Score(t.Context(), state, nil, info); !status.IsSuccess() || score == 0 {
				t.Error(score, status.Message())
			}
		},
	}
	for name, do := range work {
		if allocations := testing.AllocsPerRun(100, do); allocations > 0 {
			t.Errorf("%s allocates %v times", name, allocations)
		}
	}
}

func BenchmarkFilterAndScore(b *testing.B) {
	p := &Lifeboat{args: &Args{}, records: newRecords(), room: newRoom()}
	p.args.setDefaults()
	p.model = p.args.model()
	features := strings.Fields(strings.Repeat("feature ", 70))
	p.records.putFence("node-b", fence("node-b", "1", v1alpha1.FenceRunning, func(f *v1alpha1.Fence) { f.Status.Facts.CPUFeatures = features }))
	info, state := nodeNamed("node-b"), newCycle()
	state.Write(stateKey, &placement{source: p.records.node("node-b").facts, migration: lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) {
		m.Status.Checkpoint = &v1alpha1.HeldCheckpoint{Bytes: gibi, Holders: []string{"node-c", "node-d"}}
	})})
	for b.Loop() {
		p.Filter(b.Context(), state, nil, info)
		p.Score(b.Context(), state, nil, info)
	}
}
