package scenarios

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

var redisLabels = client.MatchingLabels{"app": "redis"}

// redisDeployment is redis as a Deployment's pod. Before it is stopped for a move, a
// hook keeps it for a while, in which a test can do something to the move.
func redisDeployment(namespace string) *appsv1.Deployment {
	pod := redisPod(namespace)
	pod.Annotations[v1alpha1.AnnotationPreCheckpoint] = "timeout=30s exec sleep 6"
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "redis", Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: redisLabels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels, Annotations: pod.Annotations},
				Spec:       pod.Spec,
			},
		},
	}
}

// TestMoveThatIsBroken breaks a live move of redis, which acknowledges writes until it is
// stopped. Whatever happens, one redis is left, it is the same process with all that it
// has acknowledged, and the Migration says what became of the move.
func TestMoveThatIsBroken(t *testing.T) {
	for _, test := range []struct {
		name string
		// in is the phase in which the move is broken.
		in      v1alpha1.Phase
		crowded bool // no other node takes pods
		how     func(*testing.T, *v1alpha1.Migration)
		result  v1alpha1.Result
		reason  string
	}{
		{"cancelled while its replacement waits for a node", v1alpha1.PhaseCreated, true, cancelMove, v1alpha1.ResultWithdrawn, v1alpha1.ReasonCanceled},
		{"cancelled too late", v1alpha1.PhaseStopping, false, cancelMove, v1alpha1.ResultRestored, ""},
		{"its watcher is killed", v1alpha1.PhaseStopping, false, killLeader, v1alpha1.ResultRestored, ""},
		{"its target is lost", v1alpha1.PhaseStopping, false, func(t *testing.T, m *v1alpha1.Migration) { powerOff(t, m.Status.Claim.NodeName) }, v1alpha1.ResultRestored, ""},
		{"its source is lost", v1alpha1.PhaseStopping, false, func(t *testing.T, m *v1alpha1.Migration) { powerOff(t, m.Spec.SourceNode) }, v1alpha1.ResultFailed, v1alpha1.ReasonSourceLost},
	} {
		t.Run(test.name, func(t *testing.T) {
			namespace := scene(t, "broken")
			loadRedis(t)
			create(t, redisDeployment(namespace))
			pod, err := observe.ReadyPod(deadline(t), api, namespace, redisLabels)
			if err != nil {
				t.Fatal(err)
			}
			conn := connect(t, pod)
			runID := info(t, conn, "run_id")
			counter := startCounter(t, pod)
			if _, err := observe.Durable(deadline(t), api, pod, 2); err != nil {
				t.Fatal(err)
			}
			if test.crowded {
				cordonOthers(t, pod.Spec.NodeName)
			}
			m := beginMove(t, pod, v1alpha1.StrategyLive)
			reached(t, m, test.in)
			test.how(t, m)
			closed(t, m)
			t.Logf("%s to %v: %s %s: %s; downtime %s", m.Spec.SourceNode, m.Status.Claim, m.Status.Result, m.Status.Reason, m.Status.Message, m.Status.Downtime)
			if m.Status.Result != test.result || m.Status.Reason != test.reason {
				t.Errorf("the move ended as %s (%s): %s; want %s (%s)", m.Status.Result, m.Status.Reason, m.Status.Message, test.result, test.reason)
			}
			acked := time.Now() // everything that was acknowledged until the pod was stopped
			if test.result == v1alpha1.ResultFailed {
				acked = restored(t, pod).Status.Restore.TakenAt.Time
			}
			checkOneRedis(t, namespace, pod, test.result == v1alpha1.ResultWithdrawn, runID, counter, acked)
		})
	}
}

