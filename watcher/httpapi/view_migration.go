package httpapi

import (
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Migration is the record of one move of one pod.
type Migration struct {
	Namespace       string          `json:"namespace"`
	Name            string          `json:"name"`
	UID             string          `json:"uid"`
	ResourceVersion string          `json:"resourceVersion"`
	CreatedAt       time.Time       `json:"createdAt"`
	RequestedBy     string          `json:"requestedBy,omitempty" doc:"The user who asked for it here; missing where it was asked for otherwise"`
	CancelRequested string          `json:"cancelRequested,omitempty" doc:"Why it is to be given up, where somebody has asked for that"`
	Spec            MigrationSpec   `json:"spec"`
	Status          MigrationStatus `json:"status"`
}

// MigrationSpec is what was asked for. It never changes.
type MigrationSpec struct {
	Pod             PodIdentity `json:"pod"`
	SourceNode      string      `json:"sourceNode"`
	TargetNode      string      `json:"targetNode,omitempty" doc:"Where it is to go; missing where the scheduler chooses"`
	Strategy        string      `json:"strategy" doc:"Failover, Cold, Warm, Live, Application, Replace or Clone"`
	Reason          string      `json:"reason" doc:"Why the pod moves, as Requested or NodeLost"`
	Epoch           int64       `json:"epoch" doc:"The epoch that the pod runs in after the move"`
	LostAt          time.Time   `json:"lostAt" doc:"When the source was last known to be alive; of a planned move when it was asked for"`
	DeadlineSeconds int32       `json:"deadlineSeconds,omitempty" doc:"How long it may take until the pod is stopped; of a clone until it is Ready"`
	Clone           *CloneOf    `json:"clone,omitempty" doc:"What a new pod is started from, of the strategy Clone. Nothing moves then: pod is the new one"`
}

// CloneOf is what a new pod is started from.
type CloneOf struct {
	Pod        PodIdentity       `json:"pod" doc:"The pod whose checkpoint is restored. It runs on"`
	Generation int64             `json:"generation,omitempty" doc:"The generation that was asked for; missing where it is the newest"`
	Labels     map[string]string `json:"labels,omitempty" doc:"The new pod's labels"`
}

// PodIdentity names one pod, and its owner.
type PodIdentity struct {
	Name      string `json:"name"`
	UID       string `json:"uid" doc:"Empty for a pod that is only to be made"`
	OwnerKind string `json:"ownerKind,omitempty"`
	OwnerName string `json:"ownerName,omitempty"`
}

// MigrationStatus is how far it has come.
type MigrationStatus struct {
	Phase           string          `json:"phase,omitempty" doc:"The last step that was completed"`
	Phases          []PhaseTime     `json:"phases,omitempty" doc:"When each step was completed, in order"`
	Held            *Held           `json:"held,omitempty" doc:"Why nothing is done at present"`
	Checkpoint      *HeldCheckpoint `json:"checkpoint,omitempty" doc:"The generation that is restored"`
	Claim           *Claim          `json:"claim,omitempty" doc:"The pod that takes the moved one's place"`
	Source          *Source         `json:"source,omitempty" doc:"What the source node did for a planned move"`
	Restore         *Restore        `json:"restore,omitempty" doc:"What the target node did"`
	Result          string          `json:"result,omitempty" doc:"What became of it: Restored, ColdStarted, Imported, Replaced, Withdrawn or Failed. It is missing while the Migration is open"`
	Reason          string          `json:"reason,omitempty" doc:"In one word, why the result is none of Restored, Imported and Replaced"`
	Message         string          `json:"message,omitempty" doc:"The same in a sentence"`
	RTOSeconds      float64         `json:"rtoSeconds,omitempty" doc:"From lostAt to Ready; of a planned move and of a clone the total time"`
	RPOSeconds      float64         `json:"rpoSeconds,omitempty" doc:"Age, at lostAt, of the state that came back"`
	DowntimeSeconds float64         `json:"downtimeSeconds,omitempty" doc:"Of a planned move: from the last pause to Ready"`
}

// PhaseTime is when a step was completed.
type PhaseTime struct {
	Phase string    `json:"phase"`
	At    time.Time `json:"at"`
}

// Held is why a Migration waits.
type Held struct {
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// HeldCheckpoint is a generation, and where it can be read.
type HeldCheckpoint struct {
	Generation int64     `json:"generation"`
	TakenAt    time.Time `json:"takenAt"`
	Bytes      int64     `json:"bytes"`
	Holders    []string  `json:"holders,omitempty"`
}

// Claim is the pod that takes a moved pod's place.
type Claim struct {
	PodName  string    `json:"podName"`
	PodUID   string    `json:"podUID"`
	NodeName string    `json:"nodeName"`
	At       time.Time `json:"at"`
}

// Source is what the checkpointer on a planned move's source node did.
type Source struct {
	PreparedAt         *time.Time      `json:"preparedAt,omitempty" doc:"When preparedGeneration was durable"`
	PreparedGeneration int64           `json:"preparedGeneration,omitempty"`
	PausedAt           *time.Time      `json:"pausedAt,omitempty" doc:"When the pod's processes were frozen for the last time"`
	StoppedAt          *time.Time      `json:"stoppedAt,omitempty" doc:"When the last of its processes had ended"`
	Checkpoint         *HeldCheckpoint `json:"checkpoint,omitempty" doc:"The last generation"`
	BytesSent          int64           `json:"bytesSent,omitempty" doc:"What was copied to other nodes for the move"`
	Error              string          `json:"error,omitempty" doc:"Why the pod could not be stopped. It runs on there"`
	Hooks              []HookResult    `json:"hooks,omitempty"`
}

// Restore is what the checkpointer on the target node did.
type Restore struct {
	ParkedAt   *time.Time         `json:"parkedAt,omitempty" doc:"When the pod began to wait, with sandbox, network and mounts ready"`
	StartedAt  *time.Time         `json:"startedAt,omitempty" doc:"When the runtime first asked for the checkpoint"`
	Generation int64              `json:"generation,omitempty" doc:"The generation that was used; missing where there was none"`
	Attempts   int32              `json:"attempts,omitempty" doc:"How often the containers were restored, where that is more than once"`
	Containers []ContainerRestore `json:"containers,omitempty"`
	Hooks      []HookResult       `json:"hooks,omitempty"`
}

// ContainerRestore is what came of one container.
type ContainerRestore struct {
	Name    string  `json:"name"`
	Result  string  `json:"result" doc:"Restored, or ColdStarted where it was started anew"`
	Reason  string  `json:"reason,omitempty"`
	Message string  `json:"message,omitempty"`
	Filling bool    `json:"filling,omitempty" doc:"Some of its memory is still to be filled in"`
	Seconds float64 `json:"seconds,omitempty"`
}

// HookResult is what came of calling one hook.
type HookResult struct {
	Name      string  `json:"name"`
	Container string  `json:"container"`
	Succeeded bool    `json:"succeeded"`
	Output    string  `json:"output,omitempty" doc:"The end of what it said"`
	Seconds   float64 `json:"seconds"`
}

func viewMigration(m *v1alpha1.Migration) Migration {
	return Migration{
		Namespace: m.Namespace, Name: m.Name, UID: string(m.UID), ResourceVersion: m.ResourceVersion, CreatedAt: m.CreationTimestamp.UTC(),
		RequestedBy: m.Annotations[annotationRequestedBy], CancelRequested: m.Annotations[v1alpha1.AnnotationCancel],
		Spec: MigrationSpec{
			Pod:        PodIdentity{Name: m.Spec.Pod.Name, UID: string(m.LostPod()), OwnerKind: m.Spec.Pod.OwnerKind, OwnerName: m.Spec.Pod.OwnerName},
			SourceNode: m.Spec.SourceNode, TargetNode: m.Spec.TargetNode, Strategy: string(m.Spec.Strategy), Reason: string(m.Spec.Reason),
			Epoch: m.Spec.Epoch, LostAt: m.Spec.LostAt.UTC(), DeadlineSeconds: m.Spec.DeadlineSeconds, Clone: viewClone(m.Spec.Clone),
		},
		Status: viewStatus(&m.Status),
	}
}

func viewClone(c *v1alpha1.CloneSource) *CloneOf {
	if c == nil {
		return nil
	}
	pod := PodIdentity{Name: c.Pod.Name, UID: string(c.Pod.UID), OwnerKind: c.Pod.OwnerKind, OwnerName: c.Pod.OwnerName}
	return &CloneOf{Pod: pod, Generation: c.Generation, Labels: c.Labels}
}

func viewStatus(s *v1alpha1.MigrationStatus) MigrationStatus {
	view := MigrationStatus{
		Phase: string(s.Phase), Checkpoint: viewHeldCheckpoint(s.Checkpoint), Source: viewSource(s.Source), Restore: viewRestore(s.Restore),
		Result: string(s.Result), Reason: s.Reason, Message: s.Message,
		RTOSeconds: s.RTOSeconds, RPOSeconds: s.RPOSeconds, DowntimeSeconds: s.DowntimeSeconds,
	}
	for _, p := range s.Phases {
		view.Phases = append(view.Phases, PhaseTime{Phase: string(p.Phase), At: p.At.UTC()})
	}
	if h := s.Held; h != nil {
		view.Held = &Held{Reason: string(h.Reason), Message: h.Message, Since: h.Since.UTC()}
	}
	if c := s.Claim; c != nil {
		view.Claim = &Claim{PodName: c.PodName, PodUID: string(c.PodUID), NodeName: c.NodeName, At: c.At.UTC()}
	}
	return view
}

func viewHeldCheckpoint(c *v1alpha1.HeldCheckpoint) *HeldCheckpoint {
	if c == nil {
		return nil
	}
	return &HeldCheckpoint{Generation: c.Generation, TakenAt: c.TakenAt.UTC(), Bytes: c.Bytes, Holders: c.Holders}
}

func viewSource(s *v1alpha1.SourceStatus) *Source {
	if s == nil {
		return nil
	}
	return &Source{
		PreparedAt: moment(s.PreparedAt), PreparedGeneration: s.PreparedGeneration, PausedAt: moment(s.PausedAt), StoppedAt: moment(s.StoppedAt),
		Checkpoint: viewHeldCheckpoint(s.Checkpoint), BytesSent: s.BytesSent, Error: s.Error, Hooks: viewHooks(s.Hooks),
	}
}

func viewRestore(r *v1alpha1.RestoreStatus) *Restore {
	if r == nil {
		return nil
	}
	view := &Restore{ParkedAt: moment(r.ParkedAt), StartedAt: moment(&r.StartedAt), Generation: r.Generation, Attempts: r.Attempts, Hooks: viewHooks(r.Hooks)}
	for _, c := range r.Containers {
		view.Containers = append(view.Containers, ContainerRestore{
			Name: c.Name, Result: string(c.Result), Reason: c.Reason, Message: c.Message, Filling: c.Filling, Seconds: c.Seconds,
		})
	}
	return view
}

func viewHooks(hooks []v1alpha1.HookResult) []HookResult {
	var view []HookResult
	for _, h := range hooks {
		view = append(view, HookResult{Name: h.Name, Container: h.Container, Succeeded: h.Succeeded, Output: h.Output, Seconds: h.Seconds})
	}
	return view
}
