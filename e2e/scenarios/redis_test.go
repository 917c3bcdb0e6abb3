package scenarios

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const (
	redisImage = "lifeboat.dev/redis:dev"
	redisKeys  = 100_000
	// batch is how many keys one round trip writes or reads.
	batch = 1000
)

// redisPod is Debian's redis-server as it comes. It saves nothing by itself; what
// it is told to save goes to an emptyDir volume.
func redisPod(namespace string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "redis", Namespace: namespace, Labels: map[string]string{"app": "redis"},
			Annotations: map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: "2s"},
		},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{{
			Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
		}}, InitContainers: []corev1.Container{{
			// It runs before every start of the pod, and is no part of a checkpoint.
			Name: "prepare", Image: redisImage, ImagePullPolicy: corev1.PullIfNotPresent,
			Command:      []string{"sh", "-c", "touch /data/prepared"},
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
		}}, Containers: []corev1.Container{{
			Name: "redis", Image: redisImage, ImagePullPolicy: corev1.PullIfNotPresent,
			Args:         []string{"redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/data"},
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			ReadinessProbe: &corev1.Probe{
				PeriodSeconds: 1,
				ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(6379)}},
			},
		}}},
	}
}

func TestRedisOutlivesItsNode(t *testing.T) {
	namespace := scene(t, "redis")
	loadRedis(t)
	create(t, redisPod(namespace))
	labels := client.MatchingLabels{"app": "redis"}
	pod, err := observe.ReadyPod(deadline(t), api, namespace, labels)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, pod)
	fill(t, conn)
	before := digestOf(t, conn)
	runID := info(t, conn, "run_id")
	if answer := command[string](t, conn, "SAVE"); answer != "OK" {
		t.Fatalf("redis answers SAVE with %q", answer)
	}
	saved := savedFile(t, pod)

	// A client works on a connection of its own while checkpoints are taken.
	counter := startCounter(t, pod)
	if _, err := observe.Durable(deadline(t), api, pod, 1); err != nil {
		t.Fatal(err)
	}
	checkpoint := &v1alpha1.Checkpoint{}
	if err := api.Get(deadline(t), client.ObjectKeyFromObject(pod), checkpoint); err != nil {
		t.Fatal(err)
	}
	if _, err := observe.Durable(deadline(t), api, pod, checkpoint.Status.Generation+3); err != nil {
		t.Fatal(err)
	}
	if err := counter.failure(); err != nil {
		t.Errorf("the client's connection did not last through the checkpoints: %v", err)
	}
	if err := lab.PowerOff(deadline(t), pod.Spec.NodeName); err != nil {
		t.Fatal(err)
	}
	migration := restored(t, pod)

	after, err := observe.ReadyPod(deadline(t), api, namespace, labels)
	if err != nil {
		t.Fatal(err)
	}
	if file := savedFile(t, after); file != saved {
		t.Errorf("the file in the emptyDir volume is %s, was %s", file, saved)
	}
	conn = connect(t, after)
	if id := info(t, conn, "run_id"); id != runID {
		t.Errorf("another redis process answers: run_id %s, was %s", id, runID)
	}
	if digest := digestOf(t, conn); digest != before {
		t.Errorf("the digest of %d keys is %s, was %s", redisKeys, digest, before)
	}
	if size := command[int64](t, conn, "DBSIZE"); size != redisKeys+1 {
		t.Errorf("redis holds %d keys, held %d", size, redisKeys+1)
	}
	count := command[string](t, conn, "GET", "counter")
	if least := counter.ackedBefore(migration.Status.Restore.TakenAt.Time); count < fmt.Sprintf("%012d", least) {
		t.Errorf("the counter is %s, and %d was acknowledged before the checkpoint", count, least)
	}
	if answer := command[string](t, conn, "SET", "after", "the loss"); answer != "OK" {
		t.Errorf("redis answers a write with %q", answer)
	}
	if answer := command[string](t, conn, "CONFIG", "SET", "loglevel", "verbose"); answer != "OK" {
		t.Errorf("redis answers a change of its log level with %q", answer)
	}
	connect(t, after)
	err = observe.Until(deadline(t), "kubectl logs shows what redis wrote after it was restored", func(ctx context.Context) (bool, string, error) {
		text, err := logOf(ctx, after)
		return strings.Contains(text, "Accepted "), text, err
	})
	if err != nil {
		t.Error(err)
	}
}

// savedFile is the digest and size of what redis saved, as it lies on the node.
func savedFile(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	folder := "/var/lib/kubelet/pods/" + string(pod.UID) + "/volumes/kubernetes.io~empty-dir/data"
	out, err := lab.NodeExec(deadline(t), pod.Spec.NodeName, "sh", "-c", "cd "+folder+" && sha256sum dump.rdb && wc -c dump.rdb")
	if err != nil {
		t.Fatalf("read what redis saved on node %s: %v", pod.Spec.NodeName, err)
	}
	return string(out)
}

