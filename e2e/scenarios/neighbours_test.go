package scenarios

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// unprotected is a cart without annotations, beside the shop's own.
func unprotected(namespace, node string) *corev1.Pod {
	pod := workload.Pod(namespace)
	pod.Name = "plain"
	pod.Annotations = nil
	pod.Labels = map[string]string{"app": "plain"}
	if node != "" {
		pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	}
	return pod
}

func TestUnprotectedPodIsLeftAlone(t *testing.T) {
	namespace := scene(t, "alone")
	shop := openShop(t, namespace, workload.StatefulSet(namespace))
	protected, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	create(t, unprotected(namespace, protected.Spec.NodeName))
	before, err := observe.ReadyPod(deadline(t), api, namespace, client.MatchingLabels{"app": "plain"})
	if err != nil {
		t.Fatal(err)
	}
	if before.Spec.RuntimeClassName != nil || before.Spec.SchedulerName != corev1.DefaultSchedulerName {
		t.Errorf("admission gave an unprotected pod runtime class %v and scheduler %q", before.Spec.RuntimeClassName, before.Spec.SchedulerName)
	}
	life, err := shop.At(before).Life(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	record := lose(t, shop)
	if err := record.Verdict(); err != nil {
		t.Errorf("the protected pod: %v", err)
	}
	after := &corev1.Pod{}
	if err := api.Get(deadline(t), client.ObjectKeyFromObject(before), after); err != nil {
		t.Fatalf("the unprotected pod: %v", err)
	}
	if after.UID != before.UID || after.DeletionTimestamp != nil || after.Spec.NodeName != record.Source {
		t.Errorf("the unprotected pod is %s on %s, deleted at %v; it was %s on %s", after.UID, after.Spec.NodeName, after.DeletionTimestamp, before.UID, record.Source)
	}
	for _, condition := range after.Status.Conditions {
		if condition.Type == corev1.DisruptionTarget {
			t.Errorf("the unprotected pod has condition %+v", condition)
		}
	}
	// Back with its node, it is the same pod with a new process.
	if err := lab.PowerOn(deadline(t), record.Source); err != nil {
		t.Fatal(err)
	}
	err = observe.Until(deadline(t), "the unprotected pod runs again", func(ctx context.Context) (bool, string, error) {
		if err := api.Get(ctx, client.ObjectKeyFromObject(before), after); err != nil {
			return false, "", &observe.Hopeless{Err: err}
		}
		now, err := shop.At(after).Life(ctx)
		return now.Birth != life.Birth && after.UID == before.UID, now.Birth, err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWrongAnnotationsAreRefused(t *testing.T) {
	namespace := scene(t, "refused")
	for name, test := range map[string]struct{ key, value, allowed string }{
		"not a duration":  {v1alpha1.AnnotationInterval, "banana", "a duration from 1s to 24h0m0s"},
		"too short":       {v1alpha1.AnnotationInterval, "10ms", "a duration from 1s to 24h0m0s"},
		"not a truth":     {v1alpha1.AnnotationFailover, "yes", `"true" or "false"`},
		"no replicas":     {v1alpha1.AnnotationReplicas, "0", "a whole number from 1 to 8"},
		"not about disks": {v1alpha1.AnnotationVolumes, "maybe", `"protect" or "ignore"`},
		"key not known":   {"lifeboat.dev/intervall", "2s", v1alpha1.AnnotationInterval},
	} {
		t.Run(name, func(t *testing.T) {
			pod := workload.Pod(namespace)
			pod.Annotations[test.key] = test.value
			err := api.Create(deadline(t), pod)
			if err == nil {
				t.Fatalf("a pod with %s: %q was admitted", test.key, test.value)
			}
			for _, part := range []string{test.key, `"` + test.value + `"`, test.allowed} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the refusal does not say %s: %v", part, err)
				}
			}
		})
	}
}

func TestPodsAreCreatedWhileLifeboatIsDown(t *testing.T) {
	namespace := scene(t, "down")
	watchers := &appsv1.Deployment{}
	key := types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: deploy.Watcher}
	if err := api.Get(deadline(t), key, watchers); err != nil {
		t.Fatal(err)
	}
	replicas := *watchers.Spec.Replicas
	scale := func(ctx context.Context, to int32) error {
		patch := client.MergeFrom(watchers.DeepCopy())
		watchers.Spec.Replicas = &to
		return api.Patch(ctx, watchers, patch)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := scale(ctx, replicas); err != nil {
			t.Errorf("bring Lifeboat back: %v", err)
		}
	})
	if err := scale(deadline(t), 0); err != nil {
		t.Fatal(err)
	}
	err := observe.Until(deadline(t), "no watcher is left", func(ctx context.Context) (bool, string, error) {
		var pods corev1.PodList
		err := api.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace), client.MatchingLabels{"app.kubernetes.io/name": deploy.Watcher})
		return len(pods.Items) == 0, "some watchers", err
	})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	create(t, workload.Pod(namespace), unprotected(namespace, ""))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("two pods took %s to be created", took)
	}
	for _, labels := range []client.MatchingLabels{workload.Labels, {"app": "plain"}} {
		pod, err := observe.ReadyPod(deadline(t), api, namespace, labels)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := loss.ClientAt(lab, pod, workload.Port).Life(deadline(t)); err != nil {
			t.Errorf("pod %s does not answer: %v", pod.Name, err)
		}
	}
	// What asked for protection and got none is told so.
	err = observe.Until(deadline(t), "the Checkpoint says that the pod is not protected", func(ctx context.Context) (bool, string, error) {
		checkpoint := &v1alpha1.Checkpoint{}
		if err := api.Get(ctx, client.ObjectKeyFromObject(workload.Pod(namespace)), checkpoint); err != nil {
			return false, "", err
		}
		c := meta.FindStatusCondition(checkpoint.Status.Conditions, v1alpha1.ConditionProtected)
		if c == nil {
			return false, "no condition", nil
		}
		return c.Reason == v1alpha1.ReasonNotAdmitted, c.Reason + ": " + c.Message, nil
	})
	if err != nil {
		t.Error(err)
	}
}
