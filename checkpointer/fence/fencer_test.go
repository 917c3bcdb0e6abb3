package fence

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence/fencetest"
)

const cgroupRoot = fencetest.CgroupRoot

// quick are shorter terms, with room for a machine that is busy with other tests.
var quick = permission.Terms{Period: time.Second, ReadEvery: 150 * time.Millisecond, Drift: 0.01, Look: 50 * time.Millisecond, Stop: 400 * time.Millisecond, Slack: 50 * time.Millisecond,
	VouchAfter: 300 * time.Millisecond, PromiseFor: 4 * time.Second}

// margin is how long a pod may run on after its permission.
var margin = quick.Look + quick.Stop + quick.Slack

// node is a node with real cgroups and a fencer that can be stopped and started.
type node struct {
	t       *testing.T
	api     *fenceAPI
	folder  string
	bootID  string
	metrics *metrics
}

func newNode(t *testing.T) *node {
	return &node{t: t, api: serveFences(t), folder: t.TempDir(), bootID: thisBoot}
}

// start runs a fencer until the returned function is called, or the test ends.
func (n *node) start() (stop func()) {
	n.metrics = newMetrics(prometheus.NewRegistry())
	fencer, err := newFencer(Config{
		NodeName: "n1", Terms: quick, Folder: n.folder, CgroupRoot: cgroupRoot, BootID: n.bootID,
	}, &rest.Config{Host: n.api.URL}, n.metrics, slog.New(slog.NewTextHandler(n.t.Output(), nil)))
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { fencer.run(ctx); close(ended) }()
	stop = func() { cancel(); <-ended; fencer.enforcer.running.Wait() }
	n.t.Cleanup(stop)
	return stop
}

// runPod starts a pod and registers its container under an epoch.
func (n *node) runPod(epoch int64) *fencetest.Pod {
	n.t.Helper()
	p := fencetest.Start(n.t, epoch)
	p.Register(n.folder)
	return p
}

// eventually waits for a condition.
func (n *node) eventually(what string, condition func() bool) {
	n.t.Helper()
	n.within(10*time.Second, what, condition)
}

func (n *node) within(limit time.Duration, what string, condition func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// always checks a condition for a while.
func (n *node) always(during time.Duration, what string, condition func() bool) {
	n.t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if !condition() {
			n.t.Fatalf("for a moment not: %s", what)
		}
	}
}

func (n *node) state() State {
	var state State
	if _, err := readJSON(filepath.Join(n.folder, StateFile), &state); err != nil {
		n.t.Fatal(err)
	}
	return state
}

func (n *node) permitted() bool { return Now() < n.state().PermittedUntil }

func TestFreezesWithoutPermissionAndThawsWithIt(t *testing.T) {
	n := newNode(t)
	n.start()
	n.eventually("the node made its record", func() bool { return n.api.spec("n1").State == v1alpha1.FenceRunning })
	if got := n.api.spec("n1"); got.Epoch != 1 || got.BootID != thisBoot || got.ChangedAt == nil {
		t.Errorf("the new record is %+v", got)
	}
	n.eventually("the runtime is told", func() bool { return n.permitted() && n.state().Epoch == 1 })
	first := n.runPod(1)
	unprotected := fencetest.Start(t, 1)
	n.always(2*quick.Period, "runs while permitted", func() bool { return !first.Frozen() })

	n.api.setSilent(true)
	n.within(quick.Period+margin, "frozen when the permission has run out", first.Frozen)
	if n.permitted() {
		t.Error("frozen while the published permission lasts")
	}
	second := n.runPod(1)
	n.within(margin, "a pod that starts without permission is frozen", second.Frozen)
	if unprotected.Frozen() {
		t.Error("a pod that is not registered was frozen")
	}

	n.api.setSilent(false)
	n.eventually("both thawed", func() bool { return !first.Frozen() && !second.Frozen() })
	if !n.permitted() {
		t.Error("thawed without permission")
	}
	if got := testutil.ToFloat64(n.metrics.freezes); got != 2 {
		t.Errorf("counted %v freezes, want 2", got)
	}
	if !first.Alive() || !second.Alive() {
		t.Error("a pod ended")
	}
}

func TestRefutesAFalseDeclaration(t *testing.T) {
	n := newNode(t)
	n.start()
	pod := n.runPod(1)
	n.eventually("permitted", func() bool { return n.state().State == v1alpha1.FenceRunning && !pod.Frozen() })
	n.api.set("n1", v1alpha1.FenceLost, 1)
	n.within(quick.Period, "refuted while the permission lasted", func() bool { return n.api.spec("n1").State == v1alpha1.FenceRunning })
	n.always(2*quick.Period, "keeps running", func() bool { return !pod.Frozen() })
	if got := n.api.spec("n1"); got.Epoch != 1 || got.Reason != "" || got.LostAt != nil {
		t.Errorf("the refuted record is %+v", got)
	}
	if got := testutil.ToFloat64(n.metrics.refutations); got != 1 {
		t.Errorf("counted %v refutations, want 1", got)
	}
}

