package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
)

// Folders of containerd and kubelet, as seen on the node.
const (
	containerdBundles  = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
	containerdSandboxs = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes"
	runcStates         = "/run/containerd/runc/k8s.io"
	kubeletPods        = "/var/lib/kubelet/pods"
)

// errNotRunning means that not every container of a pod runs yet.
var errNotRunning = errors.New("not every container of the pod runs")

// containers asks the container runtime of the node for the containers of a pod.
type containers struct {
	runtime cri.RuntimeServiceClient
}

// dialRuntime connects to the CRI socket. The connection is made when it is first used.
func dialRuntime(socket string) (*containers, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to the container runtime at %s: %w", socket, err)
	}
	return &containers{runtime: cri.NewRuntimeServiceClient(conn)}, nil
}

// target finds what must be checkpointed of a pod: its running containers,
// emptyDir volumes and shared memory. It returns errNotRunning when a container
// of the pod's spec does not run.
func (c *containers) target(ctx context.Context, host criu.Host, pod *corev1.Pod) (criu.PodTarget, error) {
	target := criu.PodTarget{
		Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID),
		EmptyDirs: emptyDirs(pod), Hostname: pod.Name,
	}
	if pod.Spec.Hostname != "" {
		target.Hostname = pod.Spec.Hostname
	}
	list, err := c.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State:         &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)},
	}})
	if err != nil {
		return target, fmt.Errorf("list the containers of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	running := map[string]*cri.Container{}
	for _, found := range list.Containers {
		running[found.GetMetadata().GetName()] = found
	}
	lasting := v1alpha1.LastingContainers(pod)
	for name, found := range running {
		if !slices.Contains(lasting, name) {
			target.Others = append(target.Others, filepath.Join(runcStates, found.Id))
		}
	}
	for _, name := range lasting {
		found, ok := running[name]
		if !ok {
			return target, fmt.Errorf("%w: %s", errNotRunning, name)
		}
		pid, err := initPid(host, found.Id)
		if err != nil {
			return target, err
		}
		target.ShmDir = filepath.Join(containerdSandboxs, found.PodSandboxId, "shm")
		target.Containers = append(target.Containers, criu.Target{
			Container: client.Container{
				ID: found.Id, Name: name, Namespace: pod.Namespace, PodName: pod.Name,
				PodUID: string(pod.UID), SandboxID: found.PodSandboxId,
			},
			Pid:          pid,
			BundleDir:    filepath.Join(containerdBundles, found.Id),
			RuncStateDir: filepath.Join(runcStates, found.Id),
		})
	}
	return target, nil
}

// emptyDirs are the pod's emptyDir volumes and their folders on the node.
func emptyDirs(pod *corev1.Pod) map[string]string {
	dirs := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		if v.EmptyDir != nil {
			dirs[v.Name] = filepath.Join(kubeletPods, string(pod.UID), "volumes", "kubernetes.io~empty-dir", v.Name)
		}
	}
	return dirs
}

// initPid is the process ID of a container's first process.
func initPid(host criu.Host, containerID string) (int, error) {
	pid, err := client.FirstProcess(filepath.Join(host.Root, runcStates), host.ProcRoot, containerID)
	if err != nil {
		return 0, fmt.Errorf("look for the first process of container %s: %w", containerID, err)
	}
	return pid, nil
}
