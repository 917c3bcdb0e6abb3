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
}

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
