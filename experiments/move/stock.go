package move

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
	"github.com/lifeboat-dev/lifeboat/experiments/subject"
)

// stock is what one can do with stock runc: checkpoint, copy, restore with all memory
// first. It is what the kubelet's checkpoint API amounts to, with somebody who carries
// the checkpoint to another node and restores it there.
//
// It is given the best case: the pod that takes over has its place, its network and its
// image before the move is asked for, checkpoints lie in memory, and nothing encrypts
// them on their way.
type stock struct {
	waiting *corev1.Pod
	// container is the restored container's name in runc.
	container string
}

// Folders and files on the nodes.
const (
	stockFolder  = "/run/lifeboat-experiments"
	stockImages  = stockFolder + "/images"
	stockWork    = stockFolder + "/work"
	stockBundle  = stockFolder + "/bundle"
	stockOptions = stockFolder + "/restore.conf"
	// CRIU's options for a checkpoint by runc of a container that names none itself.
	criuFolder  = "/etc/criu"
	dumpOptions = criuFolder + "/runc.conf"
	bundles     = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
	kubeletPods = "/var/lib/kubelet/pods"
	emptyDirs   = "volumes/kubernetes.io~empty-dir"
)

// runc is the program with where containerd has it keep its state.
var runc = []string{"runc", "--root", "/run/containerd/runc/k8s.io"}

// checkpointArguments have runc checkpoint a container, which ends with that.
func checkpointArguments(container string) []string {
	return []string{"checkpoint", "--tcp-established", "--file-locks", "--ext-unix-sk", "--image-path", stockImages, "--work-path", stockWork, container}
}

// restoreArguments have runc restore a container from the copied checkpoint.
func restoreArguments(container string) []string {
	return []string{"restore", "--detach", "--bundle", stockBundle, "--image-path", stockImages, "--work-path", stockWork, container}
}

// restoreOptions are CRIU's, which runc has no flags for. Connections are closed: the new
// pod has another address.
const restoreOptions = `tcp-close
skip-in-flight
network-lock skip
manage-cgroups=ignore
ext-unix-sk
file-locks
`

// Prepare starts the pod that takes over, on another node.
func (t *stock) Prepare(ctx context.Context, s *Scene) error {
	nodes, err := s.Cluster.Nodes()
	if err != nil {
		return err
	}
	waiting := subject.Waiting(s.Cell, s.Namespace, subject.Name+"-next")
	for _, node := range nodes {
		if node.Name != s.Pod.Spec.NodeName && node.PoweredOn {
			waiting.Spec.NodeName = node.Name
		}
	}
	if err := s.API.Create(ctx, waiting); err != nil {
		return fmt.Errorf("create the pod that takes over: %w", err)
	}
	if _, err := s.Cluster.NodeExec(ctx, s.Pod.Spec.NodeName, "mkdir", "-p", criuFolder); err != nil {
		return err
	}
	// Under load some connection is always about to be made, and without this the
	// checkpoint fails.
	if err := writeFile(ctx, s, s.Pod.Spec.NodeName, dumpOptions, []byte("skip-in-flight\n")); err != nil {
		return err
	}
	t.waiting, t.container = waiting, "stock-"+string(waiting.UID)
	err = observe.Until(ctx, "the pod that takes over runs", func(ctx context.Context) (bool, string, error) {
		err := s.API.Get(ctx, client.ObjectKeyFromObject(waiting), waiting)
		return err == nil && waiting.Status.Phase == corev1.PodRunning, string(waiting.Status.Phase), err
	})
	if err != nil {
		return err
	}
	return t.bundle(ctx, s)
}

// bundle makes the bundle of the container that is to be restored: that of the one that
// waits, under another name.
func (t *stock) bundle(ctx context.Context, s *Scene) error {
	node, id := t.waiting.Spec.NodeName, containerID(t.waiting)
	raw, err := s.Cluster.NodeExec(ctx, node, "cat", path.Join(bundles, id, "config.json"))
	if err != nil {
		return fmt.Errorf("read the waiting container's configuration: %w", err)
	}
	config, err := rename(raw, path.Join(bundles, id, "rootfs"), id, t.container)
	if err != nil {
		return err
	}
	if _, err := s.Cluster.NodeExec(ctx, node, "mkdir", "-p", stockBundle, stockWork); err != nil {
		return err
	}
	return errors.Join(
		writeFile(ctx, s, node, path.Join(stockBundle, "config.json"), config),
		writeFile(ctx, s, node, stockOptions, []byte(restoreOptions)),
	)
}

