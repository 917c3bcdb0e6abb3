package kubectl

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares a text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", file, diff)
	}
}

var asked = time.Date(2026, 11, 23, 8, 30, 0, 0, time.UTC)

func at(after time.Duration) metav1.MicroTime { return metav1.NewMicroTime(asked.Add(after)) }

func atTime(after time.Duration) *metav1.MicroTime {
	t := at(after)
	return &t
}

// live is a live move of a Deployment's pod as far as it came after so long.
func live(after time.Duration) *v1alpha1.Migration {
	m := v1alpha1.NewMove(running(func(p *corev1.Pod) {
		p.Name, p.UID = "cart-7d9fbb5c4d-x2xkq", "1"
		controller := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "cart-7d9fbb5c4d", UID: "r", Controller: &controller}}
	}), v1alpha1.Move{Reason: v1alpha1.MigrationRequested, TargetNode: "n2"}, 4, asked)
	m.CreationTimestamp = metav1.NewTime(asked)
	s := &m.Status
	done := func(phase v1alpha1.Phase, at time.Duration) bool {
		if at > after {
			return false
		}
		s.Phase = phase
		s.Phases = append(s.Phases, v1alpha1.PhaseTime{Phase: phase, At: *atTime(at)})
		return true
	}
	done(v1alpha1.PhaseAccepted, 120*time.Millisecond)
	if done(v1alpha1.PhasePrepared, 1400*time.Millisecond) {
		s.Source = &v1alpha1.SourceStatus{PreparedAt: atTime(1350 * time.Millisecond), PreparedGeneration: 17}
	}
	done(v1alpha1.PhaseCreated, 1500*time.Millisecond)
	if done(v1alpha1.PhaseScheduled, 1600*time.Millisecond) {
		s.Claim = &v1alpha1.Claim{PodName: "cart-7d9fbb5c4d-9wzrd", PodUID: "2", NodeName: "n2", At: at(1600 * time.Millisecond)}
	}
	if done(v1alpha1.PhaseParked, 2600*time.Millisecond) {
		s.Restore = &v1alpha1.RestoreStatus{PodUID: "2", ParkedAt: atTime(2550 * time.Millisecond)}
	}
	done(v1alpha1.PhaseStopping, 2700*time.Millisecond)
	if done(v1alpha1.PhaseStopped, 2820*time.Millisecond) {
		s.Source.PausedAt, s.Source.StoppedAt, s.Source.BytesSent = atTime(2740*time.Millisecond), atTime(2815*time.Millisecond), 34<<20
		s.Source.Checkpoint = &v1alpha1.HeldCheckpoint{Generation: 18, TakenAt: at(2740 * time.Millisecond), Bytes: 12 << 20, Holders: []string{"n1", "n2"}}
		s.Source.Hooks = []v1alpha1.HookResult{{Name: "pre-checkpoint", Container: "cart", Succeeded: true, Output: "flushed\n", Seconds: 0.021}}
	}
	done(v1alpha1.PhaseDeleted, 2840*time.Millisecond)
	if done(v1alpha1.PhaseRestoring, 2850*time.Millisecond) {
		s.Restore.Generation, s.Restore.TakenAt = 18, atTime(2740*time.Millisecond)
		s.Restore.Containers = []v1alpha1.ContainerRestore{{Name: "cart", Result: v1alpha1.ResultRestored, Lazy: true, Seconds: 0.11}}
	}
	if done(v1alpha1.PhaseReady, 3040*time.Millisecond) {
		s.Result, s.RTOSeconds, s.DowntimeSeconds = v1alpha1.ResultRestored, 3.04, 0.3
	}
	return m
}

// heldMove is one that has to wait.
func heldMove() *v1alpha1.Migration {
	m := live(0)
	m.Name, m.Spec.Pod.Name, m.Spec.TargetNode = "db-0-2", "db-0", ""
	m.Spec.DeadlineSeconds = 600
	m.Status.Held = &v1alpha1.Held{Reason: v1alpha1.HeldBudget, Message: "PodDisruptionBudget db allows no disruption just now", Since: at(0)}
	return m
}

