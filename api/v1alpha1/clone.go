package v1alpha1

import (
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
)

// StrategyClone moves nothing: a new pod starts with the memory of a checkpoint, beside the
// pod that the checkpoint is of. Nothing is done to that one. The Migration's spec.pod is the
// new pod, whose UID nobody knows yet, so that it is empty: no pod is the one that moves.
//
// Its steps are Accepted, Created, Scheduled, Restoring and Ready. The plugin lets only the
// pod claim it that has LabelClone with its UID. What cannot be restored does not start at
// all: the new pod is deleted, and the Migration is closed as Failed.
const StrategyClone Strategy = "Clone"

// LabelClone of a pod is the UID of the Migration that it was made for. It starts by that
// one alone: as long as that has not restored it, no container of it is created anew.
const LabelClone = "lifeboat.dev/clone"

// CloneSource is what a clone is made from.
type CloneSource struct {
	// Pod is the pod whose checkpoint is restored. It runs on. The Migration's sourceNode
	// is where it ran when the clone was asked for.
	Pod PodIdentity `json:"pod"`
	// Generation is the one that is restored, and no other; 0 is the newest that is whole.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Labels are all that the new pod has beside LabelClone. Those of the other pod are not
	// taken over: with them Services would send requests to the new pod, and owners adopt it.
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
}

// Clone is what somebody asks for: that a new pod starts from a checkpoint.
type Clone struct {
	// Name is the new pod's; empty makes one up.
	Name string
	// Generation is the one to restore; 0 is the newest.
	Generation int64
	// Labels are those of the new pod.
	Labels map[string]string
	// TargetNode is where it is to start; empty leaves it to the scheduler.
	TargetNode string
	// Deadline is how long it may take until the pod is Ready; 0 is DefaultDeadline.
	Deadline time.Duration
}

// NewClone is the Migration that asks for a clone of a pod, to be created. Known are the
// Migrations of its namespace. Where one was created meanwhile, the name may be taken: it is
// then to be made anew.
func NewClone(pod *corev1.Pod, clone Clone, known []Migration, now time.Time) *Migration {
	name := clone.Name
	if name == "" {
		name = cloneName(pod.Name)
	}
	deadline := clone.Deadline
	if deadline <= 0 {
		deadline = DefaultDeadline
	}
	epoch := NextEpoch(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil, known)
	return &Migration{
		TypeMeta:   metav1.TypeMeta{APIVersion: GroupVersion.String(), Kind: "Migration"},
		ObjectMeta: metav1.ObjectMeta{Name: MigrationName(name, epoch), Namespace: pod.Namespace},
		Spec: MigrationSpec{
			Pod: PodIdentity{Name: name}, SourceNode: pod.Spec.NodeName, Strategy: StrategyClone, Reason: MigrationRequested,
			Epoch: epoch, LostAt: metav1.NewMicroTime(now), TargetNode: clone.TargetNode, DeadlineSeconds: int32(max(1, deadline/time.Second)),
			Clone: &CloneSource{Pod: IdentityOf(pod), Generation: clone.Generation, Labels: maps.Clone(clone.Labels)},
		},
	}
}

// cloneName is a new name for a clone. It is short enough to be a host name.
func cloneName(pod string) string {
	suffix := "-clone-" + rand.String(5)
	const longest = 63
	return strings.TrimRight(pod[:min(len(pod), longest-len(suffix))], "-.") + suffix
}

// Clones says whether the Migration starts a new pod beside the one whose checkpoint it restores.
func (m *Migration) Clones() bool { return m.Spec.Strategy == StrategyClone && m.Spec.Clone != nil }

// Memory is the UID of the pod whose generations the Migration restores.
func (m *Migration) Memory() types.UID {
	if m.Clones() {
		return m.Spec.Clone.Pod.UID
	}
	return m.Spec.Pod.UID
}

// ClonedBy says whether the Migration is the one that a pod was made for.
func (m *Migration) ClonedBy(pod *corev1.Pod) bool {
	return m.Clones() && m.UID != "" && pod != nil && pod.Labels[LabelClone] == string(m.UID)
}

// NotCloned says why no clone of a pod can be made, or "". It looks at the pod alone.
func NotCloned(pod *corev1.Pod) string {
	protection, err := ParseAnnotations(pod.Annotations)
	owner := metav1.GetControllerOfNoCopy(pod)
	switch {
	case err != nil:
		return fmt.Sprintf("pod %s: %s", pod.Name, err)
	case !protection.Protected:
		return fmt.Sprintf("pod %s is not protected, so that it has no checkpoint; set its annotation %s to \"true\"", pod.Name, AnnotationFailover)
	case pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName != RuntimeClassName:
		return fmt.Sprintf("pod %s was created while Lifeboat's admission did not answer, and has no checkpoint; delete it, so that its owner makes it anew", pod.Name)
	case owner != nil && owner.Kind == "StatefulSet":
		return fmt.Sprintf("pod %s belongs to StatefulSet %s: its processes know themselves by its name, and two of them would be the same member; clone pods of Deployments, or without an owner", pod.Name, owner.Name)
	case owner != nil && owner.Kind == "Job":
		return fmt.Sprintf("pod %s belongs to Job %s: its work would be done twice, and the Job would not count it; clone pods of Deployments, or without an owner", pod.Name, owner.Name)
	case owner != nil && owner.Kind != "ReplicaSet" && owner.Kind != "ReplicationController":
		return fmt.Sprintf("pod %s belongs to %s %s, of whose pods Lifeboat does not know whether there may be another one; clone pods of Deployments, or without an owner", pod.Name, owner.Kind, owner.Name)
	case pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC:
		return fmt.Sprintf("pod %s shares namespaces of its node (hostNetwork, hostPID or hostIPC); a clone would meet what belongs to it there", pod.Name)
	case len(pod.Spec.ResourceClaims) > 0:
		return fmt.Sprintf("pod %s has resource claims, which are its own", pod.Name)
	}
	for _, volume := range pod.Spec.Volumes {
		if kind := notCloned(volume); kind != "" {
			return fmt.Sprintf("pod %s has the volume %s (%s), which its clone would share or lack, while its memory is of what the pod has written there; "+
				"only emptyDir, configMap, secret, projected and downwardAPI volumes can be had twice", pod.Name, volume.Name, kind)
		}
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			for _, port := range c.Ports {
				if port.HostPort != 0 {
					return fmt.Sprintf("container %s of pod %s has the port %d of its node, which is one pod's alone", c.Name, pod.Name, port.HostPort)
				}
			}
		}
	}
	return ""
}

// notCloned is the kind of a volume that a clone cannot have, or "".
func notCloned(volume corev1.Volume) string {
	switch {
	case volume.EmptyDir != nil, volume.ConfigMap != nil, volume.Secret != nil, volume.Projected != nil, volume.DownwardAPI != nil:
		return ""
	case volume.PersistentVolumeClaim != nil:
		return "PersistentVolumeClaim " + volume.PersistentVolumeClaim.ClaimName
	case volume.HostPath != nil:
		return "hostPath " + volume.HostPath.Path
	case volume.Ephemeral != nil:
		return "ephemeral"
	case volume.CSI != nil:
		return "csi " + volume.CSI.Driver
	}
	return "of another kind"
}
