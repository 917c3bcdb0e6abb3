package observe

import (
	"context"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Dump writes what helps to understand a recovery that went wrong: Lifeboat's
// objects, the namespace's pods and events, and the last lines of the logs of
// Lifeboat's own pods. What cannot be read is said in its place.
func Dump(ctx context.Context, w io.Writer, c client.Client, logs kubernetes.Interface, namespace string) {
	for _, list := range []struct {
		title   string
		objects client.ObjectList
		options []client.ListOption
	}{
		{"fences", &v1alpha1.FenceList{}, nil},
		{"migrations", &v1alpha1.MigrationList{}, []client.ListOption{client.InNamespace(namespace)}},
		{"checkpoints", &v1alpha1.CheckpointList{}, []client.ListOption{client.InNamespace(namespace)}},
	} {
		if err := c.List(ctx, list.objects, list.options...); err != nil {
			fmt.Fprintf(w, "--- %s: %v\n", list.title, err)
			continue
		}
		text, err := yaml.Marshal(list.objects)
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(w, "--- %s\n%s", list.title, text)
	}
	dumpPods(ctx, w, c, namespace)
	dumpEvents(ctx, w, c, namespace)
	dumpLogs(ctx, w, c, logs)
}

func dumpPods(ctx context.Context, w io.Writer, c client.Client, namespace string) {
	fmt.Fprintln(w, "--- pods")
	for _, in := range []string{namespace, v1alpha1.SystemNamespace} {
		var pods corev1.PodList
		if err := c.List(ctx, &pods, client.InNamespace(in)); err != nil {
			fmt.Fprintln(w, err)
		}
		for _, pod := range pods.Items {
			fmt.Fprintf(w, "%s/%s ready=%t uid=%s\n", in, describe(&pod), Ready(&pod), pod.UID)
		}
	}
}

func dumpEvents(ctx context.Context, w io.Writer, c client.Client, namespace string) {
	fmt.Fprintln(w, "--- events")
	var events corev1.EventList
	if err := c.List(ctx, &events, client.InNamespace(namespace)); err != nil {
		fmt.Fprintln(w, err)
	}
	slices.SortFunc(events.Items, func(a, b corev1.Event) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	for _, e := range events.Items {
		fmt.Fprintf(w, "%s %s %s %s/%s: %s\n", e.CreationTimestamp.Format("15:04:05"), e.Type, e.Reason, e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Message)
	}
}

// logTail is how many lines of each container's log are of interest.
const logTail = 60

func dumpLogs(ctx context.Context, w io.Writer, c client.Client, logs kubernetes.Interface) {
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
		fmt.Fprintln(w, err)
	}
	for _, pod := range pods.Items {
		for _, container := range pod.Spec.Containers {
			fmt.Fprintf(w, "--- log of %s on %s, container %s\n", pod.Name, pod.Spec.NodeName, container.Name)
			tail := int64(logTail)
			text, err := logs.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container.Name, TailLines: &tail}).DoRaw(ctx)
			if err != nil {
				fmt.Fprintln(w, err)
			}
			w.Write(text)
		}
	}
}
