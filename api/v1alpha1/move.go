package v1alpha1

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Move is what somebody asks for: that a pod moves on purpose.
type Move struct {
	// Strategy is how; empty is what the pod's annotation says.
	Strategy Strategy
	Reason   MigrationReason
	// TargetNode is where to; empty leaves it to the scheduler.
	TargetNode string
	// Deadline is how long it may take until the pod is stopped; 0 is DefaultDeadline.
	Deadline time.Duration
}

// DefaultDeadline is how long a planned move may take until the pod is stopped.
const DefaultDeadline = 10 * time.Minute

// NewMove is the Migration that asks for a pod's planned move, to be created. Epoch is
// NextEpoch's: where another Migration was created meanwhile the name is taken, and
// creating it fails with AlreadyExists; it is then to be made anew.
func NewMove(pod *corev1.Pod, move Move, epoch int64, now time.Time) *Migration {
	strategy := move.Strategy
	if strategy == "" {
		strategy = StrategyOf(pod)
	}
	deadline := move.Deadline
	if deadline <= 0 {
		deadline = DefaultDeadline
	}
	return &Migration{
		TypeMeta:   metav1.TypeMeta{APIVersion: GroupVersion.String(), Kind: "Migration"},
		ObjectMeta: metav1.ObjectMeta{Name: MigrationName(pod.Name, epoch), Namespace: pod.Namespace},
		Spec: MigrationSpec{
			Pod: IdentityOf(pod), SourceNode: pod.Spec.NodeName, Strategy: strategy, Reason: move.Reason,
			Epoch: epoch, LostAt: metav1.NewMicroTime(now), TargetNode: move.TargetNode,
			DeadlineSeconds: int32(max(1, deadline/time.Second)),
		},
	}
}

// StrategyOf is how a pod moves where nobody says it: as its annotation says, live
// where it is protected without one, and by replacement where it is not.
func StrategyOf(pod *corev1.Pod) Strategy {
	p, err := ParseAnnotations(pod.Annotations)
	if err != nil || !p.Protected {
		return StrategyReplace
	}
	return p.Strategy
}

// IdentityOf is a pod as a Migration names it.
func IdentityOf(pod *corev1.Pod) PodIdentity {
	id := PodIdentity{Name: pod.Name, UID: pod.UID}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		id.OwnerKind, id.OwnerName, id.OwnerUID = owner.Kind, owner.Name, owner.UID
	}
	return id
}

// NextEpoch is one more than any epoch that a pod of this name ran in. Checkpoint is
// the pod's, nil if it has none; known are the Migrations of its namespace.
func NextEpoch(pod *corev1.Pod, checkpoint *Checkpoint, known []Migration) int64 {
	var epoch int64
	if checkpoint != nil {
		epoch = checkpoint.Status.Epoch
	}
	for i := range known {
		m := &known[i]
		if m.Spec.Pod.Name == pod.Name || m.Status.Claim != nil && m.Status.Claim.PodUID == pod.UID {
			epoch = max(epoch, m.Spec.Epoch)
		}
	}
	return epoch + 1
}

// MigrationName is the name of a pod's Migration of one epoch. A long pod name
// is cut: the API server refuses names of more than 253 characters.
func MigrationName(pod string, epoch int64) string {
	suffix := fmt.Sprintf("-%d", epoch)
	const longest = 253
	if len(pod)+len(suffix) > longest {
		pod = strings.TrimRight(pod[:longest-len(suffix)], "-.")
	}
	return pod + suffix
}
