package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// moves is a cluster with nodes, in which nobody does anything about a Migration but
// what the test plays.
type moves struct {
	*cluster
	admin, guest string
}

func startMoves(t *testing.T) *moves {
	c := &moves{cluster: startCluster(t)}
	c.admin, c.guest = c.Kubeconfig(controlplane.AdminToken), c.Kubeconfig("guest-token")
	if err := rbacv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shop", "bank", v1alpha1.SystemNamespace} {
		c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		c.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	expect(t, c.admin, 1, "Lifeboat is not installed in this cluster", "migrations", "-A")
	expect(t, c.admin, 1, "Lifeboat is not installed in this cluster", "drain", "n3")
	c.install(map[string]client.ObjectList{
		"checkpoints": &v1alpha1.CheckpointList{}, "fences": &v1alpha1.FenceList{}, "migrations": &v1alpha1.MigrationList{},
	})
	return c
}

func (c *moves) create(object client.Object) {
	c.t.Helper()
	if err := c.Create(c.t.Context(), object); err != nil {
		c.t.Fatal(err)
	}
}

// run is the plugin that runs beside the test.
type run struct {
	cmd         *exec.Cmd
	out, stderr output
}

// output is what a program has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (c *moves) start(arguments ...string) *run {
	c.t.Helper()
	r := &run{cmd: exec.CommandContext(c.t.Context(), os.Args[0], arguments...)}
	r.cmd.Env = append(os.Environ(), asVariable+"=1", "KUBECONFIG="+c.admin, "HOME="+c.t.TempDir())
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.stderr
	if err := r.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return r
}

// says waits until the plugin has written a text.
func (r *run) says(t *testing.T, text string) {
	t.Helper()
	controlplane.Eventually(t, fmt.Sprintf("it says %q", text), func(context.Context) error {
		if out := r.out.String(); !strings.Contains(out, text) {
			return fmt.Errorf("it has said:\n%s%s", out, r.stderr.String())
		}
		return nil
	})
}

func (r *run) interrupt() { r.cmd.Process.Signal(syscall.SIGINT) }

// end waits for its end.
func (r *run) end() (stdout, stderr string, status int) {
	r.cmd.Wait()
	return r.out.String(), r.stderr.String(), r.cmd.ProcessState.ExitCode()
}

// opened waits until the pod has an open Migration, and returns it.
func (c *moves) opened(t *testing.T, pod string) *v1alpha1.Migration {
	t.Helper()
	var found *v1alpha1.Migration
	controlplane.Eventually(t, pod+" has an open Migration", func(ctx context.Context) error {
		var all v1alpha1.MigrationList
		if err := c.List(ctx, &all); err != nil {
			return err
		}
		for i := range all.Items {
			if m := &all.Items[i]; m.Open() && m.Spec.Pod.Name == pod {
				found = m
				return nil
			}
		}
		return fmt.Errorf("%d Migrations are there", len(all.Items))
	})
	return found
}

// reach writes that a phase was completed so long after the move was asked for, and
// what else the function changes.
func (c *moves) reach(t *testing.T, m *v1alpha1.Migration, phase v1alpha1.Phase, after time.Duration, change func(*v1alpha1.MigrationStatus)) {
	t.Helper()
	m.Status.Held = nil
	if phase != "" {
		m.Status.Phase = phase
		m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: phase, At: metav1.NewMicroTime(m.Spec.LostAt.Add(after))})
	}
	if change != nil {
		change(&m.Status)
	}
	if err := c.Status().Update(t.Context(), m); err != nil {
		t.Fatalf("the API refuses the status: %v", err)
	}
}

