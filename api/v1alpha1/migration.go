package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Migration records one move of one pod: a failover after the loss of its
// node, or a planned move; or that a new pod starts from the checkpoint of one that
// runs on, see StrategyClone. Its spec never changes. Its status has four parts
// with one writer each: the plugin writes claim, the checkpointer on the source
// node writes source, the one on the target node writes restore, the watcher
// writes the rest.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=mig
// +kubebuilder:printcolumn:name="POD",type=string,JSONPath=`.spec.pod.name`
// +kubebuilder:printcolumn:name="FROM",type=string,JSONPath=`.spec.sourceNode`
// +kubebuilder:printcolumn:name="TO",type=string,JSONPath=`.status.claim.nodeName`
// +kubebuilder:printcolumn:name="PHASE",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="HELD",type=string,JSONPath=`.status.held.reason`
// +kubebuilder:printcolumn:name="RESULT",type=string,JSONPath=`.status.result`
// +kubebuilder:printcolumn:name="RTO",type=string,JSONPath=`.status.rto`
// +kubebuilder:printcolumn:name="RPO",type=string,JSONPath=`.status.rpo`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type Migration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   MigrationSpec   `json:"spec"`
	Status MigrationStatus `json:"status,omitempty"`
}

// MigrationSpec says which pod moves, from where, and why.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a Migration's spec is a record and cannot be changed; create a new Migration instead"
// +kubebuilder:validation:XValidation:rule="(self.strategy == 'Clone') == has(self.clone)",message="the strategy Clone needs spec.clone, which says what is cloned, and no other strategy may have it"
type MigrationSpec struct {
	// Pod is the pod that moves.
	Pod PodIdentity `json:"pod"`
	// SourceNode is the node that the pod ran on.
	SourceNode string `json:"sourceNode"`
	// Strategy is how the pod moves.
	Strategy Strategy `json:"strategy"`
	// Reason is why the pod moves.
	Reason MigrationReason `json:"reason"`
	// Epoch is the epoch that the pod runs in after the move. What carries a
	// lower epoch may not run.
	// +kubebuilder:validation:Minimum=1
	Epoch int64 `json:"epoch"`
	// FenceEpoch is the epoch that the source node's Fence has from this loss on.
	// While it has a lower one the node is not fenced yet, and nothing is restored.
	// +optional
	FenceEpoch int64 `json:"fenceEpoch,omitempty"`
	// LostAt is the last moment at which the source node was known to be alive; of a
	// planned move it is when the move was asked for, by the clock of whoever asked. RTO and
	// RPO count from it; of a planned move only where the API server's clock agrees.
	LostAt metav1.MicroTime `json:"lostAt"`
	// TargetNode is where a planned move is to go. Empty leaves it to the scheduler.
	// +optional
	TargetNode string `json:"targetNode,omitempty"`
	// DeadlineSeconds is how long after its creation a planned move may take until the
	// pod is stopped. One that takes longer is given up, and the pod runs on where it is.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +optional
	DeadlineSeconds int32 `json:"deadlineSeconds,omitempty"`
	// Clone is what a new pod is started from, of the strategy Clone. Of that one pod is
	// the new pod, and deadlineSeconds counts until it is Ready.
	// +optional
	Clone *CloneSource `json:"clone,omitempty"`
}

// PodIdentity names one pod, and the owner whose next pod takes its place.
type PodIdentity struct {
	// Name of the pod. Its namespace is the Migration's.
	Name string `json:"name"`
	// UID of the pod; empty for one that is only to be made.
	UID types.UID `json:"uid"`
	// OwnerKind is the kind of the pod's controller, empty for a bare pod.
	// +optional
	OwnerKind string `json:"ownerKind,omitempty"`
	// OwnerName is the name of the pod's controller.
	// +optional
	OwnerName string `json:"ownerName,omitempty"`
	// OwnerUID is the UID of the pod's controller.
	// +optional
	OwnerUID types.UID `json:"ownerUID,omitempty"`
}

