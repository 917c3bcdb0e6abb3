// Package workload holds the cart and its shopper as Kubernetes objects.
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
const Image = "lifeboat.dev/cart:dev"

// Port is where the cart and the shopper listen in their pods.
const Port = 8080

// Labels that select the pods of the cart and of the shopper.
var (
	Labels        = client.MatchingLabels{"app": "cart"}
	ShopperLabels = client.MatchingLabels{"app": "shopper"}
)

//go:embed service.yaml
var serviceYAML []byte

//go:embed statefulset.yaml
var statefulSetYAML []byte

//go:embed deployment.yaml
var deploymentYAML []byte

//go:embed pod.yaml
var podYAML []byte

//go:embed shopper.yaml
var shopperYAML []byte

// Service returns the Service in front of the cart.
func Service(namespace string) *corev1.Service {
	return in(namespace, decode(serviceYAML, &corev1.Service{}))
}

// StatefulSet returns the cart as a StatefulSet of one protected pod.
func StatefulSet(namespace string) *appsv1.StatefulSet {
	return in(namespace, decode(statefulSetYAML, &appsv1.StatefulSet{}))
}

// Deployment returns the cart as a Deployment of one protected pod.
func Deployment(namespace string) *appsv1.Deployment {
	return in(namespace, decode(deploymentYAML, &appsv1.Deployment{}))
}

// Pod returns the cart as a protected pod without an owner.
func Pod(namespace string) *corev1.Pod {
	return in(namespace, decode(podYAML, &corev1.Pod{}))
}

// ShopperPod returns a shopper that runs on the named node. Its Service must
// exist before it starts: its address reaches the pod by environment.
func ShopperPod(namespace, node string) *corev1.Pod {
	pod := in(namespace, decode(shopperYAML, &corev1.Pod{}))
	pod.Spec.NodeName = node
	return pod
}

func in[T client.Object](namespace string, object T) T {
	object.SetNamespace(namespace)
	return object
}

// decode reads an embedded file; that it is valid is part of the program, so a
// fault in it is one of the program.
func decode[T client.Object](file []byte, into T) T {
	if err := yaml.UnmarshalStrict(file, into); err != nil {
		panic(fmt.Sprintf("embedded object of kind %T: %v", into, err))
	}
	return into
}
