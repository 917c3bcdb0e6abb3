package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// leaseEvery is how often a kubelet renews its Lease.
	leaseEvery = 10 * time.Second
	// generation is what every pod's newest one has as its number.
	generation = 7
)

// population are the protected pods of a cluster, the same number on each node.
type population struct {
	p              *plane
	holders        *holders
	nodes, perNode int

	leases []*coordinationv1.Lease
	// lost is whether the first node has ended.
	lost atomic.Bool
}

func podName(i int) string { return fmt.Sprintf("pod-%05d", i) }

// create makes the Leases, and the pods with their Checkpoints.
func (w *population) create(ctx context.Context) error {
	w.leases = make([]*coordinationv1.Lease, w.nodes)
	err := each(ctx, w.nodes, func(ctx context.Context, i int) error {
		now := metav1.NowMicro()
		w.leases[i] = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Namespace: corev1.NamespaceNodeLease},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To(nodeName(i)), LeaseDurationSeconds: ptr.To[int32](40), RenewTime: &now}}
		return w.p.Create(ctx, w.leases[i])
	})
	if err != nil {
		return err
	}
	uids := make([]types.UID, w.nodes*w.perNode)
	err = each(ctx, len(uids), func(ctx context.Context, i int) error {
		pod := w.pod(i)
		if err := w.p.createWhole(ctx, pod); err != nil {
			return err
		}
		uids[i] = pod.UID
		return w.p.createWhole(ctx, w.checkpoint(i, pod.UID))
	})
	for i, uid := range uids {
		w.holders.held[string(uid)] = []string{w.holders.address(w.holder(i, 1)), w.holders.address(w.holder(i, 2))}
	}
	return err
}

// holder is a node that holds a pod's checkpoint. It is not the pod's own.
func (w *population) holder(i, n int) int { return (i/w.perNode + n) % w.nodes }

// pod is a pod that runs, as its kubelet reports it.
func (w *population) pod(i int) *corev1.Pod {
	pod := newPod(podName(i), ownerOf(i), true)
	pod.Spec.NodeName = nodeName(i / w.perNode)
	started := metav1.Now()
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &started, PodIP: "10.0.0.1", HostIP: "10.0.0.2", QOSClass: corev1.PodQOSBurstable,
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "main", Ready: true, Started: ptr.To(true), Image: "registry.example/team/program-1:v1",
			ImageID:     "registry.example/team/program-1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			ContainerID: "containerd://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}},
		}},
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: started})
	}
	return pod
}

func (w *population) checkpoint(i int, uid types.UID) *v1alpha1.Checkpoint {
	return &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{Name: podName(i), Namespace: namespace},
		Spec:       v1alpha1.CheckpointSpec{PodUID: uid, NodeName: nodeName(i / w.perNode)},
		Status: v1alpha1.CheckpointStatus{
			Generation: generation, Epoch: 1, TakenAt: ptr.To(metav1.NowMicro()), DurableAt: ptr.To(metav1.NowMicro()), PauseSeconds: 0.03, Pause: "30ms",
			Bytes: 64 << 20, NewBytes: 1 << 20, Size: "64Mi", Holders: []string{nodeName(w.holder(i, 1)), nodeName(w.holder(i, 2))},
			Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionProtected, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProtected, LastTransitionTime: metav1.Now()},
				{Type: v1alpha1.ConditionCheckpointable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonNothingFound, LastTransitionTime: metav1.Now()},
			},
		},
	}
}

// renew renews the Lease of a node, unless it is lost.
func (w *population) renew(ctx context.Context, i int) error {
	if i == 0 && w.lost.Load() {
		return nil
	}
	w.leases[i].Spec.RenewTime = ptr.To(metav1.NowMicro())
	return w.p.Update(ctx, w.leases[i])
}

// report has the checkpointer of a pod's node report the pod's next checkpoint. It
// has the same number, so that holders need not keep up.
func (w *population) report(ctx context.Context, i int) error {
	if i < w.perNode && w.lost.Load() {
		return nil
	}
	now := metav1.NowMicro()
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"takenAt": now, "durableAt": now}})
	if err != nil {
		return err
	}
	checkpoint := &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Name: podName(i), Namespace: namespace}}
	return w.p.Status().Patch(ctx, checkpoint, client.RawPatch(types.MergePatchType, patch))
}

// tellLoad has the checkpointer of a node tell how busy the node is.
func (w *population) tellLoad(ctx context.Context, i int) error {
	if i == 0 && w.lost.Load() {
		return nil
	}
	load := v1alpha1.NodeLoad{At: metav1.Now(), CPUPressure: int32(time.Now().Second() / 3), MemoryAvailableBytes: 64 << 30}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"load": load}})
	if err != nil {
		return err
	}
	fence := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
	return w.p.Status().Patch(ctx, fence, client.RawPatch(types.MergePatchType, patch))
}
