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
// The agent lets no container be created while the published State does not permit
// it. One that is being created when the permission runs out, in a pod whose cgroup
// is not frozen yet, runs until the next pass sees it: some tens of milliseconds.
//
// While the API cannot be read from anywhere, no node could tell that from its own
// isolation. So a node that cannot read asks its peers, whose names are in its
// record: Permit says when, and what their answers permit, and Vouching what a node
// answers. Package api/permission/peers carries questions and answers; whom a node
// asks it takes from the files that the agent leaves (neighbours). Nothing on the
// answering path reads anything or waits.
//
// Pods are stopped by the brake, before anything else in each pass, and by a thread
// of its own when the passes hang. After a stall of the whole process that is the
// first thing that happens. What it cannot undo is that the pods ran meanwhile: a
// fencer that is stopped for longer than the permission, on a node whose pods are
// not, is noticed by the watcher only where it can reach the node.
package fence
