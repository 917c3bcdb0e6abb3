package kubectl

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
)

// seen is what the API has about a pod.
type seen struct {
	pod *corev1.Pod
	// checkpoint is the pod's own, or nil.
	checkpoint *v1alpha1.Checkpoint
	// installed is whether the cluster knows Lifeboat's kinds.
	installed bool
}

// verdict is what is known of a pod. Its JSON is what -o json and yaml print.
type verdict struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Checkpointable is True, False or Unknown.
	Checkpointable metav1.ConditionStatus `json:"checkpointable"`
	// Judged is what was looked at: Containers or Specification.
	Judged string `json:"judged"`
	// Protected is whether the pod asks for protection.
	Protected bool   `json:"protected"`
	Message   string `json:"message"`
	// Findings are those of the containers, as the pod's node has reported them,
	// and those of the specification.
	Findings []v1alpha1.Finding `json:"findings"`
	// Notes are what else the pod's owner should know.
	Notes []string `json:"notes,omitempty"`
}

// What was looked at.
const (
	judgedContainers    = "Containers"
	judgedSpecification = "Specification"
)

// specificationOnly are the reasons that a node does not find in containers.
var specificationOnly = []preflight.Reason{preflight.WritableVolume, preflight.OtherRuntimeClass, preflight.WrongAnnotation}

// judge says whether a pod can be checkpointed. It is pure.
func judge(s seen) verdict {
	protection, annotationErr := v1alpha1.ParseAnnotations(s.pod.Annotations)
	v := verdict{
		Namespace: s.pod.Namespace, Pod: s.pod.Name, Findings: []v1alpha1.Finding{},
		Protected: annotationErr == nil && protection.Protected,
	}
	if !s.installed {
		v.Notes = append(v.Notes, "Lifeboat is not installed in this cluster: it does not know the kind Checkpoint.")
	}
	var condition *metav1.Condition
	if s.checkpoint != nil {
		condition = meta.FindStatusCondition(s.checkpoint.Status.Conditions, v1alpha1.ConditionCheckpointable)
	}
	if condition != nil && v.Protected {
		v.byContainers(s, condition)
	} else {
		v.bySpecification(s)
	}
	return v
}

// byContainers judges by what the pod's node has found.
func (v *verdict) byContainers(s seen, condition *metav1.Condition) {
	v.Judged, v.Checkpointable, v.Message = judgedContainers, condition.Status, condition.Message
	v.Findings = append(v.Findings, s.checkpoint.Status.Findings...)
	_, fromSpec := preflight.Spec(s.pod).Status()
	for _, f := range fromSpec {
		if !slices.Contains(specificationOnly, preflight.Reason(f.Reason)) {
			continue // the node has seen what came of it
		}
		v.Findings = append(v.Findings, f)
		if f.Severity == v1alpha1.SeverityRefuses {
			v.Checkpointable, v.Message = metav1.ConditionFalse, f.Message+": "+f.Hint
		}
	}
	if protected := meta.FindStatusCondition(s.checkpoint.Status.Conditions, v1alpha1.ConditionProtected); protected != nil {
		v.Notes = append(v.Notes, fmt.Sprintf("Protected: %s, %s: %s.", protected.Status, protected.Reason, strings.TrimSuffix(protected.Message, ".")))
	}
}

// bySpecification judges by the pod's specification, because nobody has looked
// at its containers.
func (v *verdict) bySpecification(s seen) {
	condition, findings := preflight.Spec(s.pod).Status()
	v.Judged, v.Checkpointable, v.Message = judgedSpecification, condition.Status, condition.Message
	v.Findings = append(v.Findings, findings...)
	if !v.Protected {
		v.Notes = append(v.Notes, "The pod is not protected, so only its specification was judged. Its open files and sockets are looked at once it is protected.")
		v.Notes = append(v.Notes, howToProtect(s.pod))
		return
	}
	if v.Checkpointable == metav1.ConditionTrue {
		v.Checkpointable, v.Message = metav1.ConditionUnknown, "nothing in its specification prevents it, but "+notLookedAt(s)
	}
	v.Notes = append(v.Notes, "Only the pod's specification was judged.")
}

// notLookedAt says why a protected pod's containers were not looked at.
func notLookedAt(s seen) string {
	switch {
	case !s.installed:
		return "nothing in this cluster looks at its containers"
	case s.pod.Status.Phase == corev1.PodSucceeded || s.pod.Status.Phase == corev1.PodFailed:
		return "it has ended"
	case s.pod.Status.Phase != corev1.PodRunning:
		return "it does not run yet"
	default:
		return fmt.Sprintf("node %s has not looked at its containers yet; is the checkpointer running there?", s.pod.Spec.NodeName)
	}
}

// howToProtect is the command that protects a pod.
func howToProtect(pod *corev1.Pod) string {
	const annotations = `{"metadata":{"annotations":{"` + v1alpha1.AnnotationFailover + `":"true"}}}`
	owner := metav1.GetControllerOf(pod)
	if owner != nil {
		kind, name := strings.ToLower(owner.Kind), owner.Name
		// The name of a Deployment's ReplicaSet ends with the hash of the template.
		hash := pod.Labels["pod-template-hash"]
		if deployment, found := strings.CutSuffix(name, "-"+hash); kind == "replicaset" && hash != "" && found {
			kind, name = "deployment", deployment
		}
		switch kind {
		case "statefulset", "deployment", "replicaset":
			return fmt.Sprintf("To protect it, which starts its pods anew:\n  kubectl patch %s %s -n %s --type merge -p '{\"spec\":{\"template\":%s}}'", kind, name, pod.Namespace, annotations)
		}
		return fmt.Sprintf("To protect it, put the annotation %s: \"true\" on the pod template of %s %s, and create it anew.", v1alpha1.AnnotationFailover, kind, name)
	}
	return fmt.Sprintf("To protect it, put the annotation %s: \"true\" into its manifest, and create it anew.", v1alpha1.AnnotationFailover)
}

func (v verdict) exitStatus() int {
	switch v.Checkpointable {
	case metav1.ConditionTrue:
		return ExitYes
	case metav1.ConditionFalse:
		return ExitNo
	}
	return ExitUnknown
}
