// Package client is what lifeboat-runtime needs to ask the checkpointer of its
// node: a few messages over a UNIX socket. It uses the standard library alone,
// so that a program that imports it starts in milliseconds.
//
// A connection carries one request and one response, each one line of JSON.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Folder is the folder on the node that checkpointer, fencer and runtime share.
// It lies on a tmpfs: what it holds ends with the boot.
const Folder = "/run/lifeboat"

// SocketPath is where the checkpointer listens.
const SocketPath = Folder + "/checkpointer.sock"

// KeeperSocketPath is where the fencer's process takes what must outlive the
// checkpointer: the memory of restored containers that is still to be filled in.
const KeeperSocketPath = Folder + "/keeper.sock"

// ContainersFolder has one file for each protected container of this boot,
// named after its ID with the suffix ".json". The runtime writes it before the
// container exists, and removes it when the container is deleted. The fencer
// freezes and kills what is listed there.
const ContainersFolder = Folder + "/containers"

// ConfirmedPath has the pods that the API said are this node's, as a JSON object of
// the node's fence epochs then by the pods' UIDs. The checkpointer writes it. While
// nobody can ask the API, only containers of these may start.
const ConfirmedPath = Folder + "/confirmed.json"

// Registration is the content of a file in ContainersFolder.
type Registration struct {
	Container
	// CgroupsPath is the container's cgroup as its OCI configuration names it.
	CgroupsPath string `json:"cgroupsPath"`
	// Epoch is the fence epoch of the node when the container was created.
	Epoch int64 `json:"epoch"`
	// Restored is whether the container came out of a checkpoint: it runs since
	// it was created, and its start is nothing but an answer.
	Restored bool `json:"restored,omitempty"`
	// IPC are the System V objects that its restore has made. They go with the
	// container where it is killed because that restore was not complete.
	IPC []IPCObject `json:"ipc,omitempty"`
}

// Container names one container of one pod.
type Container struct {
	// ID is the container's ID in the container runtime.
	ID string `json:"id"`
	// Name is the container's name in the pod.
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	PodName   string `json:"podName"`
	PodUID    string `json:"podUID"`
	SandboxID string `json:"sandboxID"`
}

// Request is what the runtime sends. Exactly one field is set.
type Request struct {
	Create *CreateRequest `json:"create,omitempty"`
	Report *ReportRequest `json:"report,omitempty"`
}

// CreateRequest asks how a container is to be created.
type CreateRequest struct {
	Container
	// Bundle is the folder of the OCI bundle, in the node's mount namespace.
	Bundle string `json:"bundle"`
	// Epoch is what the container is registered under. It is refused when the node
	// has been fenced since.
	Epoch int64 `json:"epoch"`
}

// CreateResponse says how.
type CreateResponse struct {
	// Refuse says why the container must not be created at all, or not now: its pod
	// runs elsewhere, or may. Empty otherwise. kubelet asks again.
	Refuse string `json:"refuse,omitempty"`
	// Restore is whether to restore; else the container starts anew. When it is
	// set, file changes have already been applied to the bundle's rootfs.
	Restore bool `json:"restore"`
	// ImagesPath and WorkPath are CRIU's folders, in the node's mount namespace.
	ImagesPath string `json:"imagesPath,omitempty"`
	WorkPath   string `json:"workPath,omitempty"`
	// ConfigPath is a CRIU configuration file to restore with.
	ConfigPath string `json:"configPath,omitempty"`
	// Lazy is whether a daemon serves pages on WorkPath/lazy-pages.socket.
	Lazy bool `json:"lazy,omitempty"`
	// Generation is what is being restored.
	Generation int64 `json:"generation,omitempty"`
	// IPC are the System V objects that the restore makes in the pod's IPC namespace.
	// Those that it has made are removed where it fails.
	IPC []IPCObject `json:"ipc,omitempty"`
	// OrNothing is whether a container whose restore fails is not created at all, instead of
	// anew.
	OrNothing bool `json:"orNothing,omitempty"`
	// Reason says why a container that was to be restored starts anew; empty
	// where there was nothing to restore.
	Reason string `json:"reason,omitempty"`
}

// ReportRequest tells how a restore ended.
type ReportRequest struct {
	Container
	Restored bool `json:"restored"`
	// Message has the end of the restore log when Restored is false.
	Message string `json:"message,omitempty"`
	// Seconds is the time from the runtime's create to the end of the restore.
	Seconds float64 `json:"seconds"`
}

// Response is what the checkpointer answers.
type Response struct {
	// Error is set when the request could not be answered.
	Error  string          `json:"error,omitempty"`
	Create *CreateResponse `json:"create,omitempty"`
}

// Do sends a request to the checkpointer at socket and waits for its answer
// until ctx ends. It returns an error when no checkpointer answers, or when it
// answers with an error.
func Do(ctx context.Context, socket string, req Request) (Response, error) {
	var resp Response
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return resp, fmt.Errorf("reach the checkpointer: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return resp, fmt.Errorf("ask the checkpointer: %w", err)
	}
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return resp, fmt.Errorf("wait for the checkpointer's answer: %w", err)
	}
	if resp.Error != "" {
		return resp, fmt.Errorf("checkpointer: %s", resp.Error)
	}
	return resp, nil
}
