package scenarios

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// instance is one of several redis in a namespace, each with a client that writes.
type instance struct {
	name    string
	pod     *corev1.Pod
	runID   string
	counter *counter
}

// redisNamed is redis as a pod that is told from others by its label and by the title of
// its process, which it keeps wherever it goes.
func redisNamed(namespace, name string) *corev1.Pod {
	pod := redisPod(namespace)
	pod.Name = name
	pod.Labels = map[string]string{"redis": name}
	container := &pod.Spec.Containers[0]
	container.Args = append(container.Args, "--enable-debug-command", "yes", "--proc-title-template", titleOf(name))
	return pod
}

func titleOf(name string) string { return "redis-server " + name }

// deploymentOf is a Deployment of one such pod.
func deploymentOf(pod *corev1.Pod) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: pod.Labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels, Annotations: pod.Annotations},
				Spec:       pod.Spec,
			},
		},
	}
}

// placed does something while only one node takes pods.
func placed(t *testing.T, node string, do func()) {
	t.Helper()
	nodes, err := lab.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	var uncordon []func()
	for _, other := range nodes {
		if other.Name != node {
			uncordon = append(uncordon, cordon(t, other.Name))
		}
	}
	do()
	for _, f := range uncordon {
		f()
	}
}

// inUse waits for an instance, and has a client write to it.
func inUse(t *testing.T, namespace, name string) *instance {
	t.Helper()
	pod, err := observe.ReadyPod(deadline(t), api, namespace, client.MatchingLabels{"redis": name})
	if err != nil {
		t.Fatal(err)
	}
	return &instance{name: name, pod: pod, runID: info(t, connect(t, pod), "run_id"), counter: startCounter(t, pod)}
}

// checkOne says what speaks against one copy of the instance being left, the process that
// was there, with everything that it had acknowledged by a moment. It returns its pod.
func (i *instance) checkOne(t *testing.T, acked time.Time) *corev1.Pod {
	t.Helper()
	labels := client.MatchingLabels{"redis": i.name}
	err := observe.Until(deadline(t), "one "+i.name+" is left", func(ctx context.Context) (bool, string, error) {
		var pods corev1.PodList
		if err := api.List(ctx, &pods, client.InNamespace(i.pod.Namespace), labels); err != nil {
			return false, "", err
		}
		processes, err := i.copies(ctx)
		return len(pods.Items) == 1 && processes == 1, fmt.Sprintf("%d pods and %d processes are there", len(pods.Items), processes), err
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := observe.ReadyPod(deadline(t), api, i.pod.Namespace, labels)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, now)
	if id := info(t, conn, "run_id"); id != i.runID {
		t.Errorf("another process of %s answers: run_id %s, was %s", i.name, id, i.runID)
	}
	least := i.counter.ackedBefore(acked)
	if got := command[string](t, conn, "GET", "counter"); least == 0 || got < fmt.Sprintf("%012d", least) {
		t.Errorf("the counter of %s is %s, and %d was acknowledged", i.name, got, least)
	}
	if now.UID == i.pod.UID && i.counter.failure() != nil {
		t.Errorf("the client of %s, which was not moved, lost its connection: %v", i.name, i.counter.failure())
	}
	return now
}

// copies counts the processes of the instance on all nodes.
func (i *instance) copies(ctx context.Context) (int, error) {
	const script = `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -qx "%s *" && echo one; done | wc -l`
	counts, err := onEveryNode(ctx, fmt.Sprintf(script, titleOf(i.name)))
	if err != nil {
		return 0, err
	}
	all := 0
	for _, out := range counts {
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			return 0, err
		}
		all += n
	}
	return all, nil
}