// TestLosesAgainstTheWatcher: the watcher's Fenced comes between the node's
// read of Lost and its refutation.
func TestLosesAgainstTheWatcher(t *testing.T) {
	n := newNode(t)
	n.start()
	n.eventually("permitted", func() bool { return n.state().State == v1alpha1.FenceRunning })
	pod := n.runPod(1)
	raced := false
	n.api.mu.Lock()
	n.api.beforePatch = func(fence *v1alpha1.Fence) {
		if !raced {
			raced = true
			fence.Spec.State, fence.Spec.Epoch = v1alpha1.FenceFenced, 2
			n.api.bump(fence)
		} else if fence.Spec.State == v1alpha1.FenceFenced && pod.Alive() {
			t.Error("the node asked to return while an old copy was alive")
		}
	}
	n.api.mu.Unlock()
	n.api.set("n1", v1alpha1.FenceLost, 1)
	n.eventually("returned", func() bool { return n.api.spec("n1").State == v1alpha1.FenceRunning })
	if !raced || pod.Alive() {
		t.Errorf("raced: %t; the old copy is alive: %t", raced, pod.Alive())
	}
	if got := n.api.spec("n1").Epoch; got != 2 {
		t.Errorf("the epoch is %d, want 2", got)
	}
	if got := testutil.ToFloat64(n.metrics.refutations); got != 0 {
		t.Errorf("counted %v refutations, want 0", got)
	}
}

func TestReturnsFromFencedWithoutOldCopies(t *testing.T) {
	n := newNode(t)
	n.start()
	n.eventually("permitted", func() bool { return n.state().State == v1alpha1.FenceRunning })
	old := n.runPod(1)
	n.api.setSilent(true)
	n.eventually("frozen", old.Frozen)
	n.api.set("n1", v1alpha1.FenceFenced, 2)
	n.api.setSilent(false)
	n.eventually("returned", func() bool { return n.api.spec("n1").State == v1alpha1.FenceRunning })
	if old.Alive() {
		t.Error("the node returned while an old copy was alive")
	}
	if got := testutil.ToFloat64(n.metrics.kills); got != 1 {
		t.Errorf("counted %v kills, want 1", got)
	}
	n.eventually("the runtime is told", func() bool { return n.permitted() && n.state().Epoch == 2 })
	fresh := n.runPod(2)
	n.always(2*quick.Period, "a pod of the new epoch runs", func() bool { return fresh.Alive() && !fresh.Frozen() })
	late := n.runPod(1)
	n.eventually("a pod that was registered late under the old epoch is killed", func() bool { return !late.Alive() })
	if !fresh.Alive() {
		t.Error("the pod of the new epoch was killed too")
	}
}

// TestTheNextFencerGoesOn: a fencer that ends leaves what it froze frozen, and
// the next one thaws that, and only that.
func TestTheNextFencerGoesOn(t *testing.T) {
	n := newNode(t)
	stop := n.start()
	n.eventually("permitted", func() bool { return n.permitted() })
	pod := n.runPod(1)
	foreign := n.runPod(1)
	if err := foreign.Group.Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.api.setSilent(true)
	n.eventually("frozen", pod.Frozen)
	stop()
	if !pod.Frozen() {
		t.Error("the fencer's end thawed a pod")
	}

	n.api.setSilent(false)
	stop = n.start()
	n.eventually("thawed by the next fencer", func() bool { return !pod.Frozen() })
	n.always(2*quick.Period, "what another froze stays frozen", foreign.Frozen)

	stop()
	n.start()
	n.always(2*quick.Period, "a restart within the permission freezes nothing", func() bool { return !pod.Frozen() })
	if got := testutil.ToFloat64(n.metrics.freezes); got != 0 {
		t.Errorf("counted %v freezes, want 0", got)
	}
}

// TestAfterABoot: after a boot the node lets the watcher finish,
// and takes a record over that was never declared.
func TestAfterABoot(t *testing.T) {
	n := newNode(t)
	stop := n.start()
	n.eventually("permitted", n.permitted)
	stop()
	n.bootID = "boot-3"
	n.api.set("n1", v1alpha1.FenceLost, 1)
	n.start()
	n.always(2*quick.Period, "lost and not refuted", func() bool { return n.api.spec("n1").State == v1alpha1.FenceLost })
	n.api.set("n1", v1alpha1.FenceFenced, 2)
	n.eventually("returned", func() bool { return n.api.spec("n1").State == v1alpha1.FenceRunning })
	if got := n.api.spec("n1").BootID; got != "boot-3" {
		t.Errorf("the record names boot %q", got)
	}
}

// TestNeverFreezesMoreThanThePod: a cgroup that is not named after the pod, such
// as the one of all pods, must not be frozen for one of them.
func TestNeverFreezesMoreThanThePod(t *testing.T) {
	tests := map[string]struct{ cgroupsPath, uid, want string }{
		"kubelet with cgroupfs": {"/kubepods/burstable/podaa-bb/c1", "aa-bb", "/kubepods/burstable/podaa-bb"},
		"kubelet with systemd":  {"kubepods-podaa_bb.slice:cri-containerd:c1", "aa-bb", "/kubepods.slice/kubepods-podaa_bb.slice"},
		"under all pods":        {"/kubepods/c1", "aa-bb", "/kubepods/c1"},
		"under the root":        {"/c1", "aa-bb", "/c1"},
		"no pod":                {"/kubepods/c1", "", "/kubepods/c1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			container, err := cgroup.ForPath(cgroupRoot, test.cgroupsPath)
			if err != nil {
				t.Fatal(err)
			}
			if got := podGroup(container, test.uid).Path(); got != test.want {
				t.Errorf("podGroup is %s, want %s", got, test.want)
			}
		})
	}
}

// freePort is a port at which nobody listens.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestBootID(t *testing.T) {
	got, err := BootID("/proc")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len("01234567-89ab-cdef-0123-456789abcdef") {
		t.Errorf("BootID is %q, want a UUID", got)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	newMetrics(registry).reads.WithLabelValues(resultError).Inc()
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}
