package deploy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// Names of Lifeboat's workloads.
const (
	Checkpointer = "lifeboat-checkpointer"
	Watcher      = "lifeboat-watcher"
)

// Whole waits until nothing of Lifeboat is missing: every node is Ready, has its
// permission and CRIU, a checkpointer answers on each, every watcher answers, and a
// protected pod is admitted as one. It asks the pods themselves: for a while after
// a power cut the API still has them as ready.
func Whole(ctx context.Context, c *cluster.Cluster, api client.Client, progress func(step string)) error {
	nodes, err := NodeNames(c)
	if err != nil {
		return err
	}
	err = observe.Until(ctx, "a checkpointer answers on every node", func(ctx context.Context) (bool, string, error) {
		set := &appsv1.DaemonSet{}
		if err := api.Get(ctx, systemKey(Checkpointer), set); err != nil {
			return false, "", err
		}
		if set.Status.ObservedGeneration != set.Generation || int(set.Status.UpdatedNumberScheduled) != len(nodes) {
			seen, err := observe.DescribePods(ctx, api, v1alpha1.SystemNamespace, labels(Checkpointer))
			return false, "roll-out under way: " + seen, err
		}
		return answering(ctx, c, api, Checkpointer, len(nodes))
	})
	if err != nil {
		return err
	}
	progress("  a checkpointer runs on every node")
	err = observe.Until(ctx, "every watcher answers", func(ctx context.Context) (bool, string, error) {
		deployment := &appsv1.Deployment{}
		if err := api.Get(ctx, systemKey(Watcher), deployment); err != nil {
			return false, "", err
		}
		want := *deployment.Spec.Replicas
		if deployment.Status.ObservedGeneration != deployment.Generation || deployment.Status.UpdatedReplicas != want {
			seen, err := observe.DescribePods(ctx, api, v1alpha1.SystemNamespace, labels(Watcher))
			return false, "roll-out under way: " + seen, err
		}
		return answering(ctx, c, api, Watcher, int(want))
	})
	if err != nil {
		return err
	}
	progress("  the watchers run")
	if err := observe.NodesWhole(ctx, api, nodes); err != nil {
		return err
	}
	progress("  every node can restore, and has permission to run protected pods")
	return admitted(ctx, api)
}

func systemKey(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: name}
}

func labels(name string) client.MatchingLabels {
	return client.MatchingLabels{"app.kubernetes.io/name": name}
}

// answering says whether exactly the wanted number of a component's pods exist and
// each passes its own readiness probe.
func answering(ctx context.Context, c *cluster.Cluster, api client.Client, name string, want int) (bool, string, error) {
	var pods corev1.PodList
	if err := api.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace), labels(name)); err != nil {
		return false, "", err
	}
	seen, err := observe.DescribePods(ctx, api, v1alpha1.SystemNamespace, labels(name))
	if err != nil || len(pods.Items) != want {
		return false, fmt.Sprintf("%d of %d pods: %s", len(pods.Items), want, seen), err
	}
	for i := range pods.Items {
		if err := probe(ctx, c, &pods.Items[i]); err != nil {
			return false, seen, fmt.Errorf("%s on %s: %w; pods: %s", pods.Items[i].Name, pods.Items[i].Spec.NodeName, err, seen)
		}
	}
	return true, "", nil
}

// probe passes when a pod is ready and answers its readiness probes right now.
func probe(ctx context.Context, c *cluster.Cluster, pod *corev1.Pod) error {
	if !observe.Ready(pod) {
		return fmt.Errorf("not ready")
	}
	for _, container := range pod.Spec.Containers {
		if container.ReadinessProbe == nil || container.ReadinessProbe.HTTPGet == nil {
			continue
		}
		get := container.ReadinessProbe.HTTPGet
		url := fmt.Sprintf("http://%s%s", net.JoinHostPort(pod.Status.PodIP, get.Port.String()), get.Path)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := HTTP(c).Do(request)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
	}
	return ctx.Err()
}

// HTTP returns a client that reaches the addresses of a cluster's pods and nodes.
func HTTP(c *cluster.Cluster) *http.Client {
	return &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true},
	}
}

// admitted waits until a protected pod gets Lifeboat's runtime class at admission.
// The pod is not created for that.
func admitted(ctx context.Context, api client.Client) error {
	return observe.Until(ctx, "protected pods are admitted as such", func(ctx context.Context) (bool, string, error) {
		pod := workload.Pod(metav1.NamespaceDefault)
		if err := api.Create(ctx, pod, client.DryRunAll); err != nil && !apierrors.IsAlreadyExists(err) {
			return false, "", err
		}
		class := pod.Spec.RuntimeClassName
		return class != nil && *class == v1alpha1.RuntimeClassName, "a pod without a runtime class", nil
	})
}
