package httpapi

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Pod is a protected pod, and how well it is protected.
type Pod struct {
	Namespace          string      `json:"namespace"`
	Name               string      `json:"name"`
	UID                string      `json:"uid"`
	NodeName           string      `json:"nodeName,omitempty" doc:"The node that it runs on"`
	Phase              string      `json:"phase,omitempty" doc:"The pod's phase, as Running"`
	Ready              bool        `json:"ready"`
	IntervalSeconds    float64     `json:"intervalSeconds,omitempty" doc:"Time between two checkpoints"`
	Replicas           int         `json:"replicas,omitempty" doc:"Nodes beside its own that must hold a generation before it counts as durable"`
	Strategy           string      `json:"strategy,omitempty" doc:"How it moves where nobody says it: Cold, Warm, Live or Application"`
	InvalidAnnotations string      `json:"invalidAnnotations,omitempty" doc:"What is wrong with its annotations. It is not protected then"`
	Checkpoint         *Checkpoint `json:"checkpoint,omitempty" doc:"Its newest durable generation, and what was found in it. It is missing until the checkpointer on its node has seen the pod"`
}

// Checkpoint is a pod's newest durable generation, and what was found in the pod.
type Checkpoint struct {
	Generation     int64      `json:"generation" doc:"0 while none is durable"`
	Epoch          int64      `json:"epoch" doc:"The epoch that the pod runs in"`
	TakenAt        *time.Time `json:"takenAt,omitempty" doc:"When the pod was paused for it"`
	DurableAt      *time.Time `json:"durableAt,omitempty" doc:"When the last required holder had acknowledged it"`
	PauseSeconds   float64    `json:"pauseSeconds,omitempty" doc:"How long the pod's processes were stopped for it"`
	Bytes          int64      `json:"bytes,omitempty" doc:"Size of the captured state"`
	NewBytes       int64      `json:"newBytes,omitempty" doc:"What it added to the store"`
	Holders        []string   `json:"holders,omitempty" doc:"Nodes that have a durable copy"`
	RequestedAt    *time.Time `json:"requestedAt,omitempty" doc:"The newest request for a checkpoint that was answered: the generation was begun after it"`
	Protected      *Condition `json:"protected,omitempty" doc:"True when the generation would be restored after the loss of the node"`
	Checkpointable *Condition `json:"checkpointable,omitempty" doc:"The preflight check: False when something in the pod is known to make a checkpoint impossible"`
	Findings       []Finding  `json:"findings,omitempty" doc:"What the preflight check found"`
}

// Condition is True, False or Unknown, and why.
type Condition struct {
	Status  string    `json:"status" enum:"True,False,Unknown"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// Finding is one thing in a pod that matters to its checkpoints.
type Finding struct {
	Container string `json:"container,omitempty" doc:"Missing for the whole pod"`
	Severity  string `json:"severity" doc:"Refuses: the pod cannot be checkpointed as long as this is so. Warns: it can be, at a cost"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
	Hint      string `json:"hint,omitempty" doc:"What to do about it"`
}

// protected says whether a pod asks for protection, be it wrongly.
func protected(pod *corev1.Pod) bool {
	p, err := v1alpha1.ParseAnnotations(pod.Annotations)
	return err != nil || p.Protected
}

func viewPod(pod *corev1.Pod, checkpoint *v1alpha1.Checkpoint) Pod {
	view := Pod{
		Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), NodeName: pod.Spec.NodeName,
		Phase: string(pod.Status.Phase), Ready: v1alpha1.PodReady(pod),
	}
	if p, err := v1alpha1.ParseAnnotations(pod.Annotations); err != nil {
		view.InvalidAnnotations = err.Error()
	} else {
		view.IntervalSeconds, view.Replicas, view.Strategy = p.Interval.Seconds(), p.Replicas, string(p.Strategy)
	}
	// A Checkpoint of the pod's predecessor says nothing about the pod.
	if checkpoint != nil && checkpoint.Spec.PodUID == pod.UID {
		view.Checkpoint = viewCheckpoint(checkpoint)
	}
	return view
}

func viewCheckpoint(checkpoint *v1alpha1.Checkpoint) *Checkpoint {
	s := &checkpoint.Status
	view := &Checkpoint{
		Generation: s.Generation, Epoch: s.Epoch, TakenAt: moment(s.TakenAt), DurableAt: moment(s.DurableAt),
		PauseSeconds: s.PauseSeconds, Bytes: s.Bytes, NewBytes: s.NewBytes, Holders: s.Holders, RequestedAt: moment(s.Requested),
		Protected:      viewCondition(s.Conditions, v1alpha1.ConditionProtected),
		Checkpointable: viewCondition(s.Conditions, v1alpha1.ConditionCheckpointable),
	}
	for _, f := range s.Findings {
		view.Findings = append(view.Findings, Finding{Container: f.Container, Severity: string(f.Severity), Reason: f.Reason, Message: f.Message, Hint: f.Hint})
	}
	return view
}

func viewCondition(conditions []metav1.Condition, kind string) *Condition {
	c := meta.FindStatusCondition(conditions, kind)
	if c == nil {
		return nil
	}
	return &Condition{Status: string(c.Status), Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime.UTC()}
}

// moment is a time as it is shown, nil where there is none.
func moment(at *metav1.MicroTime) *time.Time {
	if at == nil || at.IsZero() {
		return nil
	}
	shown := at.UTC()
	return &shown
}
