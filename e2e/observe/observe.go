// Package observe reads from a cluster's API what Lifeboat and Kubernetes say
// about pods and nodes, and waits until they say what is wanted.
package observe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// PollEvery is the time between two looks at a condition that is waited for.
const PollEvery = 100 * time.Millisecond

// NewClient returns a client for Kubernetes' and Lifeboat's kinds. It is not
// slowed down on the client's side: what is observed here is measured in
// tenths of a second.
func NewClient(config *rest.Config) (client.Client, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("build the client's scheme: %w", err)
	}
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("build the client: %w", err)
	}
	return c, nil
}

// Until looks at a condition until it holds. The condition returns what it saw,
// for the error that says what was missing when ctx ended. An error of the
// condition counts as something seen: the API may be away for a moment.
func Until(ctx context.Context, what string, condition func(context.Context) (holds bool, seen string, err error)) error {
	ticker := time.NewTicker(PollEvery)
	defer ticker.Stop()
	last := "nothing yet"
	for {
		holds, seen, err := condition(ctx)
		if err == nil && holds {
			return nil
		}
		if hopeless := (*Hopeless)(nil); errors.As(err, &hopeless) {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if ctx.Err() == nil {
			if last = seen; err != nil {
				last = err.Error()
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; last seen: %s", what, ctx.Err(), last)
		case <-ticker.C:
		}
	}
}

// Hopeless is an error of a condition that no waiting can cure.
type Hopeless struct{ Err error }

func (h *Hopeless) Error() string { return h.Err.Error() }
func (h *Hopeless) Unwrap() error { return h.Err }

// ReadyPod waits for a ready pod with the labels, one that is not being deleted,
// and returns it. Of several it returns the newest.
func ReadyPod(ctx context.Context, c client.Client, namespace string, labels client.MatchingLabels) (*corev1.Pod, error) {
	var ready *corev1.Pod
	err := Until(ctx, fmt.Sprintf("a pod %v in %s is ready", map[string]string(labels), namespace), func(ctx context.Context) (bool, string, error) {
		var pods corev1.PodList
		if err := c.List(ctx, &pods, client.InNamespace(namespace), labels); err != nil {
			return false, "", err
		}
		var seen []string
		for i, pod := range pods.Items {
			if Ready(&pod) && (ready == nil || ready.CreationTimestamp.Before(&pod.CreationTimestamp)) {
				ready = &pods.Items[i]
			}
			seen = append(seen, describe(&pod))
		}
		return ready != nil, "pods: " + strings.Join(seen, "; "), nil
	})
	return ready, err
}

// DescribePods says in a line how the pods with the labels fare.
func DescribePods(ctx context.Context, c client.Client, namespace string, labels client.MatchingLabels) (string, error) {
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(namespace), labels); err != nil {
		return "", err
	}
	seen := make([]string, len(pods.Items))
	for i := range pods.Items {
		seen[i] = describe(&pods.Items[i])
	}
	return strings.Join(seen, "; "), nil
}

// Ready says whether a pod is ready and stays.
func Ready(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func describe(pod *corev1.Pod) string {
	text := fmt.Sprintf("%s on %q %s", pod.Name, pod.Spec.NodeName, pod.Status.Phase)
	if pod.DeletionTimestamp != nil {
		text += ", being deleted"
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := status.State.Waiting; w != nil {
			text += fmt.Sprintf(", %s waits: %s %s", status.Name, w.Reason, w.Message)
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status != corev1.ConditionTrue {
			text += ", not scheduled: " + condition.Message
		}
	}
	return text
}

// Durable waits until the pod with this UID has a durable generation of at least
// the number, and returns its Checkpoint.
func Durable(ctx context.Context, c client.Client, pod *corev1.Pod, least int64) (*v1alpha1.Checkpoint, error) {
	checkpoint := &v1alpha1.Checkpoint{}
	what := fmt.Sprintf("generation %d of pod %s/%s is durable", least, pod.Namespace, pod.Name)
	err := Until(ctx, what, func(ctx context.Context) (bool, string, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint); err != nil {
			return false, "", err
		}
		if checkpoint.Spec.PodUID != pod.UID {
			return false, fmt.Sprintf("the Checkpoint is that of an earlier pod, %s", checkpoint.Spec.PodUID), nil
		}
		seen := fmt.Sprintf("generation %d", checkpoint.Status.Generation)
		condition := meta.FindStatusCondition(checkpoint.Status.Conditions, v1alpha1.ConditionProtected)
		if condition != nil {
			seen += fmt.Sprintf(", Protected %s: %s: %s", condition.Status, condition.Reason, condition.Message)
		}
		return checkpoint.Status.Generation >= least, seen, nil
	})
	return checkpoint, err
}

// MigrationOf returns the newest Migration away from the pod with this UID, and
// nil when there is none.
func MigrationOf(ctx context.Context, c client.Client, namespace string, uid types.UID) (*v1alpha1.Migration, error) {
	var migrations v1alpha1.MigrationList
	if err := c.List(ctx, &migrations, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	// One that is only held, or came to nothing, stands back behind one that was begun.
	var newest *v1alpha1.Migration
	for i, m := range migrations.Items {
		if m.Spec.Pod.UID != uid {
			continue
		}
		begun := m.Reached(v1alpha1.PhaseFenced)
		if newest == nil || begun && !newest.Reached(v1alpha1.PhaseFenced) ||
			begun == newest.Reached(v1alpha1.PhaseFenced) && m.Spec.Epoch > newest.Spec.Epoch {
			newest = &migrations.Items[i]
		}
	}
	return newest, nil
}

// Closed waits until the Migration of a lost pod has a result, and returns it.
func Closed(ctx context.Context, c client.Client, lost *corev1.Pod) (*v1alpha1.Migration, error) {
	var migration *v1alpha1.Migration
	err := Until(ctx, fmt.Sprintf("the Migration of pod %s/%s has a result", lost.Namespace, lost.Name), func(ctx context.Context) (bool, string, error) {
		m, err := MigrationOf(ctx, c, lost.Namespace, lost.UID)
		if err != nil || m == nil {
			return false, "no Migration", err
		}
		migration = m
		return !m.Open(), fmt.Sprintf("Migration %s in phase %s", m.Name, m.Status.Phase), nil
	})
	return migration, err
}

// NodesWhole waits until every node is Ready and its Fence says Running with
// CRIU at work.
func NodesWhole(ctx context.Context, c client.Client, nodes []string) error {
	return Until(ctx, "every node is Ready and its Fence Running", func(ctx context.Context) (bool, string, error) {
		for _, name := range nodes {
			if ready, seen, err := nodeReady(ctx, c, name); err != nil || !ready {
				return false, seen, err
			}
			var fence v1alpha1.Fence
			if err := c.Get(ctx, types.NamespacedName{Name: name}, &fence); err != nil {
				return false, "", fmt.Errorf("read the Fence of node %s: %w", name, err)
			}
			if fence.Spec.State != v1alpha1.FenceRunning || fence.Status.Facts.CRIUVersion == "" {
				return false, fmt.Sprintf("Fence of node %s: state %s, CRIU %q %s", name, fence.Spec.State, fence.Status.Facts.CRIUVersion, fence.Status.Facts.Message), nil
			}
		}
		return true, "", nil
	})
}

// NodesReady waits until every node is Ready.
func NodesReady(ctx context.Context, c client.Client, nodes []string) error {
	return Until(ctx, "every node is Ready", func(ctx context.Context) (bool, string, error) {
		for _, name := range nodes {
			if ready, seen, err := nodeReady(ctx, c, name); err != nil || !ready {
				return false, seen, err
			}
		}
		return true, "", nil
	})
}

func nodeReady(ctx context.Context, c client.Client, name string) (ready bool, seen string, err error) {
	var node corev1.Node
	if err := c.Get(ctx, types.NamespacedName{Name: name}, &node); err != nil {
		return false, "", fmt.Errorf("read node %s: %w", name, err)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return true, "", nil
		}
	}
	return false, fmt.Sprintf("node %s is not Ready", name), nil
}
