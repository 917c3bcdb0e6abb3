package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
)

const (
	redisImage = "lifeboat.dev/redis:dev"
	redisPort  = 6379
	// A command goes out every redisEvery, and its answer is waited for redisPatience.
	redisEvery    = 25 * time.Millisecond
	redisPatience = 20 * time.Second
)

var redisLabels = client.MatchingLabels{"app": "redis"}

// redisPod is Debian's redis-server, protected.
func redisPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "redis", Namespace: namespace, Labels: redisLabels,
			Annotations: map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: "2s"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "redis", Image: redisImage, ImagePullPolicy: corev1.PullIfNotPresent,
			Args: []string{"redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/tmp"},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("32Mi"), // as the cart
			}},
			ReadinessProbe: &corev1.Probe{
				PeriodSeconds: 1,
				ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(redisPort)}},
			},
		}}},
	}
}

// redisClient counts up one key on one connection, and notes how long it waited.
type redisClient struct {
	conn net.Conn
	in   *bufio.Reader

	mu         sync.Mutex
	answers    int
	standstill time.Duration
	err        error
}

func dialRedis(ctx context.Context, c *cluster.Cluster, pod *corev1.Pod) (*redisClient, error) {
	conn, err := c.Dial(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, fmt.Sprint(redisPort)))
	if err != nil {
		return nil, fmt.Errorf("connect to redis: %w", err)
	}
	return &redisClient{conn: conn, in: bufio.NewReader(conn)}, nil
}

// ask sends a command and returns the first line of the answer.
func (r *redisClient) ask(command string) (string, error) {
	if err := r.conn.SetDeadline(time.Now().Add(redisPatience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(r.conn, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := r.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(line, "-") {
		return "", fmt.Errorf("redis answers %s with %s", command, strings.TrimSpace(line))
	}
	return strings.TrimSpace(line), nil
}

// run counts until ctx ends. Its one connection is to last: that it does not is an error.
func (r *redisClient) run(ctx context.Context) {
	last := time.Now()
	for number := 1; ctx.Err() == nil; number++ {
		answer, err := r.ask("INCR soak")
		if want := fmt.Sprintf(":%d", number); err == nil && answer != want {
			err = fmt.Errorf("redis counts %s, want %s: something is lost", answer, want)
		}
		now := time.Now()
		r.mu.Lock()
		if r.err = err; err == nil {
			r.answers++
		}
		r.standstill = max(r.standstill, now.Sub(last))
		r.mu.Unlock()
		if err != nil {
			return
		}
		last = now
		select {
		case <-ctx.Done():
		case <-time.After(redisEvery):
		}
	}
}

// seen is what was noted until now.
func (r *redisClient) seen() (answers int, standstill time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answers, r.standstill, r.err
}

// close ends the connection.
func (r *redisClient) close() error { return r.conn.Close() }
