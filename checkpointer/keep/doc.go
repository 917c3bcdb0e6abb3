// Package keep keeps a pod's established TCP connections through a planned move.
//
// A connection is named by its addresses, so the pod takes the address that it had on its
// source node to its target node, as a second one. Nothing but these two nodes knows:
//
//	others ── source node ── target node ── pod
//
// The source sends what is for the address on to the target (Forward), and keeps it from
// being given to another pod (Reserve). The target takes what comes from the source to the
// pod, and what the pod sends from the address back to the source (Guest). So each packet
// takes the way through the source node that it took before, in both directions, and each
// translation of addresses that was made for the connection, wherever it is, stays good.
//
// From the moment at which the pod is frozen its old network is silent (Silence): the
// kernel would go on to acknowledge what no process reads any more, and would reset the
// connections when the processes are killed.
package keep

// protocol marks routes and rules as this package's.
const protocol = 76

// Priorities of rules, all below those of the main table. What is for a guest's address
// is dropped until the guest is open.
const (
	priorityIn     = 7600 + iota // from the source, and from the node itself
	priorityClosed               // the same, dropped
	priorityOut                  // from the pod
)
