// Package peers is how nodes and the watcher ask the fencers of other nodes about
// the permission to run: HTTPS with mutual TLS, one small question at a time.
//
//	POST /vouch   {"node":"n1"}  →  {"vouch":true}                     asked by n1 itself
//	POST /promise {"node":"n1"}  →  {"promise":true,"readable":true}   asked by the watcher
//
// An address may belong to another node by now. So every answer counts only when
// the certificate of who gave it names the node that was asked, and a node is
// vouched for only when it asks itself.
package peers

import "time"

const (
	pathVouch   = "/vouch"
	pathPromise = "/promise"
)

// PromiseTime is how long one round of Promise takes at most.
const PromiseTime = 500 * time.Millisecond

// maxBody is far more than a question or an answer has, in bytes: a node's name
// has at most 253.
const maxBody = 1 << 10

// question is the body of either request.
type question struct {
	Node string `json:"node"`
}

type vouchAnswer struct {
	Vouch bool `json:"vouch"`
}

type promiseAnswer struct {
	Promise  bool `json:"promise"`
	Readable bool `json:"readable"`
}