// restored plays a live move from its beginning to its end.
func (c *moves) restored(t *testing.T, pod string) {
	m := c.opened(t, pod)
	at := func(d time.Duration) *metav1.MicroTime {
		return ptr.To(metav1.NewMicroTime(m.Spec.LostAt.Add(d)))
	}
	c.reach(t, m, "", 0, func(s *v1alpha1.MigrationStatus) {
		s.Held = &v1alpha1.Held{Reason: v1alpha1.HeldMoveLimit, Message: "2 pods leave node n1 already", Since: m.Spec.LostAt}
	})
	c.reach(t, m, v1alpha1.PhaseAccepted, 200*time.Millisecond, nil)
	c.reach(t, m, v1alpha1.PhasePrepared, 1500*time.Millisecond, func(s *v1alpha1.MigrationStatus) {
		s.Source = &v1alpha1.SourceStatus{PreparedAt: at(1500 * time.Millisecond), PreparedGeneration: 17}
	})
	c.reach(t, m, v1alpha1.PhaseStopping, 1600*time.Millisecond, nil)
	c.reach(t, m, v1alpha1.PhaseStopped, 1900*time.Millisecond, func(s *v1alpha1.MigrationStatus) {
		s.Source.PausedAt, s.Source.StoppedAt, s.Source.BytesSent = at(1650*time.Millisecond), at(1850*time.Millisecond), 34<<20
		s.Source.Checkpoint = &v1alpha1.HeldCheckpoint{Generation: 18, TakenAt: *at(1650 * time.Millisecond), Bytes: 12 << 20, Holders: []string{"n1", "n2"}}
	})
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: pod}}
	if err := client.IgnoreNotFound(c.Delete(t.Context(), old, client.GracePeriodSeconds(0))); err != nil {
		t.Fatal(err)
	}
	c.reach(t, m, v1alpha1.PhaseDeleted, 2*time.Second, nil)
	c.reach(t, m, v1alpha1.PhaseScheduled, 2100*time.Millisecond, func(s *v1alpha1.MigrationStatus) {
		s.Claim = &v1alpha1.Claim{PodName: pod, PodUID: "next", NodeName: "n2", At: *at(2100 * time.Millisecond)}
	})
	c.reach(t, m, v1alpha1.PhaseReady, 2600*time.Millisecond, func(s *v1alpha1.MigrationStatus) {
		s.Result, s.RTOSeconds, s.DowntimeSeconds = v1alpha1.ResultRestored, 2.6, 0.95
	})
}

const restoredOutput = `Migration shop/cart-0-1: pod cart-0 leaves n1 for n2, Live
          waits (MoveLimit): 2 pods leave node n1 already.
    0.2s  Accepted
    1.5s  Prepared   generation 17 is durable
    1.6s  Stopping
    1.9s  Stopped    generation 18, 12Mi; 34Mi copied to other nodes
    2.0s  Deleted
    2.1s  Scheduled  pod cart-0 on n2
    2.6s  Ready
Pod shop/cart-0 runs on n2 with its memory after 2.6s, of which it did not answer for 950ms.
`