// logOf is what a pod has written, as the kubelet serves it.
func logOf(ctx context.Context, pod *corev1.Pod) (string, error) {
	config, err := lab.RESTConfig()
	if err != nil {
		return "", err
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	text, err := clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	return string(text), err
}

// restored waits for the recovery of a lost pod and requires that all of it came back.
func restored(t *testing.T, lost *corev1.Pod) *v1alpha1.Migration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), loss.Patience)
	defer cancel()
	migration, err := observe.Closed(ctx, api, lost)
	if err != nil {
		t.Fatal(err)
	}
	status := migration.Status
	if status.Result != v1alpha1.ResultRestored || status.Restore == nil || status.Restore.TakenAt == nil {
		t.Fatalf("result %q: %s: %s; restore: %+v", status.Result, status.Reason, status.Message, status.Restore)
	}
	for _, c := range status.Restore.Containers {
		if c.Result != v1alpha1.ResultRestored {
			t.Errorf("container %s: %s: %s: %s", c.Name, c.Result, c.Reason, c.Message)
		}
	}
	t.Logf("generation %d; RTO %s, RPO %s", status.Restore.Generation, status.RTO, status.RPO)
	return migration
}

func loadRedis(t *testing.T) {
	t.Helper()
	folder, err := config.Folder()
	if err != nil {
		t.Fatal(err)
	}
	ctx := deadline(t)
	archive, err := image.FromDebian(ctx, filepath.Join(folder, "cache"), redisImage, []string{"redis-server"}, []string{"redis-server"})
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.LoadImage(ctx, archive); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, pod *corev1.Pod) *redisConn {
	t.Helper()
	conn, err := dialRedis(deadline(t), pod.Status.PodIP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// command sends a command and requires a reply of a type.
func command[T any](t *testing.T, conn *redisConn, args ...string) T {
	t.Helper()
	reply, err := conn.do(args...)
	if err != nil {
		t.Fatal(err)
	}
	typed, ok := reply.(T)
	if !ok {
		t.Fatalf("redis %v answers %v", args, reply)
	}
	return typed
}

func key(i int) string { return fmt.Sprintf("key:%06d", i) }

// fill writes all keys with values that differ.
func fill(t *testing.T, conn *redisConn) {
	t.Helper()
	for i := 0; i < redisKeys; i += batch {
		var commands [][]string
		for k := i; k < i+batch; k++ {
			sum := sha256.Sum256([]byte(key(k)))
			commands = append(commands, []string{"SET", key(k), hex.EncodeToString(sum[:])})
		}
		if _, err := conn.pipeline(commands); err != nil {
			t.Fatal(err)
		}
	}
}

// digestOf reads all keys and hashes their values in order.
func digestOf(t *testing.T, conn *redisConn) string {
	t.Helper()
	sum := sha256.New()
	for i := 0; i < redisKeys; i += batch {
		args := []string{"MGET"}
		for k := i; k < i+batch; k++ {
			args = append(args, key(k))
		}
		for _, value := range command[[]any](t, conn, args...) {
			fmt.Fprintf(sum, "%v\n", value)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// info reads one field of the server's description of itself.
func info(t *testing.T, conn *redisConn, field string) string {
	t.Helper()
	for line := range strings.Lines(command[string](t, conn, "INFO", "server")) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), field+":"); found {
			return value
		}
	}
	t.Fatalf("redis does not tell its %s", field)
	return ""
}

// counter is a client that sets one key to ever higher numbers on one connection.
type counter struct {
	mu    sync.Mutex
	acked []time.Time // of 1, 2, 3 and so on
	err   error
}

func startCounter(t *testing.T, pod *corev1.Pod) *counter {
	conn := connect(t, pod)
	c := &counter{}
	ctx := t.Context()
	go func() {
		for n := 1; ctx.Err() == nil; n++ {
			// With leading zeros, numbers compare as text.
			_, err := conn.do("SET", "counter", fmt.Sprintf("%012d", n))
			c.mu.Lock()
			c.err = err
			if err == nil {
				c.acked = append(c.acked, time.Now())
			}
			c.mu.Unlock()
			if err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return c
}

func (c *counter) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// ackedBefore is the highest number that was acknowledged before the moment.
func (c *counter) ackedBefore(moment time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	highest := 0
	for i, at := range c.acked {
		if at.Before(moment) {
			highest = i + 1
		}
	}
	return highest
}
