// Package fence is a node's side of its fence: it makes sure that protected
// pods run on the node only while the node is permitted to run them.
//
// The permission comes from one record, the node's Fence object. A read of it
// that shows Running permits the node to run protected pods until
// permission.Terms.Period after the start of that read. Past that the fencer
// freezes them, and it thaws them as soon as a later read shows Running again.
// Where the record says that the node was fenced, the copies of that time are
// killed before the node asks to run protected pods again.
//
// Permit is the decision, without clock or input and output. Fencer is the
// process around it: it reads and writes the record, freezes, thaws and kills
// cgroups, and publishes a State for the container runtime on the node.
//
// The record is always read, on a node without protected pods as well: such a
// node must still refute a false declaration and return from Fenced, so that
// pods can be placed on it.
//
// A container that is created while the permission is out, in a pod whose cgroup
// is not frozen yet, runs until the next pass sees it: some tens of milliseconds.
// A runtime that compares State.PermittedUntil first leaves no such moment.
//
// While the API cannot be read from anywhere, every node freezes its protected
// pods: a node cannot tell an outage of the API from its own isolation.
package fence
