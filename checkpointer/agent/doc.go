// Package agent is the checkpointer of one node. It finds the protected pods
// that run there, checkpoints each at its interval, keeps what other nodes
// copy to it, and prepares restores for the runtime.
//
// The way of a checkpoint: schedule.go says when, target.go says what,
// protect.go takes, seals and copies it, status.go reports it. The way of a
// restore: server.go answers the runtime, claim.go checks that the pod may be
// restored here, restore.go brings the generation into place.
package agent