// coldFailover is a failover that started the pod anew.
func coldFailover() *v1alpha1.Migration {
	m := live(0)
	m.Name, m.Spec.Pod.Name, m.Spec.Strategy, m.Spec.Reason, m.Spec.TargetNode = "queue-0-1", "queue-0", v1alpha1.StrategyFailover, v1alpha1.MigrationNodeLost, ""
	m.CreationTimestamp = metav1.NewTime(asked.Add(-2 * time.Hour))
	m.Status.Claim = &v1alpha1.Claim{PodName: "queue-0", NodeName: "n3"}
	m.Status.Result, m.Status.RTOSeconds = v1alpha1.ResultColdStarted, 9.31
	m.Status.Reason, m.Status.Message = v1alpha1.ReasonWritableVolumes, "memory must not meet a newer disk"
	return m
}

var clock = asked.Add(90 * time.Second)

func TestDescribeMigration(t *testing.T) {
	for name, m := range map[string]*v1alpha1.Migration{"restored": live(time.Minute), "parked": live(2600 * time.Millisecond), "held": heldMove(), "cold": coldFailover()} {
		p := &page{}
		p.migration(m, clock)
		p.events([]corev1.Event{{Type: "Normal", Reason: "Moved", Message: "It is done.\n", LastTimestamp: metav1.NewTime(asked.Add(4 * time.Second))}}, clock)
		golden(t, "describe-"+name, p.String())
	}
}

// TestProgress: what is told does not depend on how often somebody looks.
func TestProgress(t *testing.T) {
	tell := func(states ...*v1alpha1.Migration) string {
		var b strings.Builder
		p := progress{out: &b}
		for _, m := range states {
			p.show(m)
		}
		return b.String() + conclusion(states[len(states)-1]) + "\n"
	}
	held := live(0)
	held.Status.Held = &v1alpha1.Held{Reason: v1alpha1.HeldMoveLimit, Message: "2 pods leave node n1 already"}
	whole := tell(live(time.Minute))
	golden(t, "progress", whole)
	var often []*v1alpha1.Migration
	for after := range 400 {
		often = append(often, live(time.Duration(after)*10*time.Millisecond))
	}
	if diff := cmp.Diff(whole, tell(often...)); diff != "" {
		t.Errorf("seen at each step (-once +often):\n%s", diff)
	}
	filling := live(time.Minute)
	filling.Status.Result, filling.Status.Restore.Containers[0].Filling = "", true
	if got := tell(filling, filling, live(time.Minute)); strings.Count(got, "Ready\n          memory is still fetched from other nodes\nPod") != 1 {
		t.Errorf("while memory is filled in:\n%s", got)
	}
	withdrawn := live(2600 * time.Millisecond)
	withdrawn.Status.Reason, withdrawn.Status.Message = v1alpha1.ReasonSourceFailed, "node n1: no space left on device"
	closed := withdrawn.DeepCopy()
	closed.Status.Result = v1alpha1.ResultWithdrawn
	golden(t, "progress-withdrawn", tell(held, held, live(time.Second), withdrawn, withdrawn, closed))
}

func TestMigrationTable(t *testing.T) {
	for _, wide := range []bool{false, true} {
		var b strings.Builder
		l := newMigrationList(base{})
		text := newTable(append([]string{"namespace"}, l.columns...)...)
		for _, m := range []client.Object{coldFailover(), live(time.Minute), live(2600 * time.Millisecond), heldMove()} {
			text.row(append([]string{m.GetNamespace()}, l.row(m, clock)...)...)
		}
		if err := text.print(&b, layout{wide: wide}); err != nil {
			t.Fatal(err)
		}
		golden(t, fmt.Sprintf("migrations-wide-%v", wide), b.String())
		fits(t, wide, b.String())
	}
}

