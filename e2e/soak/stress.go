package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
)

// loadImage is the image of the load program, for the memory load of each node.
const loadImage = "lifeboat.dev/load:dev"

// loadNamespace holds the pods of the memory load.
const loadNamespace = "load"

// onNode is where the load program lies on a node, in memory.
const onNode = "/run/load"

const (
	// The pod of the memory load may have podMemory, keeps podTouched of it in use, and
	// writes files of podFiles beside it: together they do not fit, so that the kernel
	// has to make room all the time.
	podMemory, podTouched, podFiles = 512 << 20, 440 << 20, 256 << 20
	// reserve is what the bursts leave available of the machine's memory.
	reserve = 4 << 30
	// A burst comes every burstEvery and lasts burstFor.
	burstEvery, burstFor = time.Minute, 10 * time.Second
)

// stress keeps a cluster's nodes and the host busy.
type stress struct {
	cluster *cluster.Cluster
	nodes   []string
	// binary is the load program on the host, dir a folder on the cluster's disk.
	binary, dir string
	// burstMemory is how much memory a burst takes in bytes.
	burstMemory int64
	// level multiplies the processors' and the disk's load.
	level int

	running sync.WaitGroup
	mu      sync.Mutex
	err     error // the first end of a load that was not told to end
}

// buildLoad builds the load program and its image into a folder.
func buildLoad(ctx context.Context, module, folder string) (binary, archive string, err error) {
	binary, archive = filepath.Join(folder, "load"), filepath.Join(folder, "load.tar")
	if err := image.GoBinary(ctx, module, "./e2e/soak/load", binary); err != nil {
		return "", "", err
	}
	return binary, archive, image.FromBinary(archive, loadImage, binary)
}

// install puts the load program onto every node.
func (s *stress) install(ctx context.Context) error {
	for _, node := range s.nodes {
		if err := s.installOn(ctx, node); err != nil {
			return fmt.Errorf("install the load program on %s: %w", node, err)
		}
	}
	return nil
}

func (s *stress) installOn(ctx context.Context, node string) (err error) {
	program, err := os.Open(s.binary)
	if err != nil {
		return err
	}
	defer program.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	code, err := s.cluster.NodeExecFiles(ctx, node, program, null, null, "sh", "-c", "cat > "+onNode+" && chmod 755 "+onNode)
	if err == nil && code != 0 {
		err = fmt.Errorf("the shell ended with %d", code)
	}
	return err
}

// run keeps everything busy until ctx ends, and then waits until nothing of it is left.
func (s *stress) run(ctx context.Context) error {
	s.add(ctx)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(burstEvery - burstFor):
			burst, end := context.WithTimeout(ctx, burstFor)
			s.burst(burst)
			<-burst.Done()
			end()
		}
	}
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// add puts a spinner for each processor onto the nodes, and as many onto the host, and
// one writer on both sides; all of them times the level.
func (s *stress) add(ctx context.Context) {
	spinners := runtime.NumCPU() * s.level
	for n := range spinners {
		s.on(ctx, s.nodes[n%len(s.nodes)], "spin", "--threads", "1")
	}
	s.onHost(ctx, "spin", "--threads", strconv.Itoa(spinners))
	for n := range s.level {
		s.on(ctx, s.nodes[n%len(s.nodes)], "fsync", "--threads", "1", "--dir", "/var/tmp")
	}
	s.onHost(ctx, "fsync", "--threads", strconv.Itoa(s.level), "--dir", s.dir)
}

// burst adds as much again of every load, and memory.
func (s *stress) burst(ctx context.Context) {
	s.add(ctx)
	s.on(ctx, s.nodes[0], "memory", "--bytes", strconv.FormatInt(s.burstMemory, 10), "--reserve", strconv.FormatInt(reserve, 10))
}

// on runs the load program on a node, in the machine's own control group, beside
// kubelet and containerd.
func (s *stress) on(ctx context.Context, node string, args ...string) {
	s.running.Go(func() {
		_, err := s.cluster.NodeExec(ctx, node, append([]string{onNode}, args...)...)
		s.ended(ctx, "on "+node, args[0], err)
	})
}

// onHost runs it outside the cluster's control groups.
func (s *stress) onHost(ctx context.Context, args ...string) {
	s.running.Go(func() {
		// A parent's death is signalled when its thread ends, so the thread stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := exec.CommandContext(ctx, s.binary, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		s.ended(ctx, "on the host", args[0], cmd.Run())
	})
}

// ended notes the end of a load that was not told to end: without it, less is measured.
func (s *stress) ended(ctx context.Context, where, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, fmt.Errorf("the load %q %s ended early: %w", what, where, err))
}

// memoryPods are pods that always need a little more memory than they may have: one for
// each level, on nodes of their own.
func (s *stress) memoryPods() []client.Object {
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: loadNamespace}}}
	for _, node := range s.nodes[:min(s.level, len(s.nodes))] {
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "memory-" + node, Namespace: loadNamespace},
			Spec: corev1.PodSpec{
				NodeName:                      node,
				TerminationGracePeriodSeconds: new(int64),
				Volumes:                       []corev1.Volume{{Name: "files", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
				Containers: []corev1.Container{{
					Name: "memory", Image: loadImage, ImagePullPolicy: corev1.PullIfNotPresent,
					Args: []string{
						"memory", fmt.Sprintf("--bytes=%d", podTouched), fmt.Sprintf("--files=%d", podFiles),
						"--dir=/files", fmt.Sprintf("--reserve=%d", reserve),
					},
					VolumeMounts: []corev1.VolumeMount{{Name: "files", MountPath: "/files"}},
					Resources: corev1.ResourceRequirements{
						Limits: corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(podMemory, resource.BinarySI)},
						// Little is asked for, so that it fits beside everything else.
						Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")},
					},
				}},
			},
		})
	}
	return objects
}