// Strategy is how a pod moves.
//
// +kubebuilder:validation:Enum=Failover;Cold;Warm;Live;Application;Replace;Clone
type Strategy string

// The strategies. All but Failover are planned moves, see planned.go. Clone is planned, but
// moves nothing, see clone.go.
const (
	StrategyFailover    Strategy = "Failover"    // the source is gone: the newest durable generation is restored
	StrategyCold        Strategy = "Cold"        // stop, checkpoint everything, copy, restore
	StrategyWarm        Strategy = "Warm"        // stop, checkpoint what is new, copy, restore
	StrategyLive        Strategy = "Live"        // copy while it runs, stop, checkpoint what is new, restore with pages on demand
	StrategyApplication Strategy = "Application" // a new pod starts, and takes the state over by the pod's own endpoints
	StrategyReplace     Strategy = "Replace"     // no state: a new pod starts elsewhere first, then the old one ends
)

// MigrationReason is why a pod moves.
//
// +kubebuilder:validation:Enum=NodeLost;NodeRebooted;NodeOutOfService;NodeShutdown;SpotInterruption;NodeDrained;NodePressure;Requested;Rebalance
type MigrationReason string

// The reasons of a Migration. Of several that apply to a lost node the first in
// this order is given, and NodeLost where none does.
const (
	MigrationNodeOutOfService MigrationReason = "NodeOutOfService" // somebody tainted the node out-of-service
	MigrationNodeRebooted     MigrationReason = "NodeRebooted"     // the node came back with another boot
	MigrationSpotInterruption MigrationReason = "SpotInterruption" // a taint said that the node is taken away
	MigrationNodeShutdown     MigrationReason = "NodeShutdown"     // the node said that it shuts down
	MigrationNodeDrained      MigrationReason = "NodeDrained"      // the node was cordoned or tainted for a drain
	MigrationNodePressure     MigrationReason = "NodePressure"     // the node was short of memory, disk, processes or time
	MigrationNodeLost         MigrationReason = "NodeLost"         // the node fell silent, and nothing else is known

	// Of a planned move alone; it may have any of SpotInterruption, NodeDrained and NodePressure, too.
	MigrationRequested MigrationReason = "Requested" // somebody asked for it
	MigrationRebalance MigrationReason = "Rebalance" // somebody asked for the pods to be spread anew
)

// Phase is the last step that a Migration has completed. A failover's steps come in
// this order, and none is skipped, but a pod that is already gone is Deleted at once.
// A planned move's are told in planned.go.
//
// +kubebuilder:validation:Enum=Detected;Fenced;Accepted;Prepared;Parked;Stopping;Stopped;Deleted;Created;Scheduled;Restoring;Ready
type Phase string

// The phases of a Migration.
const (
	PhaseDetected  Phase = "Detected"  // the loss was noticed and declared
	PhaseFenced    Phase = "Fenced"    // the old copy cannot run any more
	PhaseDeleted   Phase = "Deleted"   // the old pod is gone from the API
	PhaseCreated   Phase = "Created"   // its successor exists
	PhaseScheduled Phase = "Scheduled" // its successor has claimed the Migration and has a node
	PhaseRestoring Phase = "Restoring" // the runtime on that node asked for the checkpoint
	PhaseReady     Phase = "Ready"     // the successor is Ready
)

// Result is what became of a Migration. It is empty while the Migration is open.
//
// +kubebuilder:validation:Enum=Restored;ColdStarted;Failed;Withdrawn;Imported;Replaced
type Result string

// The results of a Migration.
const (
	ResultRestored    Result = "Restored"    // every container of the pod came back from the checkpoint
	ResultColdStarted Result = "ColdStarted" // the pod runs, but at least one container started anew
	ResultFailed      Result = "Failed"      // no successor became Ready
	ResultWithdrawn   Result = "Withdrawn"   // nothing came of it: the pod runs on where it was
	ResultImported    Result = "Imported"    // the successor has taken the state over by the pod's own endpoints
	ResultReplaced    Result = "Replaced"    // a pod without state to keep was replaced by a new one
)

