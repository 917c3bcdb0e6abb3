package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Fence is one node's permission to run protected pods, and what the node can
// restore. It has the node's name. Every change of state is a compare-and-swap
// on the object's resourceVersion: whichever write wins decides.
//
//	Running ──watcher: the node looks lost──► Lost ──watcher: the wait is over──► Fenced
//	   ▲                                       │                                    │
//	   └──── the node itself: "I am alive" ────┴── the node itself: old copies killed ┘
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="STATE",type=string,JSONPath=`.spec.state`
// +kubebuilder:printcolumn:name="EPOCH",type=integer,JSONPath=`.spec.epoch`
// +kubebuilder:printcolumn:name="PROOF",type=string,priority=1,JSONPath=`.spec.proof`
// +kubebuilder:printcolumn:name="CRIU",type=string,JSONPath=`.status.facts.criuVersion`
// +kubebuilder:printcolumn:name="KERNEL",type=string,JSONPath=`.status.facts.kernelVersion`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type Fence struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   FenceSpec   `json:"spec"`
	Status FenceStatus `json:"status,omitempty"`
}

// FenceSpec is the fence record.
type FenceSpec struct {
	// State is whether the node may run protected pods.
	State FenceState `json:"state"`
	// Epoch grows by one each time the node is fenced. Copies that started
	// under a lower epoch may not run.
	Epoch int64 `json:"epoch"`
	// BootID is the boot of the node that last wrote Running.
	// +optional
	BootID string `json:"bootID,omitempty"`
	// Reason is why the node was declared lost.
	// +optional
	Reason string `json:"reason,omitempty"`
	// LostAt is the last moment at which the node was known to be alive, as of
	// its declaration as lost.
	// +optional
	LostAt *metav1.MicroTime `json:"lostAt,omitempty"`
	// ChangedAt is when State was last written.
	// +optional
	ChangedAt *metav1.MicroTime `json:"changedAt,omitempty"`
	// Proof is what makes it sure that the node's copies run no more. It is set
	// with Fenced, and only then.
	// +optional
	Proof FenceProof `json:"proof,omitempty"`
	// Peers are the nodes that this node asks when it cannot read this record: if
	// at least half of them cannot read theirs either, the API has failed and not
	// the node, and its pods go on running. The node itself chooses them, while the
	// record says Running. Before the node counts as fenced, more than half of them
	// have promised not to speak for it.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=31
	Peers []string `json:"peers,omitempty"`
}

// MaxPeers is how many peers a Fence names at most.
const MaxPeers = 31

// FenceProof is why a fenced node's protected pods cannot run.
//
// +kubebuilder:validation:Enum=Waited;Rebooted;OutOfService
type FenceProof string

// The proofs of a Fence.
const (
	ProofWaited       FenceProof = "Waited"       // its permission has run out: the wait is over
	ProofRebooted     FenceProof = "Rebooted"     // it reports another boot than the one that had the permission
	ProofOutOfService FenceProof = "OutOfService" // somebody tainted it out-of-service: it is powered off
)

// FenceState is whether a node may run protected pods.
//
// +kubebuilder:validation:Enum=Running;Lost;Fenced
type FenceState string

// The states of a Fence.
const (
	FenceRunning FenceState = "Running" // the node may run protected pods
	FenceLost    FenceState = "Lost"    // declared lost; the node may still refute it
	FenceFenced  FenceState = "Fenced"  // its permission has run out everywhere; its pods may run elsewhere
)

// FenceStatus is what the node can do. Its checkpointer is its only writer.
type FenceStatus struct {
	// +optional
	Facts NodeFacts `json:"facts,omitempty"`
	// Load is how busy the node is. It is written when it has changed much, at most
	// every ten seconds.
	// +optional
	Load *NodeLoad `json:"load,omitempty"`
	// Restores is what restores on the node have shown.
	// +optional
	Restores *RestoreHistory `json:"restores,omitempty"`
	// ShuttingDown is since when the node itself shuts down; unset while it does not.
	// +optional
	ShuttingDown *metav1.MicroTime `json:"shuttingDown,omitempty"`
}

// NodeLoad is how busy a node is. The pressures are the kernel's pressure stall
// information: the share of the last ten seconds, in per cent, in which at least
// one task waited for the resource.
type NodeLoad struct {
	// At is when this was measured.
	At metav1.Time `json:"at"`
	// +optional
	CPUPressure int32 `json:"cpuPressure,omitempty"`
	// +optional
	MemoryPressure int32 `json:"memoryPressure,omitempty"`
	// +optional
	IOPressure int32 `json:"ioPressure,omitempty"`
	// MemoryAvailableBytes is how much memory the node can give without swapping.
	// +optional
	MemoryAvailableBytes int64 `json:"memoryAvailableBytes,omitempty"`
}

// RestoreHistory is what restores on a node have shown.
type RestoreHistory struct {
	// LocalBytesPerSecond is how fast memory was filled in from the node's own
	// store; 0 where that is not known.
	// +optional
	LocalBytesPerSecond int64 `json:"localBytesPerSecond,omitempty"`
	// RemoteBytesPerSecond is how fast it was filled in from other nodes.
	// +optional
	RemoteBytesPerSecond int64 `json:"remoteBytesPerSecond,omitempty"`
	// Failures are the restores that failed on the node in the last hour, newest
	// first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Failures []RestoreFailure `json:"failures,omitempty"`
}

// MaxRestoreFailures is how many failures a RestoreHistory names at most.
const MaxRestoreFailures = 8

// RestoreFailure is one restore that failed.
type RestoreFailure struct {
	At metav1.Time `json:"at"`
	// Reason is a reason of a Migration's result, as "RestoreFailed".
	Reason string `json:"reason"`
}

// NodeFacts are the facts that decide where a checkpoint can be restored.
type NodeFacts struct {
	// Architecture in Go's words, as "amd64".
	Architecture string `json:"architecture,omitempty"`
	// KernelVersion is the kernel's release, as "6.12.1-amd64".
	KernelVersion string `json:"kernelVersion,omitempty"`
	// CRIUVersion as "4.2.1"; empty when CRIU does not work on the node.
	CRIUVersion string `json:"criuVersion,omitempty"`
	// RuncVersion as "1.1.15".
	RuncVersion string `json:"runcVersion,omitempty"`
	// CPUFeatures are the processor's flags that CRIU compares, sorted.
	// +optional
	CPUFeatures []string `json:"cpuFeatures,omitempty"`
	// PeerAddress is where the peer protocol of its checkpointer is served, as "10.0.0.7:7947".
	PeerAddress string `json:"peerAddress,omitempty"`
	// RuntimeHandlers are the handlers that the node's container runtime knows, as
	// "lifeboat"; empty where it does not tell.
	// +optional
	// +listType=set
	RuntimeHandlers []string `json:"runtimeHandlers,omitempty"`
	// Message says why CRIU does not work on the node, when it does not.
	// +optional
	Message string `json:"message,omitempty"`
}

// FenceList is a list of Fences.
//
// +kubebuilder:object:root=true
type FenceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Fence `json:"items"`
}