func TestMoves(t *testing.T) {
	c := startMoves(t)
	t.Run("refused at once", func(t *testing.T) {
		c.pod("cart-0", nil)
		c.pod("open", func(p *corev1.Pod) { p.Annotations = nil })
		in := func(status int, text string, arguments ...string) {
			t.Helper()
			expect(t, c.admin, status, text, append(arguments, "-n", "shop")...)
		}
		in(1, `pod "crat-0" not found in namespace "shop"; did you mean cart-0?`, "migrate", "crat-0")
		expect(t, c.admin, 1, `pod "cart-0" not found in namespace "bank"; did you mean -n shop?`, "migrate", "cart-0", "-n", "bank")
		in(1, `node "far" not found; there are n1, n2, n3`, "migrate", "cart-0", "--to", "far")
		in(1, "runs on node n1 already", "migrate", "cart-0", "--to", "n1")
		in(1, "--strategy replace", "migrate", "open")
		in(1, `no migration "cart-0", and no open one of a pod of that name`, "cancel", "cart-0")
		in(1, "is not protected, so no checkpoint is taken", "checkpoint", "open")
		in(1, "has no checkpoint yet", "checkpoint", "cart-0")
		in(1, `migration "cart-0" not found in namespace "shop"; see "kubectl lifeboat migrations"`, "describe", "migration", "cart-0")
		expect(t, c.guest, 1, `User "guest" cannot get resource "pods"`, "migrate", "cart-0", "-n", "shop")
	})
	t.Run("dry run", func(t *testing.T) {
		out := expect(t, c.admin, 0, "", "migrate", "pod/cart-0", "-n", "shop", "--dry-run=client", "-o", "json", "--strategy", "warm")
		var m v1alpha1.Migration
		if err := json.Unmarshal([]byte(out), &m); err != nil || m.Kind != "Migration" || m.Spec.Strategy != v1alpha1.StrategyWarm || m.Spec.Pod.Name != "cart-0" {
			t.Errorf("%v: %+v", err, m)
		}
		expect(t, c.admin, 0, "Migration shop/cart-0-1: pod cart-0 leaves n1, Live (server dry run)\n", "migrate", "cart-0", "-n", "shop", "--dry-run=server")
		expect(t, c.admin, 0, "Node n1 is cordoned (server dry run)\nLeft to \"kubectl drain n1\": 1 pod ", "drain", "n1", "--dry-run=server")
		var all v1alpha1.MigrationList
		node := &corev1.Node{}
		if err := c.List(t.Context(), &all); err != nil || len(all.Items) > 0 {
			t.Errorf("%v: a dry run created %d Migrations", err, len(all.Items))
		}
		if err := c.Get(t.Context(), client.ObjectKey{Name: "n1"}, node); err != nil || node.Spec.Unschedulable {
			t.Errorf("%v: a dry run cordoned a node", err)
		}
	})
	t.Run("restored", func(t *testing.T) {
		moving := c.start("migrate", "cart-0", "-n", "shop", "--to", "n2")
		c.restored(t, "cart-0")
		if out, errs, status := moving.end(); status != 0 || out != restoredOutput || errs != "" {
			t.Errorf("exit status %d, error output %q, and\n%s\nwant\n%s", status, errs, out, restoredOutput)
		}
		page := expect(t, c.admin, 0, "Restored", "describe", "migration/cart-0-1", "-n", "shop")
		for _, text := range []string{"Stopped     ", "+1.9s", "held by n1, n2", "Did not answer:  950ms"} {
			if !strings.Contains(page, text) {
				t.Errorf("%q is not in:\n%s", text, page)
			}
		}
	})
	t.Run("exit statuses", func(t *testing.T) {
		for pod, test := range map[string]struct {
			result v1alpha1.Result
			status int
			says   string
		}{
			"cold":  {v1alpha1.ResultColdStarted, 3, "Pod shop/cold started anew, without its memory. RestoreFailed: CRIU said no.\n"},
			"stays": {v1alpha1.ResultWithdrawn, 4, "Pod shop/stays stays on n1: the migration was withdrawn. RestoreFailed: CRIU said no.\n"},
			"lost":  {v1alpha1.ResultFailed, 4, "Pod shop/lost is not ready: the migration failed. RestoreFailed: CRIU said no.\n"},
		} {
			c.pod(pod, nil)
			moving := c.start("migrate", pod, "-n", "shop")
			c.reach(t, c.opened(t, pod), v1alpha1.PhaseAccepted, 0, func(s *v1alpha1.MigrationStatus) {
				s.Result, s.Reason, s.Message = test.result, v1alpha1.ReasonRestoreFailed, "CRIU said no"
			})
			if out, errs, status := moving.end(); status != test.status || !strings.HasSuffix(out, test.says) || errs != "" {
				t.Errorf("%s: exit status %d, %q, and\n%s", pod, status, errs, out)
			}
		}
	})
	t.Run("given up", func(t *testing.T) {
		c.pod("slow", nil)
		_, errs, status := plugin(t, c.admin, "migrate", "slow", "-n", "shop", "--timeout", "1s")
		want := "Migration shop/slow-1 goes on in the cluster: nothing was done yet. To give it up: kubectl lifeboat cancel slow-1 -n shop\n"
		if status != 5 || errs != want {
			t.Errorf("exit status %d, %q", status, errs)
		}
		expect(t, c.admin, 1, "is moved already, by migration slow-1", "migrate", "slow", "-n", "shop")
		if names, _, _ := plugin(t, c.admin, "__complete", "cancel", "-n", "shop", ""); !strings.HasPrefix(names, "slow-1\tLive from n1, Asked\n:4") {
			t.Errorf("completed to %q", names)
		}
		moving := c.start("cancel", "pod/slow", "-n", "shop", "--reason", "wrong pod")
		m := c.opened(t, "slow")
		controlplane.Eventually(t, "it is asked for", func(ctx context.Context) error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil || m.Annotations[v1alpha1.AnnotationCancel] == "wrong pod" {
				return err
			}
			return fmt.Errorf("annotations %v", m.Annotations)
		})
		c.reach(t, m, "", 0, func(s *v1alpha1.MigrationStatus) { s.Reason, s.Message = v1alpha1.ReasonCanceled, "wrong pod" })
		c.reach(t, m, "", 0, func(s *v1alpha1.MigrationStatus) { s.Result = v1alpha1.ResultWithdrawn })
		out, errs, status := moving.end()
		if status != 0 || errs != "" || !strings.Contains(out, "the migration was withdrawn. Canceled: wrong pod.\n") {
			t.Errorf("exit status %d, %q, and\n%s", status, errs, out)
		}
		expect(t, c.admin, 4, "is closed already: Withdrawn", "cancel", "slow-1", "-n", "shop")
	})
	t.Run("interrupted", func(t *testing.T) {
		c.pod("held", nil)
		moving := c.start("migrate", "held", "-n", "shop")
		m := c.opened(t, "held")
		c.reach(t, m, v1alpha1.PhaseStopping, time.Second, nil)
		expect(t, c.admin, 4, "cannot be given up any more", "cancel", m.Name, "-n", "shop")
		moving.says(t, "Stopping")
		moving.interrupt()
		if out, errs, status := moving.end(); status != 130 || !strings.Contains(errs, "Migration shop/held-1 goes on in the cluster: ") {
			t.Errorf("exit status %d, %q, and\n%s", status, errs, out)
		}
	})
	t.Run("the API goes away", func(t *testing.T) {
		c.pod("patient", nil)
		moving := c.start("migrate", "patient", "-n", "shop")
		m := c.opened(t, "patient")
		c.reach(t, m, v1alpha1.PhaseAccepted, time.Second, nil)
		moving.says(t, "Accepted")
		c.APIServer().Signal(t, syscall.SIGKILL)
		moving.says(t, "The API does not answer")
		c.StartAPIServer()
		// Its kinds are served a moment after it is ready.
		controlplane.Eventually(t, "migrations are served", func(ctx context.Context) error {
			return c.Get(ctx, client.ObjectKeyFromObject(m), m)
		})
		c.reach(t, m, v1alpha1.PhaseReady, 9*time.Second, func(s *v1alpha1.MigrationStatus) { s.Result = v1alpha1.ResultRestored })
		out, errs, status := moving.end()
		if status != 0 || errs != "" || strings.Count(out, "Accepted") != 1 || strings.Count(out, "does not answer") != 1 || !strings.Contains(out, "9.0s  Ready\nPod shop/patient runs with its memory.\n") {
			t.Errorf("exit status %d, %q, and\n%s", status, errs, out)
		}
	})
	t.Run("checkpoint", c.testCheckpoint)
	t.Run("drain", c.testDrain)
	t.Run("lists", c.testLists)
	t.Run("clone", c.testClone)
}

