package criu

import (
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
)

// PodTarget is a pod to checkpoint. All paths are the node's.
type PodTarget struct {
	Namespace, Name, UID string
	// Containers are the pod's running containers, in the order in which they
	// are to be restored: the first brings back what they share.
	Containers []Target
	// Others are runc's state folders of the pod's other running containers, the ephemeral
	// ones. They are no part of a checkpoint, and stop and go on with a pod that is held.
	Others []string
	// EmptyDirs has the folder of each emptyDir volume by the volume's name.
	EmptyDirs map[string]string
	// ShmDir is the folder that the containers see as /dev/shm; empty for none.
	ShmDir string
	// Hostname is the pod's host name.
	Hostname string
	// Silence ends all traffic of the pod, and is called right before the pod is frozen. Where
	// it is set, established connections are part of the checkpoint; else they are closed.
	Silence func() error `json:"-"`
}

// Target is one running container.
type Target struct {
	Container client.Container
	// Pid is the container's first process, in the node's process namespace.
	Pid int
	// BundleDir is the container's OCI bundle.
	BundleDir string
	// RuncStateDir is the folder with runc's state.json of the container.
	RuncStateDir string
	// UpperDir is the folder with the container's file changes. When empty it
	// is found from the container's root mount.
	UpperDir string
}

// Dump is what a checkpoint took.
type Dump struct {
	// TakenAt is the moment at which the first container was told to stop: the
	// checkpoint holds no change that is older and nothing that is newer than
	// TakenAt + Pause.
	TakenAt time.Time
	// Pause is the time from the first container's order to stop until every
	// container runs again, on the monotonic clock.
	Pause time.Duration
	// Preflight is what was found in the pod before the pause.
	Preflight preflight.Report
	// Phases are the parts of the pause.
	Phases Phases
	// Bytes is the size of the checkpoint: all of its files, and the memory.
	Bytes int64
	// Base is the generation that has the pages of Memory that are not fresh, and the
	// files that are kept; 0 when there are none.
	Base int64
	// Memory is what the processes have for themselves in memory. It is valid
	// until Close.
	Memory []memory.Process
	// Kept are the files in the archives that are as in Base.
	Kept []KeptFile
	// Containers are in the order of the PodTarget.
	Containers []ContainerDump

	session *session
	release func()
}

// Phases are the parts of a pause, one after the other.
type Phases struct {
	// Freeze is until the kernel has stopped every process.
	Freeze time.Duration
	// Images is until CRIU has written all that it keeps of the processes.
	Images time.Duration
	// Memory is for reading what was not read ahead.
	Memory time.Duration
	// Files is for looking at file changes and volumes, and for copying what of them
	// was not copied ahead, or has changed since.
	Files time.Duration
	// Thaw is until CRIU has let the processes go, and all run again.
	Thaw time.Duration
}

// Sealed tells that the checkpoint is stored as a generation: the next one
// consists of what changes from here on.
func (d *Dump) Sealed(generation int64) {
	if d.session != nil {
		d.session.sealed(generation)
	}
}

// Close gives up the memory that was read, and lets the next checkpoint of the
// pod begin. Without Sealed before it, the next one has all of this one's changes
// too. It may be called twice.
func (d *Dump) Close() {
	if d.release != nil {
		d.release()
		d.release, d.session, d.Memory = nil, nil, nil
	}
}

// ContainerDump is one container's part of a Dump.
type ContainerDump struct {
	Name string
	// MemoryBytes is the size of the processes' memory, and FreshBytes of those
	// pages that were read for this checkpoint.
	MemoryBytes, FreshBytes int64
}

// Files of a staged generation, below its folder. Those of a container lie in
// a folder with the container's name.
const (
	// ImagesDir has a container's CRIU images.
	ImagesDir = "images"
	// RootfsFile has a container's file changes; it is absent when there are none.
	RootfsFile = "rootfs.tar"
	// ContainerFile describes a container: a ContainerInfo in JSON.
	ContainerFile = "container.json"
	// VolumesDir has one tar file for each emptyDir volume, named after it.
	VolumesDir = "volumes"
	// ShmFile has the content of the pod's /dev/shm.
	ShmFile = "shm.tar"
)

// ContainerInfo is what must be known of a container to restore it.
type ContainerInfo struct {
	Name string `json:"name"`
	// Image is the image's name as the pod gave it.
	Image string `json:"image"`
	// Mounts are the destinations of the container's mounts. A container that
	// it is restored into must have a mount at each of them.
	Mounts []string `json:"mounts"`
	// PidNamespaceShared is whether the container shared its processes' numbers
	// with others.
	PidNamespaceShared bool   `json:"pidNamespaceShared"`
	Hostname           string `json:"hostname"`
	// Tmpfs are the file systems in memory that the container has to itself.
	Tmpfs []TmpfsMount `json:"tmpfs,omitempty"`
}