// fits checks that a table that is not wide has a place on most screens.
func fits(t *testing.T, wide bool, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if !wide && len(line) > 120 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

func TestStatus(t *testing.T) {
	pods := []corev1.Pod{
		*running(func(p *corev1.Pod) { p.Name, p.UID = "cart-7d9fbb5c4d-x2xkq", "1" }),
		*running(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.NodeName = "db-0", "2", "n2" }),
		*running(func(p *corev1.Pod) { p.Name, p.UID, p.Annotations[v1alpha1.AnnotationInterval] = "typo", "3", "soon" }),
		*running(func(p *corev1.Pod) { p.Name, p.UID, p.Annotations = "open", "4", nil }),
		*running(func(p *corev1.Pod) { p.Name, p.UID = "new", "5" }),
		*running(func(p *corev1.Pod) { p.Name, p.UID, p.Status.Phase = "done", "6", corev1.PodSucceeded }),
	}
	condition := func(status metav1.ConditionStatus, reason, message string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.ConditionProtected, Status: status, Reason: reason, Message: message}}
	}
	checkpoint := func(pod int, s v1alpha1.CheckpointStatus) v1alpha1.Checkpoint {
		return v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pods[pod].Name},
			Spec: v1alpha1.CheckpointSpec{PodUID: pods[pod].UID, NodeName: pods[pod].Spec.NodeName}, Status: s}
	}
	checkpoints := []v1alpha1.Checkpoint{
		checkpoint(0, v1alpha1.CheckpointStatus{Generation: 128, TakenAt: atTime(78 * time.Second), Pause: "27ms", Size: "512Mi", NewBytes: 3 << 20, Epoch: 2,
			Holders: []string{"n1", "n2"}, Conditions: condition(metav1.ConditionTrue, v1alpha1.ReasonProtected, "")}),
		checkpoint(1, v1alpha1.CheckpointStatus{Conditions: condition(metav1.ConditionFalse, v1alpha1.ReasonNotCheckpointable, "process 1 (node) uses io_uring")}),
	}
	// An earlier pod of the name has left it.
	checkpoints = append(checkpoints, checkpoint(4, v1alpha1.CheckpointStatus{Generation: 9, Conditions: condition(metav1.ConditionTrue, v1alpha1.ReasonProtected, "")}))
	checkpoints[2].Spec.PodUID = "earlier"
	o := &overview{Paused: "rack 4: switches", Parts: []part{{"lifeboat-watcher", 1, 2}, {"lifeboat-checkpointer", 3, 3}}, Unread: []string{"fences: no"}}
	o.addPods(pods, checkpoints)
	o.addNodes(
		[]corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, {ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{Unschedulable: true}}, {ObjectMeta: metav1.ObjectMeta{Name: "n3"}}},
		[]v1alpha1.Fence{
			{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceRunning}, Status: v1alpha1.FenceStatus{Facts: v1alpha1.NodeFacts{CRIUVersion: "4.2.1", KernelVersion: "6.12.1-amd64"}, ShuttingDown: atTime(0)}},
			{ObjectMeta: metav1.ObjectMeta{Name: "n2"}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceLost}, Status: v1alpha1.FenceStatus{Facts: v1alpha1.NodeFacts{CRIUVersion: "4.2.1", KernelVersion: "6.12.1-amd64"}}},
		}, true)
	o.Migrations = []*v1alpha1.Migration{live(2600 * time.Millisecond), heldMove()}
	for _, wide := range []bool{false, true} {
		var b strings.Builder
		if err := o.print(&b, layout{namespaces: true, wide: wide, now: clock}); err != nil {
			t.Fatal(err)
		}
		golden(t, fmt.Sprintf("status-wide-%v", wide), b.String())
		fits(t, wide, b.String())
	}
}

func TestSimilar(t *testing.T) {
	names := []string{"cart-0", "cart-1", "crate-0", "database-0", "web-7d9fbb5c4d-x2xkq"}
	for written, want := range map[string]string{
		"crat-0": "[crate-0 cart-0]", "cart0": "[cart-0]", "web": "[web-7d9fbb5c4d-x2xkq]", "databse-0": "[database-0]", "zookeeper": "[]", "x": "[]",
	} {
		if got := fmt.Sprint(similar(written, names)); got != want {
			t.Errorf("%s: %s, want %s", written, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0", 1023: "1023", 1 << 10: "1.0Ki", 12 << 20: "12Mi", 3<<20 + 1<<19: "3.5Mi", 5 << 30: "5.0Gi", 1 << 44: "16Ti"} {
		if got := size(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}