func (c *moves) testCheckpoint(t *testing.T) {
	pod := c.pod("db", nil)
	// Another asker's clock was ahead.
	before := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	checkpoint := &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", Annotations: map[string]string{v1alpha1.AnnotationCheckpointRequested: before.Format(time.RFC3339Nano)}},
		Spec:       v1alpha1.CheckpointSpec{PodUID: pod.UID, NodeName: "n1"},
	}
	c.create(checkpoint)
	checkpoint.Status.Requested = ptr.To(metav1.NewMicroTime(before))
	checkpoint.Status.Generation = 4
	if err := c.Status().Update(t.Context(), checkpoint); err != nil {
		t.Fatal(err)
	}
	expect(t, c.admin, 0, "is asked for (server dry run)", "checkpoint", "db", "-n", "shop", "--dry-run=server")
	moving := c.start("checkpoint", "db", "-n", "shop")
	var asked time.Time
	controlplane.Eventually(t, "a checkpoint is asked for", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(checkpoint), checkpoint); err != nil {
			return err
		}
		var err error
		if asked, err = time.Parse(time.RFC3339Nano, checkpoint.Annotations[v1alpha1.AnnotationCheckpointRequested]); err == nil && !asked.After(before) {
			err = fmt.Errorf("it was asked for at %s, which is not later than %s", asked, before)
		}
		return err
	})
	checkpoint.Status = v1alpha1.CheckpointStatus{
		Generation: 5, Requested: ptr.To(metav1.NewMicroTime(asked)), TakenAt: ptr.To(metav1.NowMicro()), Pause: "27ms", PauseSeconds: 0.027,
		Size: "12Mi", Bytes: 12 << 20, NewBytes: 3 << 20, Holders: []string{"n1", "n2"},
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProtected, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProtected, LastTransitionTime: metav1.Now()}},
	}
	if err := c.Status().Update(t.Context(), checkpoint); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := moving.end(); status != 0 || out != "Generation 5 of pod shop/db is durable: 12Mi, paused for 27ms, held by n1, n2.\n" {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}
	expect(t, c.admin, 5, "No new generation of pod shop/db is durable yet", "checkpoint", "db", "-n", "shop", "--timeout", "500ms")
}

