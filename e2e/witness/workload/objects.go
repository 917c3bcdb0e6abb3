// Package workload holds steppers as Kubernetes objects.
package workload

import (
	_ "embed"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// Image is the image that the objects of this package name.
const Image = "lifeboat.dev/stepper:dev"

// Names of the steppers: the StatefulSet's and the Deployment's. Their pods have it as
// the label app.
const (
	Ledger  = "ledger"
	Counter = "counter"
)

//go:embed statefulset.yaml
var statefulSetYAML []byte

//go:embed deployment.yaml
var deploymentYAML []byte

// Name is what a stepper in a namespace calls itself before the witness.
func Name(namespace, name string) string { return namespace + "/" + name }

// Labels select the pods of a stepper.
func Labels(name string) client.MatchingLabels { return client.MatchingLabels{"app": name} }

// StatefulSet returns a stepper as a StatefulSet of one protected pod. It prefers the
// node to any other, if one is named, and speaks to the witness at the address.
func StatefulSet(namespace, witness, node string) *appsv1.StatefulSet {
	set := decode(statefulSetYAML, &appsv1.StatefulSet{})
	set.Namespace = namespace
	fill(&set.Spec.Template.Spec, Name(namespace, Ledger), witness, node)
	return set
}

// Deployment returns a stepper as a Deployment of one protected pod, as StatefulSet does.
func Deployment(namespace, witness, node string) *appsv1.Deployment {
	deployment := decode(deploymentYAML, &appsv1.Deployment{})
	deployment.Namespace = namespace
	fill(&deployment.Spec.Template.Spec, Name(namespace, Counter), witness, node)
	return deployment
}

func fill(pod *corev1.PodSpec, name, witness, node string) {
	pod.Containers[0].Args = []string{"--name=" + name, "--witness=" + witness}
	if node == "" {
		return
	}
	pod.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 100,
			Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
				Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			}}},
		}},
	}}
}

// decode reads an embedded file; that it is valid is part of the program, so a
// fault in it is one of the program.
func decode[T client.Object](file []byte, into T) T {
	if err := yaml.UnmarshalStrict(file, into); err != nil {
		panic(fmt.Sprintf("embedded object of kind %T: %v", into, err))
	}
	return into
}