// checkOneRedis says what speaks against one redis being left, the one that was there.
func checkOneRedis(t *testing.T, namespace string, old *corev1.Pod, stays bool, runID string, counter *counter, acked time.Time) {
	t.Helper()
	err := observe.Until(deadline(t), "one redis is left", func(ctx context.Context) (bool, string, error) {
		var pods corev1.PodList
		if err := api.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
			return false, "", err
		}
		running, err := onEveryNode(ctx, `grep -lsx redis-server /proc/[0-9]*/comm | wc -l`)
		if err != nil {
			return false, "", err
		}
		processes := 0
		for _, out := range running {
			n, err := strconv.Atoi(strings.TrimSpace(out))
			if err != nil {
				return false, "", err
			}
			processes += n
		}
		return len(pods.Items) == 1 && processes == 1, fmt.Sprintf("%d pods and %d processes are there", len(pods.Items), processes), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := observe.ReadyPod(deadline(t), api, namespace, redisLabels)
	if err != nil {
		t.Fatal(err)
	}
	if stays != (now.UID == old.UID) {
		t.Errorf("pod %s on node %s is left, it was %s on node %s", now.Name, now.Spec.NodeName, old.Name, old.Spec.NodeName)
	}
	conn := connect(t, now)
	if id := info(t, conn, "run_id"); id != runID {
		t.Errorf("another redis process answers: run_id %s, was %s", id, runID)
	}
	least := counter.ackedBefore(acked)
	if got := command[string](t, conn, "GET", "counter"); least == 0 || got < fmt.Sprintf("%012d", least) {
		t.Errorf("the counter is %s, and %d was acknowledged", got, least)
	}
	if stays && counter.failure() != nil {
		t.Errorf("the client of a pod that was not moved lost its connection: %v", counter.failure())
	}
}

// reached waits until a Migration has come to a phase, or further.
func reached(t *testing.T, m *v1alpha1.Migration, phase v1alpha1.Phase) {
	t.Helper()
	err := observe.Until(deadline(t), fmt.Sprintf("migration %s is %s", m.Name, phase), func(ctx context.Context) (bool, string, error) {
		if err := api.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return false, "", err
		}
		if !m.Open() {
			return false, "", &observe.Hopeless{Err: fmt.Errorf("it is closed: %s %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)}
		}
		return m.Reached(phase), fmt.Sprintf("it is in phase %s, held %+v", m.Status.Phase, m.Status.Held), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func cancelMove(t *testing.T, m *v1alpha1.Migration) {
	t.Helper()
	before := m.DeepCopy()
	metav1.SetMetaDataAnnotation(&m.ObjectMeta, v1alpha1.AnnotationCancel, "the test asks for it")
	if err := api.Patch(deadline(t), m, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func powerOff(t *testing.T, node string) {
	t.Helper()
	if err := lab.PowerOff(deadline(t), node); err != nil {
		t.Fatal(err)
	}
}

// killLeader kills the process of the leading watcher.
func killLeader(t *testing.T, _ *v1alpha1.Migration) {
	t.Helper()
	var lease coordinationv1.Lease
	if err := api.Get(deadline(t), types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: deploy.Watcher}, &lease); err != nil {
		t.Fatal(err)
	}
	var pods corev1.PodList
	if err := api.List(deadline(t), &pods, client.InNamespace(v1alpha1.SystemNamespace), client.MatchingLabels{"app.kubernetes.io/name": deploy.Watcher}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if lease.Spec.HolderIdentity == nil || !strings.HasPrefix(*lease.Spec.HolderIdentity, pod.Name) {
			continue
		}
		signalProgram(t, pod.Spec.NodeName, "/lifeboat-watcher ", "KILL")
		return
	}
	t.Fatal("nobody leads")
}

// signalProgram sends a signal to a program on a node, by the beginning of its command line.
func signalProgram(t *testing.T, node, commandLine, signal string) {
	t.Helper()
	if err := sendSignal(deadline(t), node, commandLine, signal); err != nil {
		t.Fatal(err)
	}
}

func sendSignal(ctx context.Context, node, commandLine, signal string) error {
	const script = `for p in /proc/[0-9]*; do if tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q "^$1"; then kill -$2 ${p#/proc/} && echo sent; fi; done`
	out, err := lab.NodeExec(ctx, node, "sh", "-c", script, "sh", commandLine, signal)
	if err != nil {
		return fmt.Errorf("send SIG%s to %q on node %s: %q: %w", signal, commandLine, node, out, err)
	}
	if strings.TrimSpace(string(out)) != "sent" {
		return fmt.Errorf("send SIG%s to %q on node %s: not to one process: %q", signal, commandLine, node, out)
	}
	return nil
}

// cordonOthers keeps new pods from every node but one, until the scenario is over.
func cordonOthers(t *testing.T, node string) {
	t.Helper()
	nodes, err := lab.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range nodes {
		if other.Name != node {
			cordon(t, other.Name)
		}
	}
}

// cordon keeps new pods from a node, until the scenario is over or uncordon is called.
func cordon(t *testing.T, name string) (uncordon func()) {
	t.Helper()
	set := func(ctx context.Context, cordoned bool) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		data := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, cordoned)
		if err := api.Patch(ctx, node, client.RawPatch(types.MergePatchType, data)); err != nil {
			t.Errorf("cordon node %s %t: %v", name, cordoned, err)
		}
	}
	set(deadline(t), true)
	uncordon = func() {
		ctx, cancel := context.WithTimeout(context.Background(), loss.Patience)
		defer cancel()
		set(ctx, false)
	}
	t.Cleanup(uncordon)
	return uncordon
}