func (c *moves) testDrain(t *testing.T) {
	on := func(p *corev1.Pod) { p.Spec.NodeName = "n3" }
	c.pod("a", on)
	c.pod("b", on)
	c.pod("web", func(p *corev1.Pod) { on(p); p.Annotations = nil })
	c.pod("agent", func(p *corev1.Pod) {
		on(p)
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "agent", UID: "1", Controller: ptr.To(true)}}
	})
	moving := c.start("drain", "n3")
	c.restored(t, "a")
	c.reach(t, c.opened(t, "b"), v1alpha1.PhaseAccepted, 0, func(s *v1alpha1.MigrationStatus) {
		s.Result, s.Reason, s.Message = v1alpha1.ResultWithdrawn, v1alpha1.ReasonNotAllowed, "it has a writable volume"
	})
	out, errs, status := moving.end()
	if status != 4 || errs != "Node n3 still runs 1 protected pod (shop/b). Run the command again, or have it back with: kubectl uncordon n3\n" {
		t.Errorf("exit status %d, %q", status, errs)
	}
	for _, text := range []string{"Node n3 is cordoned\n", `Left to "kubectl drain n3": 1 pod without protection (shop/web).`, "Migration shop/a-1: pod a leaves n3, Live\n", "\na     2.6s  Ready\n", "Pod shop/b stays on n3"} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is not in:\n%s", text, out)
		}
	}
	node, m := &corev1.Node{}, &v1alpha1.Migration{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "n3"}, node); err != nil || !node.Spec.Unschedulable {
		t.Errorf("%v: the node is not cordoned", err)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "a-1"}, m); err != nil || m.Spec.Reason != v1alpha1.MigrationNodeDrained {
		t.Errorf("%v: its reason is %q", err, m.Spec.Reason)
	}
	moving = c.start("drain", "n3")
	c.restored(t, "b")
	if out, errs, status := moving.end(); status != 0 || errs != "" || !strings.HasSuffix(out, "Node n3 has no protected pod any more.\n") {
		t.Errorf("exit status %d, %q, and\n%s", status, errs, out)
	}
	expect(t, c.admin, 0, "Node n3 has no protected pod to move.\n", "drain", "n3")
}