// rename changes a container's configuration so that runc can use it beside the container
// that it was made for.
func rename(raw []byte, rootfs, old, fresh string) ([]byte, error) {
	var config map[string]any
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("read the waiting container's configuration: %w", err)
	}
	root, hasRoot := config["root"].(map[string]any)
	linux, hasLinux := config["linux"].(map[string]any)
	annotations, hasAnnotations := config["annotations"].(map[string]any)
	if !hasRoot || !hasLinux || !hasAnnotations {
		return nil, errors.New("the waiting container's configuration has no root, no linux or no annotations")
	}
	root["path"] = rootfs
	group, _ := linux["cgroupsPath"].(string)
	if !strings.Contains(group, old) {
		return nil, fmt.Errorf("the waiting container's cgroup %q does not name it", group)
	}
	linux["cgroupsPath"] = strings.ReplaceAll(group, old, fresh)
	annotations["org.criu.config"] = stockOptions
	return json.Marshal(config)
}

func (t *stock) Move(ctx context.Context, s *Scene) (Outcome, error) {
	source, target := s.Pod.Spec.NodeName, t.waiting.Spec.NodeName
	if _, err := s.Cluster.NodeExec(ctx, source, "mkdir", "-p", stockImages, stockWork); err != nil {
		return newOutcome(), err
	}
	o := newOutcome()
	// The old endpoint leaves first.
	patch := client.MergeFrom(s.Pod.DeepCopy())
	delete(s.Pod.Labels, "app")
	if err := s.API.Patch(ctx, s.Pod, patch); err != nil {
		return o, fmt.Errorf("take pod %s out of its Service: %w", s.Pod.Name, err)
	}
	begin := time.Now()
	_, err := s.Cluster.NodeExec(ctx, source, slices.Concat(runc, checkpointArguments(containerID(s.Pod)))...)
	if err != nil {
		return t.failed(ctx, s, o, "checkpoint", source, "dump.log", err)
	}
	o.Pause = time.Since(begin).Seconds()
	o.note("Checkpointed")
	if o.Bytes, err = t.copy(ctx, s, source, target); err != nil {
		return o, err
	}
	o.note("Copied")
	_, err = s.Cluster.NodeExec(ctx, target, slices.Concat(runc, restoreArguments(t.container))...)
	if err != nil {
		return t.failed(ctx, s, o, "restore", target, "restore.log", err)
	}
	o.note("Restored")
	err = observe.Until(ctx, "the restored pod is ready", func(ctx context.Context) (bool, string, error) {
		err := s.API.Get(ctx, client.ObjectKeyFromObject(t.waiting), t.waiting)
		return err == nil && observe.Ready(t.waiting), string(t.waiting.Status.Phase), err
	})
	if err != nil {
		return o, err
	}
	o.note(string(v1alpha1.PhaseReady))
	o.DoneAt, o.Result, o.RPO = time.Now(), matrix.ResultMoved, 0
	return o, client.IgnoreNotFound(s.API.Delete(ctx, s.Pod, client.GracePeriodSeconds(0)))
}

// failed is the outcome of a move that runc or CRIU could not make.
func (t *stock) failed(ctx context.Context, s *Scene, o Outcome, step, node, log string, err error) (Outcome, error) {
	if ctx.Err() != nil {
		return o, err
	}
	o.DoneAt, o.Result, o.Reason, o.Message = time.Now(), string(v1alpha1.ResultFailed), "runc "+step, err.Error()
	if why, err := s.Cluster.NodeExec(ctx, node, "grep", "-m", "3", "Error", path.Join(stockWork, log)); err == nil {
		o.Message += ": " + string(bytes.TrimSpace(why))
	}
	return o, nil
}

// copy copies the checkpoint, and the pod's emptyDir volumes, from node to node, and
// returns how many bytes that were.
func (t *stock) copy(ctx context.Context, s *Scene, source, target string) (float64, error) {
	images, err := stream(ctx, s, source, stockImages, target, stockImages)
	emptyDir := func(v corev1.Volume) bool { return v.EmptyDir != nil }
	if err != nil || !slices.ContainsFunc(s.Pod.Spec.Volumes, emptyDir) {
		return images, err
	}
	volumes := func(pod *corev1.Pod) string { return path.Join(kubeletPods, string(pod.UID), emptyDirs) }
	files, err := stream(ctx, s, source, volumes(s.Pod), target, volumes(t.waiting))
	return images + files, err
}

// Clean ends the restored container, which nobody else knows of, and removes the files.
func (t *stock) Clean(ctx context.Context, s *Scene) error {
	nodes := []string{s.Pod.Spec.NodeName}
	if t.waiting != nil {
		node := t.waiting.Spec.NodeName
		nodes = append(nodes, node)
		// There is none where the restore failed.
		_, _ = s.Cluster.NodeExec(ctx, node, slices.Concat(runc, []string{"delete", "--force", t.container})...)
	}
	var err error
	for _, node := range nodes {
		_, removed := s.Cluster.NodeExec(ctx, node, "rm", "-rf", stockFolder, dumpOptions)
		err = errors.Join(err, removed)
	}
	return err
}

// containerID is the ID of a pod's container.
func containerID(pod *corev1.Pod) string {
	if len(pod.Status.ContainerStatuses) == 0 {
		return ""
	}
	return strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
}
