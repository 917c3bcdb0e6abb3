package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Checkpoint summarises the checkpoints of one protected pod. It has the pod's
// name and namespace. The checkpointer on the pod's node is its only writer.
// It is a summary, patched at a bounded rate: which generation is newest and
// durable is asked of the holders when a pod is recovered.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=cp
// +kubebuilder:printcolumn:name="PROTECTED",type=string,JSONPath=`.status.conditions[?(@.type=="Protected")].status`
// +kubebuilder:printcolumn:name="REASON",type=string,JSONPath=`.status.conditions[?(@.type=="Protected")].reason`
// +kubebuilder:printcolumn:name="CHECKPOINTABLE",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Checkpointable")].status`
// +kubebuilder:printcolumn:name="GEN",type=integer,JSONPath=`.status.generation`
// +kubebuilder:printcolumn:name="PAUSE",type=string,JSONPath=`.status.pause`
// +kubebuilder:printcolumn:name="SIZE",type=string,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.status.takenAt`
type Checkpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CheckpointSpec   `json:"spec"`
	Status CheckpointStatus `json:"status,omitempty"`
}

// CheckpointSpec names the pod whose checkpoints are summarised.
type CheckpointSpec struct {
	// PodUID is the UID of the protected pod.
	PodUID types.UID `json:"podUID"`
	// NodeName is the node that the pod runs on.
	NodeName string `json:"nodeName"`
}

// AnnotationCheckpointRequested of a Checkpoint asks the checkpointer on the pod's node
// for a generation that was begun after this moment, as time.RFC3339Nano, without
// waiting for the pod's interval. The watcher writes it when the node may go soon.
const AnnotationCheckpointRequested = "lifeboat.dev/checkpoint-requested"

// NextRequest is the value of AnnotationCheckpointRequested with which a generation is
// asked for now: after every request before, whose asker's clock may have been ahead.
func (c *Checkpoint) NextRequest(now time.Time) time.Time {
	at := now.UTC().Truncate(time.Microsecond)
	before, err := time.Parse(time.RFC3339Nano, c.Annotations[AnnotationCheckpointRequested])
	if err == nil && !at.After(before) {
		return before.UTC().Truncate(time.Microsecond).Add(time.Microsecond)
	}
	return at
}

// CheckpointStatus is the newest durable generation and the pod's protection.
type CheckpointStatus struct {
	// Generation is the newest durable generation; 0 means that there is none yet.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Epoch is the epoch that the pod runs in.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// TakenAt is when the pod was paused for Generation.
	// +optional
	TakenAt *metav1.MicroTime `json:"takenAt,omitempty"`
	// DurableAt is when the last required holder had acknowledged Generation.
	// +optional
	DurableAt *metav1.MicroTime `json:"durableAt,omitempty"`
	// PauseSeconds is how long the pod's processes were stopped for Generation.
	// +optional
	PauseSeconds float64 `json:"pauseSeconds,omitempty"`
	// Pause is PauseSeconds for people, as "27ms".
	// +optional
	Pause string `json:"pause,omitempty"`
	// Bytes is the size of the pod's captured state: process images and file changes.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// NewBytes is what Generation added to the store, after deduplication and compression.
	// +optional
	NewBytes int64 `json:"newBytes,omitempty"`
	// Size is Bytes for people, as "12Mi".
	// +optional
	Size string `json:"size,omitempty"`
	// Holders are the nodes that have a durable copy of Generation.
	// +optional
	Holders []string `json:"holders,omitempty"`
	// Requested is the newest request for a generation that was answered, see
	// AnnotationCheckpointRequested: Generation was begun after it.
	// +optional
	Requested *metav1.MicroTime `json:"requested,omitempty"`
	// Conditions has one of type Protected: True when Generation would be
	// restored after a node loss, else False with a reason that says why not.
	// One of type Checkpointable is False when something in the pod is known to
	// make a checkpoint impossible; Findings say what.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Findings are what was found in the pod's containers that makes a checkpoint
	// impossible or that changes with one, the former first. There are at most
	// MaxFindings; the Checkpointable condition says when there were more.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Findings []Finding `json:"findings,omitempty"`
}

// MaxFindings is how many findings a Checkpoint names at most.
const MaxFindings = 16

// Severity says what a finding means for the pod's checkpoints.
//
// +kubebuilder:validation:Enum=Refuses;Warns
type Severity string

// The severities.
const (
	SeverityRefuses Severity = "Refuses" // the pod cannot be checkpointed as long as this is so
	SeverityWarns   Severity = "Warns"   // it can be, at a cost or with a change that its programs notice
)

// Finding is one thing in a pod that matters to its checkpoints.
type Finding struct {
	// Container is the container's name; empty for the whole pod.
	// +optional
	Container string `json:"container,omitempty"`
	// Severity is Refuses or Warns.
	Severity Severity `json:"severity"`
	// Reason is one word for what was found, as "IOUring".
	Reason string `json:"reason"`
	// Message says what was found, and in which process.
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message"`
	// Hint says what to do about it.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Hint string `json:"hint,omitempty"`
}

// Types of a Checkpoint's conditions.
const (
	ConditionProtected      = "Protected"
	ConditionCheckpointable = "Checkpointable"
)

// Reasons of the Checkpointable condition. Where it is False the reason is that
// of the first finding, when that is the only one that refuses.
const (
	ReasonNothingFound    = "NothingFound"    // True: nothing was found
	ReasonFindingsWarn    = "FindingsWarn"    // True: what was found does not prevent a checkpoint
	ReasonFindingsRefuse  = "FindingsRefuse"  // False: several things prevent a checkpoint
	ReasonPartlyInspected = "PartlyInspected" // Unknown: nothing prevents a checkpoint, but not everything could be looked at
)

// Reasons of the Protected condition.
const (
	ReasonProtected          = "Protected"          // True: a durable generation exists
	ReasonFirstCheckpoint    = "FirstCheckpoint"    // False: no generation is durable yet
	ReasonNotRunning         = "NotRunning"         // False: not every container of the pod runs
	ReasonInvalidAnnotation  = "InvalidAnnotation"  // False: an annotation's value is not allowed
	ReasonNotAdmitted        = "NotAdmitted"        // False: the pod lacks Lifeboat's runtime class
	ReasonNotCheckpointable  = "NotCheckpointable"  // False: CRIU cannot dump the pod
	ReasonWritableVolume     = "WritableVolume"     // False: a writable persistent volume; see the volumes annotation
	ReasonTooFewHolders      = "TooFewHolders"      // False: fewer nodes hold a copy than the replicas annotation asks for
	ReasonNoRoom             = "NoRoom"             // False: the node's store, or its disk, has no room for another generation
	ReasonCheckpointFailed   = "CheckpointFailed"   // False: the last checkpoints failed
	ReasonCheckpointOutdated = "CheckpointOutdated" // False: the newest durable generation is older than three intervals
)

// CheckpointList is a list of Checkpoints.
//
// +kubebuilder:object:root=true
type CheckpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Checkpoint `json:"items"`
}
