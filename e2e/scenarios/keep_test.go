package scenarios

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// keptState lists what a node has for kept connections.
const keptState = `ip route show proto 76 table all; ip rule show | grep 'proto 76'; grep -ls lifeboat /var/lib/cni/networks/*/*; nft list tables | grep lifeboat; true`

// TestConnectionsOutliveAMove moves redis while clients on every node, and one on none,
// use connections that they opened before, to the pod's address and to the Service's: each
// goes on, no reply is lost or comes twice, and nobody connects anew. While connections are
// left at the former address the pod is not moved again; when they have ended, nothing is left
// on the nodes, though both checkpointers were killed meanwhile.
func TestConnectionsOutliveAMove(t *testing.T) {
	loadRedis(t)
	t.Run("Deployment", func(t *testing.T) {
		namespace := scene(t, "keep")
		deployment := redisDeployment(namespace)
		keepConnections(&deployment.Spec.Template)
		create(t, deployment)
		moveInUse(t, namespace, v1alpha1.StrategyLive, v1alpha1.StrategyWarm)
	})
	// Its target is not known before its old pod has gone.
	t.Run("StatefulSet", func(t *testing.T) {
		namespace := scene(t, "keep")
		template := redisDeployment(namespace).Spec.Template
		keepConnections(&template)
		create(t, &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Name: "redis", Namespace: namespace},
			Spec:       appsv1.StatefulSetSpec{ServiceName: "redis", Selector: &metav1.LabelSelector{MatchLabels: redisLabels}, Template: template},
		})
		moveInUse(t, namespace, v1alpha1.StrategyCold)
	})
}

func keepConnections(template *corev1.PodTemplateSpec) {
	delete(template.Annotations, v1alpha1.AnnotationPreCheckpoint)
	template.Annotations[v1alpha1.AnnotationConnections] = string(v1alpha1.ConnectionsKeep)
}

// moveInUse moves redis by each of the strategies.
func moveInUse(t *testing.T, namespace string, strategies ...v1alpha1.Strategy) {
	t.Helper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "redis", Namespace: namespace},
		Spec:       corev1.ServiceSpec{Selector: redisLabels, Ports: []corev1.ServicePort{{Port: 6379, TargetPort: intstr.FromInt32(6379)}}},
	}
	create(t, service)
	pod := ready(t, namespace)
	for _, strategy := range strategies {
		clients := startClients(t, pod, service.Spec.ClusterIP)
		direct, viaService := incrementing(t, pod.Status.PodIP), incrementing(t, service.Spec.ClusterIP)
		if _, err := observe.Durable(deadline(t), api, pod, 2); err != nil {
			t.Fatal(err)
		}
		control := connect(t, pod)
		before := connections(t, control)
		m := move(t, pod, strategy)
		t.Logf("%s: %s %s %s, downtime %s; %+v", strategy, m.Status.Result, m.Status.Reason, m.Status.Message, m.Status.Downtime, m.Status.Restore.Connections)
		kept := m.Status.Restore.Connections
		if m.Status.Result != v1alpha1.ResultRestored || kept == nil || kept.OpenedAt == nil || kept.EndedAt != nil {
			t.Fatal("connections were not kept")
		}
		direct.goOn(t)
		viaService.goOn(t)
		moved := ready(t, namespace)
		counts(t, control, clients)
		if after := connections(t, control); !maps.Equal(after, before) {
			t.Errorf("the connections are %v, and were %v", after, before)
		}
		t.Logf("longest wait for a reply: %s at the pod's address, %s at the Service's", direct.end(t), viaService.end(t))

		if strategy == v1alpha1.StrategyLive {
			// Both go on with what their predecessors have noted.
			for _, node := range []string{m.Spec.SourceNode, m.Status.Claim.NodeName} {
				signalProgram(t, node, "/lifeboat-checkpointer agent ", "KILL")
			}
			again := beginMove(t, moved, strategy)
			closed(t, again)
			if again.Status.Result != v1alpha1.ResultWithdrawn || again.Status.Reason != v1alpha1.ReasonNotAllowed {
				t.Errorf("the move of a pod that has connections at its former address ended as %s %s: %s", again.Status.Result, again.Status.Reason, again.Status.Message)
			}
		}
		control.Close()
		for _, c := range clients {
			if err := api.Delete(deadline(t), c, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
		}
		nothingKept(t, m)
		pod = ready(t, namespace)
	}
}

