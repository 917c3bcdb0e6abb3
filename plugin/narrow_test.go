package plugin

import (
	"fmt"
	"slices"
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
		nodes = append(nodes, nodeNamed(name, func(n *nodeInfo) { n.allocatable = int64(1000+i) * gibi }))
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