func (c *moves) testLists(t *testing.T) {
	// What the guest may read in one namespace.
	c.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "lifeboat.dev"}, Resources: []string{"pods", "checkpoints", "migrations"}, Verbs: []string{"get", "list", "watch"}},
	}})
	c.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reader"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "guest"}}})
	c.create(&v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, Epoch: 1}})
	c.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.ConfigName},
		Data: map[string]string{v1alpha1.ConfigRecoveries: "paused: rack 4"}})

	status := expect(t, c.admin, 0, "Recoveries are PAUSED: rack 4;", "status", "-A")
	for _, text := range []string{"NAMESPACE   POD ", "n1     Running ", "n3     NoCheckpointer, cordoned ", "shop        db "} {
		if !strings.Contains(status, text) {
			t.Errorf("%q is not in:\n%s", text, status)
		}
	}
	controlplane.Eventually(t, "the guest may read one namespace", func(context.Context) error {
		if out, errs, status := plugin(t, c.guest, "status", "-n", "shop"); status != 0 || !strings.Contains(out, `Not shown: nodes: list: nodes is forbidden`) {
			return fmt.Errorf("exit status %d, %q, %q", status, out, errs)
		}
		return nil
	})
	expect(t, c.guest, 1, "is forbidden", "status", "-A")
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "lister"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"lifeboat.dev"}, Resources: []string{"migrations"}, Verbs: []string{"list"}},
	}}
	c.create(role)
	c.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "lister"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "lister"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "blind"}}})
	controlplane.Eventually(t, "whoever may not watch is told so", func(context.Context) error {
		if out, errs, status := plugin(t, c.Kubeconfig("blind-token"), "migrations", "-w", "-n", "shop"); status != 1 || !strings.Contains(errs, `User "blind" cannot watch resource "migrations"`) {
			return fmt.Errorf("exit status %d, %q, %q", status, out, errs)
		}
		return nil
	})
	expect(t, c.admin, 0, "migration.lifeboat.dev/cart-0-1\n", "migrations", "-n", "shop", "-o", "name")
	expect(t, c.admin, 0, "Live", "migrations", "-A", "-o", "jsonpath={.items[0].spec.strategy}")
	expect(t, c.admin, 0, "db    n1    5 ", "checkpoints", "-n", "shop", "--no-headers")
	expect(t, c.admin, 0, "WHY NOT   NEW ", "checkpoints", "-n", "shop", "-o", "wide")
	if out, errs, status := plugin(t, c.admin, "migrations", "-n", "bank"); status != 0 || out != "" || errs != "No migrations found in namespace bank.\n" {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}

	// Of the pods with a label alone, and as they change.
	carts := c.pod("tagged", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "cart"} })
	watching := c.start("migrations", "-A", "-w", "-l", "app=cart")
	other := v1alpha1.NewMove(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "other", UID: types.UID("o")}}, v1alpha1.Move{Reason: v1alpha1.MigrationRequested}, 1, time.Now())
	c.create(other)
	m := v1alpha1.NewMove(carts, v1alpha1.Move{Reason: v1alpha1.MigrationRequested}, 1, time.Now())
	c.create(m)
	c.reach(t, m, v1alpha1.PhaseAccepted, 0, nil)
	watching.says(t, "Accepted")
	watching.interrupt()
	out, errs, exit := watching.end()
	if exit != 0 || errs != "" || strings.Contains(out, "other") {
		t.Errorf("exit status %d, %q, and\n%s", exit, errs, out)
	}
	for prefix, want := range map[string]string{"--to ": "n1\nn2\nn3\n:4", "--strategy ": "live\tcopy while it runs"} {
		arguments := append([]string{"__complete", "migrate", "-n", "shop", "tagged"}, strings.SplitN(prefix, " ", 2)...)
		if names, _, _ := plugin(t, c.admin, arguments...); !strings.HasPrefix(names, want) {
			t.Errorf("%q is completed to %q", prefix, names)
		}
	}
}
