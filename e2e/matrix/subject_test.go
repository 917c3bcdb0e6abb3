package matrix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// subject is one program in its pod, with all that is found out about it. Each
// has a namespace of its own, so that metrics tell subjects apart.
type subject struct {
	program
	*lab
	name, namespace string
	// pod is the program's pod: the first one, and from the loss on its successor.
	pod  *corev1.Pod
	load *load
	acks []ack
	figures
	// migration is nil when the loss was not followed by one.
	migration *v1alpha1.Migration
	// err is what speaks against the program having been checkpointed as wanted.
	err error
}

// start runs the program and lets clients work with it.
func (s *subject) start() error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}}
	if run := s.setup(); run.file != "" {
		objects = append(objects, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "program", Namespace: s.namespace}, Data: map[string]string{run.file: run.content},
		})
	}
	for _, object := range append(objects, s.manifest()) {
		if err := s.api.Create(ctx, object); err != nil {
			return fmt.Errorf("create %T %s: %w", object, object.GetName(), err)
		}
	}
	var err error
	if s.pod, err = s.ready(ctx); err != nil {
		return err
	}
	if err := s.fill(ctx, s); err != nil {
		return fmt.Errorf("fill %s: %w", s.name, err)
	}
	if s.load, err = startLoad(s.ctx, s); err != nil {
		return fmt.Errorf("connect with %s: %w", s.name, err)
	}
	return nil
}

// manifest is the program's pod, as its user would write it.
func (s *subject) manifest() *corev1.Pod {
	run := s.setup()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.name, Namespace: s.namespace, Labels: map[string]string{"app": s.name},
			Annotations: map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: interval.String()},
		},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{placement: ""},
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Volumes:                       []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{{
				Name: s.name, Image: programsImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: run.command,
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
				ReadinessProbe: &corev1.Probe{
					PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(run.port)}},
				},
			}},
		},
	}
	if run.user != 0 {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &run.user, RunAsGroup: &run.user, RunAsNonRoot: ptr.To(true)}
	}
	if run.file != "" {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "program", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "program"}},
		}})
		mounts := &pod.Spec.Containers[0].VolumeMounts
		*mounts = append(*mounts, corev1.VolumeMount{Name: "program", MountPath: "/program"})
	}
	return pod
}

func (s *subject) ready(ctx context.Context) (*corev1.Pod, error) {
	return observe.ReadyPod(ctx, s.api, s.namespace, client.MatchingLabels{"app": s.name})
}

// deadline is a context that ends with the test, and bounds one wait.
func (s *subject) deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(s.ctx, checkLimit)
	t.Cleanup(cancel)
	return ctx
}

// dial connects with a port of the program's pod.
func (s *subject) dial(ctx context.Context, port int) (net.Conn, error) {
	return s.cluster.Dial(ctx, "tcp", net.JoinHostPort(s.pod.Status.PodIP, strconv.Itoa(port)))
}

// exec runs a command in the program's container, as kubectl does, and returns
// what it writes.
func (s *subject) exec(ctx context.Context, argv ...string) (string, error) {
	args := []string{"--kubeconfig", s.cluster.Kubeconfig(), "--namespace", s.namespace, "exec", s.pod.Name, "--"}
	output, err := exec.CommandContext(ctx, s.cluster.Kubectl(), append(args, argv...)...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return string(output), fmt.Errorf("run %s in pod %s: %w", argv[0], s.pod.Name, err)
	}
	return string(output), nil
}

// logs is what the program's container has written.
func (s *subject) logs(ctx context.Context) (string, error) {
	return s.lab.logs(ctx, s.pod, s.name)
}

// takenAt is the moment whose state came back, startedAt when the restore began.
func (s *subject) takenAt() time.Time   { return s.migration.Status.Restore.TakenAt.Time }
func (s *subject) startedAt() time.Time { return s.migration.Status.Restore.StartedAt.Time }

// recovered waits until the loss of the program's pod has its result, and takes up
// the successor.
func (s *subject) recovered() error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var err error
	if s.migration, err = observe.Closed(ctx, s.api, s.pod); err != nil {
		return err
	}
	pod, err := s.ready(ctx)
	if err == nil {
		s.pod = pod
	}
	return err
}

// judge checks that the program came back as it was and goes on.
func (s *subject) judge(t *testing.T) {
	if s.err != nil {
		t.Error(s.err)
	}
	if s.migration == nil {
		t.Fatal("the loss of the node was not followed by a Migration with a result")
	}
	status := s.migration.Status
	if status.Result != v1alpha1.ResultRestored || status.Restore == nil || status.Restore.TakenAt == nil {
		t.Fatalf("result %q: %s: %s; restore: %+v", status.Result, status.Reason, status.Message, status.Restore)
	}
	t.Logf("generation %d on node %s; RTO %s, RPO %s", status.Restore.Generation, s.pod.Spec.NodeName, status.RTO, status.RPO)
	s.judgeNumbers(t)
	s.check(t, s)
	err := observe.Until(s.deadline(t), fmt.Sprintf("the log of the new pod has %q", s.mark()), func(ctx context.Context) (bool, string, error) {
		text, err := s.logs(ctx)
		return strings.Contains(text, s.mark()), fmt.Sprintf("%d bytes: %.500s", len(text), text), err
	})
	if err != nil {
		t.Error(err)
	}
}

// judgeNumbers checks that what the program counts goes on from where it was at
// the checkpoint: not from before it, and without a leap.
func (s *subject) judgeNumbers(t *testing.T) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	session, err := s.open(ctx, s)
	if err != nil {
		t.Fatalf("a new client is not served: %v", err)
	}
	defer session.Close()
	first, err := session.step()
	if err != nil {
		t.Fatalf("a new client is not served: %v", err)
	}
	since := time.Since(s.startedAt())
	for i, number := range s.numbers() {
		before, after, known := around(s.acks, i, s.takenAt())
		if first[i] < before {
			t.Errorf("%s: %d were counted before the checkpoint, and %d are after the restore", number.name, before, first[i])
		}
		// One more than was acknowledged may have been under way, and one is this step's.
		most := after + 2 + int64(min(number.perSecond*(since+time.Second).Seconds(), 1e12))
		if known && first[i] > most {
			t.Errorf("%s: %d were counted just after the checkpoint, and %d are %s after the restore began: more than %d",
				number.name, after, first[i], since.Round(time.Millisecond), most)
		}
	}
	err = observe.Until(s.deadline(t), "the program counts on", func(context.Context) (bool, string, error) {
		now, err := session.step()
		if err != nil {
			return false, "", &observe.Hopeless{Err: err}
		}
		for i := range first {
			if now[i] <= first[i] {
				return false, fmt.Sprintf("%s %d, from %d", s.numbers()[i].name, now[i], first[i]), nil
			}
		}
		return true, "", nil
	})
	if err != nil {
		t.Error(err)
	}
}
