package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/witness"
	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

const (
	redisName  = "redis"
	redisImage = "lifeboat.dev/redis:dev"
	redisPort  = "6379"
	// redisPatience bounds one command: the server may be frozen or gone.
	redisPatience = 300 * time.Millisecond
	// countEvery is the time between two commands of the counting client.
	countEvery = 20 * time.Millisecond
)

// redisSet is Debian's redis-server as a StatefulSet, with all that it holds in memory,
// where the ledger is.
func redisSet(namespace string, ledger *appsv1.StatefulSet) *appsv1.StatefulSet {
	labels := workload.Labels(redisName)
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: redisName, Namespace: namespace},
		Spec: appsv1.StatefulSetSpec{
			ServiceName: redisName, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: ledger.Spec.Template.Annotations},
				Spec: corev1.PodSpec{
					Affinity: ledger.Spec.Template.Spec.Affinity,
					Containers: []corev1.Container{{
						Name: "redis", Image: redisImage, ImagePullPolicy: corev1.PullIfNotPresent,
						Args: []string{"redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no"},
						ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
							TCPSocket: &corev1.TCPSocketAction{Port: intstr.Parse(redisPort)},
						}},
					}},
				},
			},
		},
	}
	return set
}

// redisAddress finds redis' pod. While the API is away it is where it was.
func (s *stage) redisAddress() func(context.Context) (string, error) {
	last := s.pods[redisName].Status.PodIP
	return func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, redisPatience)
		defer cancel()
		var pods corev1.PodList
		if err := s.api.List(ctx, &pods, client.InNamespace(s.namespace), workload.Labels(redisName)); err == nil {
			for _, pod := range pods.Items {
				if pod.Status.PodIP != "" && pod.DeletionTimestamp == nil {
					last = pod.Status.PodIP
				}
			}
		}
		return last, nil
	}
}

// counted is one answer to the counting client.
type counted struct {
	at    time.Time
	value int64
}

// counter is a client outside the nodes that has redis count, on one connection for as
// long as that lasts, and takes note of every answer.
type counter struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// find returns the address of the pod that is to be asked now.
	find func(ctx context.Context) (string, error)
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	answers []counted
}

func (c *counter) start(ctx context.Context) {
	ctx, c.stop = context.WithCancel(ctx)
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		for ctx.Err() == nil {
			// What went wrong is seen by the answers that are missing.
			_ = c.count(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(redisPatience):
			}
		}
	}()
}

// count has redis count on one connection until that fails.
func (c *counter) count(ctx context.Context) error {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	ticker := time.NewTicker(countEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		reply, err := conn.do("INCR counter")
		if err != nil {
			return err
		}
		value, err := strconv.ParseInt(reply, 10, 64)
		if err != nil {
			return fmt.Errorf("redis counts %q: %w", reply, err)
		}
		c.mu.Lock()
		c.answers = append(c.answers, counted{time.Now(), value})
		c.mu.Unlock()
	}
}

func (c *counter) connect(ctx context.Context) (*redisConn, error) {
	ip, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	dialing, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	conn, err := c.dial(dialing, "tcp", net.JoinHostPort(ip, redisPort))
	if err != nil {
		return nil, err
	}
	return &redisConn{conn, bufio.NewReader(conn)}, nil
}

// runID is the random name that the redis process gave itself at its start.
func (c *counter) runID(ctx context.Context) (string, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	text, err := conn.do("INFO server")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if id, found := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); found {
			return id, nil
		}
	}
	return "", errors.New("redis does not tell its run_id")
}

// last is the newest answer.
func (c *counter) last() (counted, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) == 0 {
		return counted{}, false
	}
	return c.answers[len(c.answers)-1], true
}

// end stops the client and returns all answers.
func (c *counter) end() []counted {
	c.stop()
	<-c.done
	return c.answers
}

// judgeCounts says what is wrong with the answers, given the recoveries that Lifeboat
// reports as restored: redis must count on, from no less than what it had answered when
// the checkpoint that came back was taken.
func judgeCounts(answers []counted, moves []witness.Move) error {
	var faults []error
	for i := 1; i < len(answers); i++ {
		before, now := answers[i-1], answers[i]
		if now.value > before.value {
			continue
		}
		kept := false
		for _, m := range moves {
			// The answers that the checkpoint must hold.
			least := int64(0)
			for _, a := range answers[:i] {
				if a.at.Before(m.TakenAt) {
					least = max(least, a.value)
				}
			}
			kept = kept || m.Restored && now.at.After(m.TakenAt) && now.value > least
		}
		if !kept {
			faults = append(faults, fmt.Errorf("redis counted %d at %s after %d at %s, and no restore explains that",
				now.value, now.at.Format(time.StampMilli), before.value, before.at.Format(time.StampMilli)))
		}
	}
	return errors.Join(faults...)
}

// redisConn speaks with a redis server, a command at a time.
type redisConn struct {
	net.Conn
	r *bufio.Reader
}

// do sends a command of words and returns its reply: an integer or a text.
func (c *redisConn) do(command string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(redisPatience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, command+"\r\n"); err != nil {
		return "", err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", fmt.Errorf("redis answers %s with an empty line", command)
	}
	switch line[0] {
	case ':', '+':
		return line[1:], nil
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return "", fmt.Errorf("redis answers %s with %q", command, line)
		}
		text := make([]byte, n+len("\r\n"))
		_, err = io.ReadFull(c.r, text)
		return string(text[:n]), err
	}
	return "", fmt.Errorf("redis answers %s with %q", command, line)
}
