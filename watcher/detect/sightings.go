package detect

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
)

// Sightings is all that was seen of the nodes. It is not safe for use from several
// goroutines. Make one with NewSightings.
type Sightings struct {
	nodes    map[string]*sighting
	leases   hearing
	pressure Pressure
}

// NewSightings returns Sightings that have seen nothing yet.
func NewSightings(pressure Pressure) *Sightings {
	return &Sightings{nodes: map[string]*sighting{}, pressure: pressure}
}

// sighting is everything that was seen of one node.
type sighting struct {
	node string
	// watched is since when the node has been watched at all, and touched when
	// something of it was last seen to change.
	watched, touched time.Time
	// exists is whether there is a Node object; leased and fenced are whether there
	// are its Lease and its Fence.
	exists, leased, fenced bool
	ready                  corev1.ConditionStatus
	// unknown is since when ready is Unknown.
	unknown time.Time
	// bootID is the boot that its kubelet last reported, and permitted the boot that
	// the node's Fence permits to run pods.
	bootID, permitted string
	domain            string
	// tainted is whether somebody else's taint says that the node is out of service.
	// outOfService is since when that is known to be true of a node that is silent:
	// since it was seen to appear, or, of one that was there before the watch, since
	// Kubernetes has not heard of the kubelet for long. It may have been forgotten
	// there, and nobody here would have seen the node live on with it.
	tainted      bool
	outOfService time.Time
	lease        lease
	load         load
	// fromNode and fromStatus are the signals of the Node and of the Fence's status.
	fromNode, fromStatus []Signal
	// past is when a signal of a reason ended.
	past map[v1alpha1.MigrationReason]time.Time
}

func (s *Sightings) of(name string, now time.Time) *sighting {
	known := s.nodes[name]
	if known == nil {
		s.forget(now)
		known = &sighting{node: name, watched: now, past: map[v1alpha1.MigrationReason]time.Time{}}
		s.nodes[name] = known
	}
	return known
}

// Node takes in a Node as it is now, or that it exists no more.
func (s *Sightings) Node(now time.Time, node *corev1.Node, exists bool) {
	n := s.of(node.Name, now)
	n.remember(now, s.pressure)
	n.touched = now
	known := n.exists
	n.exists = exists
	if !exists {
		n.ready, n.fromNode, n.tainted, n.outOfService = "", nil, false, time.Time{}
		return
	}
	ready := corev1.ConditionStatus("")
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			ready = condition.Status
		}
	}
	if ready == corev1.ConditionUnknown && n.ready != ready {
		n.unknown = now
	}
	n.ready, n.bootID, n.domain = ready, node.Status.NodeInfo.BootID, node.Labels[corev1.LabelTopologyZone]
	n.fromNode = signalsOf(node)
	tainted := outOfService(node)
	switch {
	case !tainted:
		n.outOfService = time.Time{}
	case !n.outOfService.IsZero():
	case known && !n.tainted, ready == corev1.ConditionUnknown:
		n.outOfService = now
	}
	n.tainted = tainted
}

// Lease takes in the time of the last renewal of a kubelet's Lease, by the node's
// clock, or that the Lease exists no more.
func (s *Sightings) Lease(now time.Time, name string, renewed time.Time, exists bool) {
	n := s.of(name, now)
	n.leased, n.touched = exists, now
	if exists && n.lease.take(now, renewed) {
		s.leases.renewal(now)
	}
}

// Fence takes in a Fence as it is now, or that it exists no more.
func (s *Sightings) Fence(now time.Time, fence *v1alpha1.Fence, exists bool) {
	n := s.of(fence.Name, now)
	n.remember(now, s.pressure)
	n.touched = now
	n.fenced = exists
	if !exists {
		n.permitted, n.fromStatus, n.load = "", nil, load{}
		return
	}
	n.permitted = fence.Spec.BootID
	n.load.take(now, fence.Status.Load, s.pressure)
	n.fromStatus = nil
	if fence.Status.ShuttingDown != nil {
		n.fromStatus = []Signal{{Reason: v1alpha1.MigrationNodeShutdown, Message: "its checkpointer says that it shuts down"}}
	}
}

// Fact judges a node. member is its checkpointer in the membership, the zero
// Member when it was never seen there.
func (s *Sightings) Fact(now time.Time, name string, member membership.Member) Fact {
	return s.of(name, now).fact(now, member, s.leases, s.pressure)
}

// forget drops the nodes of which nothing has been left for a while.
func (s *Sightings) forget(now time.Time) {
	maps.DeleteFunc(s.nodes, func(_ string, n *sighting) bool {
		return !n.exists && !n.leased && !n.fenced && now.Sub(n.touched) > rememberFor
	})
}

// present are the signals that are to be seen now, the weightiest first.
func (s *sighting) present(now time.Time, limits Pressure) []Signal {
	signals := slices.Concat(s.fromNode, s.fromStatus, s.load.signals(now, limits))
	if s.bootID != "" && s.permitted != "" && s.bootID != s.permitted {
		signals = append(signals, Signal{Reason: v1alpha1.MigrationNodeRebooted, Message: "its kubelet reports another boot than the one that may run pods"})
	}
	return byWeight(signals)
}

// remember notes that the present signals are seen at a moment at which something
// is about to change.
func (s *sighting) remember(now time.Time, limits Pressure) {
	for _, signal := range s.present(now, limits) {
		// A boot whose pods the node has been told of is no reason of what follows.
		if signal.Reason != v1alpha1.MigrationNodeRebooted {
			s.past[signal.Reason] = now
		}
	}
}

// why is the reason of a loss now, with the signals that are present.
func (s *sighting) why(now time.Time, present []Signal) v1alpha1.MigrationReason {
	for _, reason := range weights {
		seen, known := s.past[reason]
		if known && now.Sub(seen) <= rememberFor ||
			slices.ContainsFunc(present, func(signal Signal) bool { return signal.Reason == reason }) {
			return reason
		}
	}
	return v1alpha1.MigrationNodeLost
}
