package subject

import (
	_ "embed"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/experiments/app"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// The images that the pods name.
const (
	AppImage        = "lifeboat.dev/experiment:dev"
	RedisImage      = "lifeboat.dev/redis:dev"
	PostgreSQLImage = "lifeboat.dev/postgresql:dev"
)

// Name is the name of everything that belongs to the application in its namespace.
const Name = "subject"

// Labels select the application's pods.
var Labels = client.MatchingLabels{"app": Name}

const (
	// interval is the time between two checkpoints of a protected pod.
	interval = "5s"
	// handoverTimeout bounds each half of a handover.
	handoverTimeout = "60s"
	// grace is how long a pod may take to end by itself, in seconds. PostgreSQL waits
	// for its clients to go.
	grace = 2
	// nobody is the user "nobody" of every Debian.
	nobody = 65534
)

//go:embed postgres.sh
var postgresSh string

// Service is the Service in front of the application.
func Service(cell matrix.Cell, namespace string) *corev1.Service {
	port := int32(Port(cell.Application))
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: namespace},
		Spec:       corev1.ServiceSpec{Selector: Labels, Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(port)}}},
	}
}

// Object is what makes the application's pod: its owner or, for a move without any,
// the pod itself.
func Object(cell matrix.Cell, namespace string) client.Object {
	meta := metav1.ObjectMeta{Name: Name, Namespace: namespace}
	selector := &metav1.LabelSelector{MatchLabels: Labels}
	switch {
	case cell.Strategy == matrix.Stock:
		return Pod(cell, namespace, Name)
	case cell.Owner == matrix.Deployment:
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](1), Selector: selector, Template: template(cell)}}
	}
	return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To[int32](1), ServiceName: Name, Selector: selector, Template: template(cell),
	}}
}

// Pod is the application as a pod that nobody starts again.
func Pod(cell matrix.Cell, namespace, name string) *corev1.Pod {
	t := template(cell)
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	t.Name, t.Namespace = name, namespace
	return &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
}

// Waiting is a pod with all that the application's has, in which a process waits that
// does nothing.
func Waiting(cell matrix.Cell, namespace, name string) *corev1.Pod {
	pod := Pod(cell, namespace, name)
	c := &pod.Spec.Containers[0]
	if c.Image == AppImage {
		c.Args = []string{"--wait"}
	} else {
		c.Command, c.Args = []string{"sleep", "infinity"}, nil
	}
	return pod
}

func template(cell matrix.Cell) corev1.PodTemplateSpec {
	c := corev1.Container{
		Name: Name, ImagePullPolicy: corev1.PullIfNotPresent,
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(Port(cell.Application))},
		}},
	}
	spec := corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](grace)}
	switch cell.Application {
	case matrix.Redis:
		c.Image = RedisImage
		c.Args = []string{"redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no"}
	case matrix.PostgreSQL:
		c.Image = PostgreSQLImage
		// Room for the catalogue beside the table.
		c.Command = []string{"bash", "-c", postgresSh, "postgres.sh", fmt.Sprintf("%dMB", cell.MemoryMB+64)}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](nobody), RunAsGroup: ptr.To[int64](nobody), RunAsNonRoot: ptr.To(true)}
	default:
		c.Image = AppImage
		c.Args = []string{"--application", string(cell.Application), "--content", string(cell.Content), "--bytes", fmt.Sprint(cell.Bytes())}
		if cell.Load == matrix.Rewriting {
			c.Args = append(c.Args, "--rewrite", fmt.Sprint(percent))
		}
	}
	spec.Containers = []corev1.Container{c}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: Labels, Annotations: annotations(cell)},
		Spec:       spec,
	}
}

func annotations(cell matrix.Cell) map[string]string {
	if !cell.Protected() {
		return nil
	}
	a := map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: interval}
	if cell.Strategy == matrix.Handover {
		hook := fmt.Sprintf("timeout=%s http %d%s", handoverTimeout, Port(cell.Application), app.StatePath)
		a[v1alpha1.AnnotationStateExport], a[v1alpha1.AnnotationStateImport] = hook, hook
	}
	return a
}
