package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// podsOfOwner is how many pods each controller has.
const podsOfOwner = 10

// newPod is a pod as a StatefulSet makes it, in Lifeboat's profile.
func newPod(name, owner string, protected bool) *corev1.Pod {
	asked := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("256Mi")}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": owner},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: owner, UID: ownerUID(owner), Controller: ptr.To(true)}}},
		Spec: corev1.PodSpec{
			SchedulerName: v1alpha1.SchedulerName,
			Containers: []corev1.Container{{Name: "main", Image: "registry.example/team/program-1:v1",
				Resources: corev1.ResourceRequirements{Requests: asked}}},
			TerminationGracePeriodSeconds: ptr.To[int64](0),
		},
	}
	if protected { // as admission makes it
		pod.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName)
		pod.Annotations = map[string]string{v1alpha1.AnnotationFailover: "true"}
	}
	return pod
}

func ownerOf(i int) string { return fmt.Sprintf("set-%04d", i/podsOfOwner) }

func ownerUID(owner string) types.UID { return types.UID("uid-of-" + owner) }

// batch are the pods that are placed in one run.
type batch struct {
	names     []string
	protected bool
	// lost has a lost pod of the same name for each: they are successors.
	lost bool
}

func newBatch(prefix string, n int, v variant) batch {
	b := batch{protected: v.protected, lost: v.successors}
	for i := range n {
		b.names = append(b.names, fmt.Sprintf("%s-%04d", prefix, i))
	}
	return b
}

func (b batch) pod(i int) *corev1.Pod { return newPod(b.names[i], ownerOf(i), b.protected) }

// holders are the nodes that hold the checkpoint of the lost pod.
func (b batch) holders(i, nodes int) []string {
	// Not the first node: it is the lost one.
	return []string{nodeName(1 + (7*i)%(nodes-1)), nodeName(1 + (7*i+3)%(nodes-1))}
}

// createMigrations records the loss of the batch's predecessors with the first node.
func (p *plane) createMigrations(ctx context.Context, b batch, nodes int) error {
	if !b.lost {
		return nil
	}
	return each(ctx, len(b.names), func(ctx context.Context, i int) error {
		owner, lost := ownerOf(i), metav1.NowMicro()
		return p.createWhole(ctx, &v1alpha1.Migration{
			ObjectMeta: metav1.ObjectMeta{Name: b.names[i] + "-2", Namespace: namespace},
			Spec: v1alpha1.MigrationSpec{
				Pod: v1alpha1.PodIdentity{Name: b.names[i], UID: types.UID("lost-" + b.names[i]),
					OwnerKind: "StatefulSet", OwnerName: owner, OwnerUID: ownerUID(owner)},
				SourceNode: nodeName(0), Strategy: v1alpha1.StrategyFailover, Reason: v1alpha1.MigrationNodeLost, Epoch: 2, LostAt: lost,
			},
			Status: v1alpha1.MigrationStatus{
				Phase:      v1alpha1.PhaseDeleted,
				Phases:     []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseDeleted, At: lost}},
				Checkpoint: &v1alpha1.HeldCheckpoint{Generation: 7, TakenAt: lost, Bytes: 64 << 20, Holders: b.holders(i, nodes)},
			},
		})
	})
}

// removeAll removes all pods and Migrations, and waits until they are gone.
func (p *plane) removeAll(ctx context.Context) error {
	for _, kind := range []client.Object{&corev1.Pod{}, &v1alpha1.Migration{}} {
		if err := p.DeleteAllOf(ctx, kind, client.InNamespace(namespace), client.GracePeriodSeconds(0)); err != nil {
			return err
		}
	}
	return until(ctx, time.Minute, "all pods and migrations are gone", func(ctx context.Context) error {
		for _, list := range []client.ObjectList{&corev1.PodList{}, &v1alpha1.MigrationList{}} {
			if err := p.List(ctx, list, client.InNamespace(namespace), client.Limit(1)); err != nil {
				return err
			}
			if pods, ok := list.(*corev1.PodList); ok && len(pods.Items) > 0 {
				return fmt.Errorf("pod %s is still there", pods.Items[0].Name)
			}
			if migrations, ok := list.(*v1alpha1.MigrationList); ok && len(migrations.Items) > 0 {
				return fmt.Errorf("migration %s is still there", migrations.Items[0].Name)
			}
		}
		return nil
	})
}

// setFence changes the state of a node's fence record.
func (p *plane) setFence(ctx context.Context, node string, state v1alpha1.FenceState) error {
	fence := &v1alpha1.Fence{}
	if err := p.Get(ctx, client.ObjectKey{Name: node}, fence); err != nil {
		return err
	}
	fence.Spec.State = state
	return p.Update(ctx, fence)
}