// Reasons of a result other than Restored, in MigrationStatus.Reason.
const (
	ReasonNoCheckpoint      = "NoCheckpoint"      // no generation of the pod is held anywhere
	ReasonCheckpointDamaged = "CheckpointDamaged" // every held generation failed verification
	ReasonRestoreFailed     = "RestoreFailed"     // CRIU or runc could not restore
	ReasonNoCompatibleNode  = "NoCompatibleNode"  // no node can run the restore
	ReasonNotAsked          = "NotAsked"          // the successor started without asking for its checkpoint
	ReasonWritableVolumes   = "WritableVolume"    // memory must not meet a newer disk
	ReasonSpecChanged       = "SpecChanged"       // the successor's containers differ from the checkpointed ones
	ReasonNotReady          = "NotReady"          // the successor did not become Ready in time
	ReasonNodeRebooted      = "NodeRebooted"      // its node booted anew before anything could be done, and it started anew there
	ReasonPodReplaced       = "PodReplaced"       // the successor was deleted before it was Ready, and nothing takes over from it
	ReasonOwnerDeleted      = "OwnerDeleted"      // the owner was deleted before it made a successor
)

// MigrationStatus is how far a Migration has come.
type MigrationStatus struct {
	// Phase is the last completed step.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Phases has the moment of each completed step.
	// +optional
	// +listType=map
	// +listMapKey=phase
	Phases []PhaseTime `json:"phases,omitempty"`
	// Held says why nothing is done at present, although the pod's node looks lost, or
	// although a planned move was asked for.
	// +optional
	Held *Held `json:"held,omitempty"`
	// Checkpoint is the newest durable generation that the holders reported.
	// +optional
	Checkpoint *HeldCheckpoint `json:"checkpoint,omitempty"`
	// Claim is the successor pod. The plugin writes it before the pod is bound.
	// +optional
	Claim *Claim `json:"claim,omitempty"`
	// Source is what the checkpointer on the source node did for a planned move.
	// +optional
	Source *SourceStatus `json:"source,omitempty"`
	// Restore is what the checkpointer on the target node did.
	// +optional
	Restore *RestoreStatus `json:"restore,omitempty"`
	// Result is set once, when the Migration is closed.
	// +optional
	Result Result `json:"result,omitempty"`
	// Reason says in one word why the result is not Restored.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message says the same in a sentence; it also names a generation that was
	// passed over as damaged.
	// +optional
	Message string `json:"message,omitempty"`
	// RTOSeconds is the time from LostAt to Ready; of a planned move it is the total time.
	// +optional
	RTOSeconds float64 `json:"rtoSeconds,omitempty"`
	// RPOSeconds is the age, at LostAt, of the state that came back. It is
	// unset when none did.
	// +optional
	RPOSeconds float64 `json:"rpoSeconds,omitempty"`
	// RTO is RTOSeconds for people.
	// +optional
	RTO string `json:"rto,omitempty"`
	// RPO is RPOSeconds for people.
	// +optional
	RPO string `json:"rpo,omitempty"`
	// DowntimeSeconds is how long a planned move kept the pod from answering: from the
	// moment at which the source paused it to Ready. It is unset where nothing moved.
	// +optional
	DowntimeSeconds float64 `json:"downtimeSeconds,omitempty"`
	// Downtime is DowntimeSeconds for people.
	// +optional
	Downtime string `json:"downtime,omitempty"`
	// Conditions has one of type DisruptionTarget, written before the old pod is deleted,
	// and of a planned move perhaps one of type HoldingConnections, see planned.go.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// HeldReason is why a node that looks lost is not acted upon, or a planned move has to wait.
//
// +kubebuilder:validation:Enum=StormGuard;APIUnreachable;Paused;RateLimited;CoolDown;TooFewPeers;FencerSilent;MoveLimit;SameOwner;DisruptionBudget
type HeldReason string

// The reasons for which a recovery is held.
const (
	HeldStormGuard     HeldReason = "StormGuard"     // too many nodes look lost at once
	HeldAPIUnreachable HeldReason = "APIUnreachable" // half of the node's peers cannot read the API
	HeldPaused         HeldReason = "Paused"         // an operator has paused recoveries
	HeldRateLimited    HeldReason = "RateLimited"    // too many nodes were fenced lately
	HeldCoolDown       HeldReason = "CoolDown"       // the node has just refuted a declaration
	HeldTooFewPeers    HeldReason = "TooFewPeers"    // too few of the node's peers answer to be sure that it stopped
	HeldFencerSilent   HeldReason = "FencerSilent"   // the node lives, but nothing on it stops its pods

	// Of a planned move.
	HeldMoveLimit HeldReason = "MoveLimit"        // as many pods move as may at a time
	HeldSameOwner HeldReason = "SameOwner"        // another pod of the same owner is being moved
	HeldBudget    HeldReason = "DisruptionBudget" // a PodDisruptionBudget does not allow it just now
)

// Held says why a recovery, or a planned move, waits.
type Held struct {
	Reason HeldReason `json:"reason"`
	// Message says the same in a sentence, and what to do.
	Message string `json:"message"`
	// Since is when the reason began to apply.
	Since metav1.MicroTime `json:"since"`
}

// AnnotationLostPod is the UID of the pod that was lost, on a Migration that
// restores the checkpoint of that pod's predecessor: the pod had made none of its own.
const AnnotationLostPod = "lifeboat.dev/lost-pod-uid"

// LostPod is the UID of the pod that the Migration moves.
func (m *Migration) LostPod() types.UID {
	if uid := m.Annotations[AnnotationLostPod]; uid != "" {
		return types.UID(uid)
	}
	return m.Spec.Pod.UID
}

// BeganAt is the moment from which a Migration's times count: of a failover the last sign
// of life of the node, of a planned move when it was asked for. That is LostAt, by the
// clock of whoever asked, where it lies within the second in which the API server created
// the Migration; else it is that second, as the clocks differ.
func (m *Migration) BeganAt() time.Time {
	created := m.CreationTimestamp.Time
	if m.Planned() && !created.IsZero() && !m.Spec.LostAt.Truncate(time.Second).Equal(created) {
		return created
	}
	return m.Spec.LostAt.Time
}

// Open says whether the Migration has no result yet.
func (m *Migration) Open() bool { return m.Status.Result == "" }

// PhaseAt is the moment at which the Migration completed a step, and whether it has.
func (m *Migration) PhaseAt(phase Phase) (at time.Time, reached bool) {
	for _, p := range m.Status.Phases {
		if p.Phase == phase {
			return p.At.Time, true
		}
	}
	return time.Time{}, false
}

// Reached says whether the Migration has completed a step.
func (m *Migration) Reached(phase Phase) bool {
	_, reached := m.PhaseAt(phase)
	return reached
}

// ClaimedBy says whether a pod is the one that has claimed the Migration.
func (m *Migration) ClaimedBy(pod types.UID) bool {
	return m.Status.Claim != nil && m.Status.Claim.PodUID == pod
}

// RestoreCommitted says whether the claim's pod has, or may have, processes that were
// restored, or started in place of that; or whether its application has, or never will
// have, the state that was staged. Until then nothing of the state runs anywhere.
func (m *Migration) RestoreCommitted() bool {
	claim, restore := m.Status.Claim, m.Status.Restore
	return claim != nil && restore != nil && restore.PodUID == claim.PodUID && (restore.CommittedAt != nil || len(restore.Containers) > 0)
}

// PhaseTime is the moment at which a step was completed.
type PhaseTime struct {
	Phase Phase            `json:"phase"`
	At    metav1.MicroTime `json:"at"`
}

// HeldCheckpoint is a generation and where it can be read.
type HeldCheckpoint struct {
	// Generation is the number of the generation.
	Generation int64 `json:"generation"`
	// TakenAt is when the pod was paused for it.
	TakenAt metav1.MicroTime `json:"takenAt"`
	// Bytes is the size of the captured state.
	Bytes int64 `json:"bytes"`
	// Holders are the live nodes that reported a durable copy.
	Holders []string `json:"holders"`
}

// Claim is the pod that takes the moved pod's place. A Migration is claimed once, unless
// that pod goes before it has anything of the state: then by the next one.
type Claim struct {
	PodName  string           `json:"podName"`
	PodUID   types.UID        `json:"podUID"`
	NodeName string           `json:"nodeName"`
	At       metav1.MicroTime `json:"at"`
}

// RestoreStatus is what the checkpointer on the target node did.
type RestoreStatus struct {
	// PodUID is the pod that was restored: the claim's.
	PodUID types.UID `json:"podUID"`
	// ParkedAt is when the first container of a parked pod began to wait in the
	// runtime's create, with sandbox, network and mounts ready.
	// +optional
	ParkedAt *metav1.MicroTime `json:"parkedAt,omitempty"`
	// Holding is where connections wait for a pod that is parked, or was.
	// +optional
	Holding *Holding `json:"holding,omitempty"`
	// Connections is what became of established connections that were to be kept.
	// +optional
	Connections *KeptConnections `json:"connections,omitempty"`
	// Hooks are those that were called in the restored pod.
	// +optional
	Hooks []HookResult `json:"hooks,omitempty"`
	// StartedAt is when the runtime first asked for the checkpoint.
	StartedAt metav1.MicroTime `json:"startedAt"`
	// CommittedAt is when the restore became the pod's for good: written before the first
	// of its processes is brought to life, and only while the claim is the pod's. Until
	// then the claim can be taken from a pod that is deleted, and given to the next one.
	// Of a state that is staged it is written once the application has it, and the pod's first
	// generation too, or never will.
	// +optional
	CommittedAt *metav1.MicroTime `json:"committedAt,omitempty"`
	// Generation is the generation that was used; 0 means none.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// TakenAt is when the pod was paused for Generation.
	// +optional
	TakenAt *metav1.MicroTime `json:"takenAt,omitempty"`
	// Attempts is how often the pod's containers were restored: more than once
	// where a generation turned out to be damaged after they ran already. 0 is 1. Of a
	// state that is staged it is how often the import has failed.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// Skipped are newer generations that were passed over, each with the reason.
	// +optional
	Skipped []SkippedGeneration `json:"skipped,omitempty"`
	// Containers has the outcome for each container that asked.
	// +optional
	// +listType=map
	// +listMapKey=name
	Containers []ContainerRestore `json:"containers,omitempty"`
}

// SkippedGeneration is a generation that could not be used.
type SkippedGeneration struct {
	Generation int64  `json:"generation"`
	Reason     string `json:"reason"`
}

// ContainerRestore is the outcome of one container's restore.
type ContainerRestore struct {
	Name string `json:"name"`
	// Result is ColdStarted when the container was started anew, or did not take over the
	// state that was staged, and Failed when it was not started at all: a clone's.
	// +kubebuilder:validation:Enum=Restored;ColdStarted;Failed
	Result Result `json:"result"`
	// Reason says in one word why the container was not restored.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message says the same in a sentence.
	// +optional
	Message string `json:"message,omitempty"`
	// Lazy says that memory is filled on demand.
	// +optional
	Lazy bool `json:"lazy,omitempty"`
	// Filling says that some of it is still to be filled in: until all is, the
	// restore may yet turn out to be none.
	// +optional
	Filling bool `json:"filling,omitempty"`
	// Seconds is the time from the runtime's create to the end of the restore.
	// +optional
	Seconds float64 `json:"seconds,omitempty"`
}

// MigrationList is a list of Migrations.
//
// +kubebuilder:object:root=true
type MigrationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Migration `json:"items"`
}