func ready(t *testing.T, namespace string) *corev1.Pod {
	t.Helper()
	pod, err := observe.ReadyPod(deadline(t), api, namespace, redisLabels)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// startClients starts, on every node, a pod with two clients that count up a key each.
func startClients(t *testing.T, pod *corev1.Pod, service string) []*corev1.Pod {
	t.Helper()
	nodes, err := lab.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	// A connection that is begun before a node knows the Service is led nowhere for minutes.
	err = observe.Until(deadline(t), "the Service answers on every node", func(ctx context.Context) (bool, string, error) {
		said, err := onEveryNode(ctx, fmt.Sprintf("timeout 1 bash -c 'exec 3<>/dev/tcp/%s/6379'", service))
		return err == nil, fmt.Sprint(said), err
	})
	if err != nil {
		t.Fatal(err)
	}
	var pods []*corev1.Pod
	for _, node := range nodes {
		c := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "client-" + node.Name + "-", Namespace: pod.Namespace, Labels: map[string]string{"app": "client"}},
			Spec:       corev1.PodSpec{NodeName: node.Name, RestartPolicy: corev1.RestartPolicyNever},
		}
		for name, address := range map[string]string{"direct": pod.Status.PodIP, "service": service} {
			c.Spec.Containers = append(c.Spec.Containers, corev1.Container{
				Name: name, Image: redisImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Args: []string{"redis-cli", "-h", address, "-r", "-1", "-i", "0.02", "INCR", node.Name + "-" + name},
			})
		}
		create(t, c)
		pods = append(pods, c)
	}
	conn := connect(t, pod)
	defer conn.Close()
	counts(t, conn, pods)
	return pods
}

// counts waits until every client has counted on.
func counts(t *testing.T, conn *redisConn, clients []*corev1.Pod) {
	t.Helper()
	keys := []string{}
	for _, c := range clients {
		keys = append(keys, c.Spec.NodeName+"-direct", c.Spec.NodeName+"-service")
	}
	before := command[[]any](t, conn, append([]string{"MGET"}, keys...)...)
	err := observe.Until(deadline(t), "every client counts on", func(context.Context) (bool, string, error) {
		now, err := conn.do(append([]string{"MGET"}, keys...)...)
		if err != nil {
			return false, "", err
		}
		var still []string
		for i, value := range now.([]any) {
			if value == nil || value == before[i] {
				still = append(still, keys[i])
			}
		}
		return len(still) == 0, fmt.Sprintf("%v do not", still), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// connections are those that redis has, by the number that it gave to each.
func connections(t *testing.T, conn *redisConn) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(command[string](t, conn, "CLIENT", "LIST")) {
		fields := map[string]string{}
		for _, field := range strings.Fields(line) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		if cmd := fields["cmd"]; cmd == "incr" || strings.HasPrefix(cmd, "client") { // and not one of kubelet's probes
			all[fields["id"]] = fields["addr"]
		}
	}
	return all
}

// increments is a client that adds one to a key again and again, on one connection.
type increments struct {
	conn    *redisConn
	done    atomic.Int64
	longest atomic.Int64
	stop    context.CancelFunc
	ended   chan struct{}
	err     error // once it has ended
}

func incrementing(t *testing.T, ip string) *increments {
	t.Helper()
	conn, err := dialRedis(deadline(t), ip)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, stop := context.WithCancel(t.Context())
	c := &increments{conn: conn, stop: stop, ended: make(chan struct{})}
	name := fmt.Sprintf("test-%s-%d", ip, time.Now().UnixNano())
	go func() {
		defer close(c.ended)
		for n := int64(1); ctx.Err() == nil; n++ {
			began := time.Now()
			reply, err := conn.do("INCR", name)
			if err == nil && reply != n {
				err = fmt.Errorf("INCR number %d was answered with %v", n, reply)
			}
			if err != nil {
				c.err = err
				return
			}
			c.done.Store(n)
			c.longest.Store(max(c.longest.Load(), int64(time.Since(began))))
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return c
}

// goOn waits until the client has had further replies.
func (c *increments) goOn(t *testing.T) {
	t.Helper()
	target := c.done.Load() + 10
	err := observe.Until(deadline(t), "the client is answered", func(context.Context) (bool, string, error) {
		select {
		case <-c.ended:
			return false, "", &observe.Hopeless{Err: fmt.Errorf("after %d replies: %w", c.done.Load(), c.err)}
		default:
		}
		return c.done.Load() >= target, fmt.Sprintf("it has had %d replies", c.done.Load()), nil
	})
	if err != nil {
		t.Error(err)
	}
}

// end closes the connection, and returns the longest time that a reply took.
func (c *increments) end(t *testing.T) time.Duration {
	t.Helper()
	c.stop()
	<-c.ended
	if c.err != nil {
		t.Errorf("after %d replies: %v", c.done.Load(), c.err)
	}
	c.conn.Close()
	return time.Duration(c.longest.Load()).Round(time.Millisecond)
}

// nothingKept waits until the former address of a moved pod is free again.
func nothingKept(t *testing.T, m *v1alpha1.Migration) {
	t.Helper()
	err := observe.Until(deadline(t), "nothing is kept any more", func(ctx context.Context) (bool, string, error) {
		if err := api.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return false, "", err
		}
		left, err := onEveryNode(ctx, keptState)
		if err != nil {
			return false, "", err
		}
		all := strings.TrimSpace(strings.Join(slices.Collect(maps.Values(left)), ""))
		return m.Status.Restore.Connections.EndedAt != nil && all == "", fmt.Sprintf("%+v; %v", m.Status.Restore.Connections, left), nil
	})
	if err != nil {
		t.Error(err)
	}
}
