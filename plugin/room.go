package plugin

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-scheduler/framework"
)

// fillTime is how long after its placement a restored pod's memory may be missing
// from what its node reports as used.
const fillTime = 30 * time.Second

// room keeps account of the memory that restores will take on their nodes and
// that the nodes have not reported yet, so that one loss does not put more
// checkpoints onto a node than it has memory for. It is safe for concurrent use.
type room struct {
	mu      sync.RWMutex
	pending map[string]map[types.UID]filling // by node and pod
}

// filling is a restore that was placed.
type filling struct {
	bytes int64
	at    time.Time
}

func newRoom() *room { return &room{pending: map[string]map[types.UID]filling{}} }

func (r *room) take(node string, pod types.UID, bytes int64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid, f := range r.pending[node] {
		if now.Sub(f.at) > 2*fillTime {
			drop(r.pending, node, uid)
		}
	}
	put(r.pending, node, pod, filling{bytes, now})
}

func (r *room) giveBack(node string, pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	drop(r.pending, node, pod)
}

// taken is what restores will take that a report of the given moment does not show.
func (r *room) taken(node string, reported time.Time) int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var sum int64
	for _, f := range r.pending[node] {
		if reported.Before(f.at.Add(fillTime)) {
			sum += f.bytes
		}
	}
	return sum
}

// Is there room for so many bytes? The answer has two parts: what the node can
// give now, which no eviction of other pods changes before the node reports
// again, and what it has promised to other pods, which an eviction does change.
// What is not known is no obstacle.

// givesNow compares with what the node reported last.
func (r *room) givesNow(bytes int64, name string, known *node) bool {
	if known == nil || known.fence.Status.Load == nil || known.fence.Status.Load.MemoryAvailableBytes == 0 {
		return true
	}
	load := known.fence.Status.Load
	return bytes <= load.MemoryAvailableBytes-r.taken(name, load.At.Time)
}

// unpromised compares with what no pod on the node has requested.
func unpromised(bytes int64, info framework.NodeInfo) bool {
	allocatable := info.GetAllocatable().GetMemory()
	return allocatable == 0 || bytes <= allocatable-info.GetRequested().GetMemory()
}
