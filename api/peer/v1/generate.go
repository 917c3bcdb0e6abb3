// Package peerv1 is the protocol between checkpointers, and from the watcher
// to checkpointers, generated from peer.proto.
package peerv1

//go:generate protoc -I. --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative peer.proto
