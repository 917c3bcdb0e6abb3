package agent

import (
	"sort"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// holder is a node that a generation can be copied to.
type holder struct {
	node    string
	address string
}

// chooseHolders orders the nodes that a pod's generations can be copied to. The
// nodes that hold the previous generation come first, since they lack only what
// has changed; the others follow in an order of their own for each pod, so that
// the copies spread over the cluster.
func chooseHolders(self string, podUID string, previous []string, fences []v1alpha1.Fence) []holder {
	rank := map[string]int{}
	for i, node := range previous {
		rank[node] = i - len(previous)
	}
	var out []holder
	for _, f := range fences {
		if f.Name == self || f.Spec.State != v1alpha1.FenceRunning || f.Status.Facts.PeerAddress == "" {
			continue
		}
		out = append(out, holder{node: f.Name, address: f.Status.Facts.PeerAddress})
	}
	sort.Slice(out, func(i, j int) bool {
		ri, rj := rank[out[i].node], rank[out[j].node]
		if ri != rj {
			return ri < rj
		}
		return spread(podUID, out[i].node) < spread(podUID, out[j].node)
	})
	return out
}

// spread is rendezvous hashing: each pod sees the nodes in an order of its own.
func spread(podUID, node string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a
	h := uint64(offset)
	for _, s := range []string{podUID, "/", node} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
	}
	return h
}
