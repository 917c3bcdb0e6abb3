package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	fakeclientset "k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/checkpointer/hooks"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/identity"
)

func TestMain(m *testing.M) {
	nodetest.Main(m, map[string]func([]string){"counter": func([]string) {
		for n := 1; ; n++ {
			fmt.Println("count", n)
			time.Sleep(2 * time.Millisecond)
		}
	}, "shop": shop, "systemv": nodetest.SystemV})
}

// shop has a state that it hands over and takes over itself.
func shop(args []string) {
	state, held := args[0], false
	http.HandleFunc("POST /hold", func(http.ResponseWriter, *http.Request) { held = true })
	http.HandleFunc("POST /go-on", func(w http.ResponseWriter, _ *http.Request) { held = false; fmt.Fprint(w, state) })
	http.HandleFunc("GET /export", func(w http.ResponseWriter, _ *http.Request) {
		if !held {
			http.Error(w, "it is not held", http.StatusConflict)
			return
		}
		fmt.Fprint(w, state)
	})
	http.HandleFunc("POST /import", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil || args[1] == "full" {
			http.Error(w, "no room", http.StatusInsufficientStorage)
			return
		}
		state = string(raw)
		fmt.Fprintf(w, "%d taken", len(raw))
	})
	var config net.ListenConfig
	config.SetMultipathTCP(false) // as the runtime does
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:8080")
	if err == nil {
		fmt.Println("ready")
		err = http.Serve(listener, nil)
	}
	fmt.Println("error", err)
}

// fleet is two agents, "here" and "there", with stores of their own, on one machine
// with real CRIU and runc. The test plays watcher, kubelet and container runtime.
type fleet struct {
	t           *testing.T
	api         ctrlclient.Client
	here, there *Agent
	mu          sync.Mutex
	containers  map[string][]*cri.Container // by pod UID
}

// playedCRI tells the containers of a pod.
type playedCRI struct {
	cri.RuntimeServiceClient
	f *fleet
}

func (p playedCRI) ListContainers(_ context.Context, req *cri.ListContainersRequest, _ ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	return &cri.ListContainersResponse{Containers: p.f.containers[req.Filter.LabelSelector["io.kubernetes.pod.uid"]]}, nil
}

func newFleet(t *testing.T, objects ...ctrlclient.Object) *fleet {
	f := &fleet{t: t, containers: map[string][]*cri.Container{}}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		f.check(add(scheme))
	}
	f.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Migration{}, &v1alpha1.Checkpoint{}).WithObjects(objects...).Build()
	for _, dir := range []string{stagingFolder, restoreFolder, client.ContainersFolder} {
		f.check(os.MkdirAll(dir, 0o700))
	}
	permission, err := json.Marshal(fence.State{State: v1alpha1.FenceRunning, Epoch: 1, PermittedUntil: fence.Now().Add(time.Hour)})
	f.check(err)
	f.check(os.WriteFile(filepath.Join(client.Folder, fence.StateFile), permission, 0o600))
	authority, err := identity.Ensure(t.Context(), fakeclientset.NewClientset(), "lifeboat-system")
	f.check(err)
	keys := storetest.NewKeys()
	f.here, f.there = f.agent("here", authority, keys), f.agent("there", authority, keys)
	go func() { _ = f.here.runMoves(t.Context()) }()
	return f
}

func (f *fleet) agent(name string, authority *identity.Authority, keys store.KeySource) *Agent {
	dir := filepath.Join(f.t.TempDir(), name)
	a := &Agent{
		cfg: Config{NodeName: name, StoreDir: dir}, log: slog.New(slog.NewTextHandler(f.t.Output(), nil)).With("node", name),
		host: criu.Host{ProcRoot: "/proc", Root: "/"}, schedule: newSchedule(), pods: map[string]*podState{}, movedPods: map[string]bool{},
		restores: map[string]*restore{}, moves: map[types.UID]*move{}, history: newHistory(), api: f.api, cache: cached{objects: f.api},
		recorder: record.NewFakeRecorder(100), runtime: &containers{playedCRI{f: f}},
	}
	a.metrics = newMetrics(a)
	a.hooks = hooks.Caller{Host: a.host, Folder: filepath.Join(dir, "hooks")}
	method, err := track.Probe()
	f.check(err)
	a.engine = criu.NewEngine(a.host, criu.Options{Tracking: method}, a.log)
	a.store, err = store.Open(dir, keys, store.Options{})
	f.check(err)
	a.stops, err = openStops(filepath.Join(dir, stopsFolder))
	f.check(err)
	a.confirmed, err = openConfirmations(filepath.Join(dir, "confirmed.json"))
	f.check(err)
	clientTLS, err := authority.ClientTLS(name)
	f.check(err)
	a.peers = transfer.NewClient(a.store, clientTLS)
	serverTLS, err := authority.ServerTLS(name)
	f.check(err)
	server := grpc.NewServer(append(transfer.ServerOptions(), grpc.Creds(credentials.NewTLS(serverTLS)))...)
	peerv1.RegisterPeerServer(server, transfer.NewServer(a.store, transfer.RefuseMoved(a.isMoved), transfer.WithExport(a.export)))
	listener, err := new(net.ListenConfig).Listen(f.t.Context(), "tcp", "127.0.0.1:0")
	f.check(err)
	go func() { _ = server.Serve(listener) }()
	f.t.Cleanup(func() { a.peers.Close(); server.Stop() })
	f.check(f.api.Create(f.t.Context(), &v1alpha1.Fence{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, Epoch: 1},
		Status: v1alpha1.FenceStatus{Facts: v1alpha1.NodeFacts{PeerAddress: listener.Addr().String()}},
	}))
	return a
}

func (f *fleet) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// runs tells the agents that a container runs.
func (f *fleet) runs(c *nodetest.Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers[c.Pod.UID] = append(f.containers[c.Pod.UID], &cri.Container{Id: c.ID, PodSandboxId: c.Pod.SandboxID, Metadata: &cri.ContainerMetadata{Name: c.Name}})
}

// step plays the watcher: it writes into the Migration's status.
func (f *fleet) step(m *v1alpha1.Migration, change func(*v1alpha1.Migration)) {
	f.t.Helper()
	f.check(f.api.Get(f.t.Context(), ctrlclient.ObjectKeyFromObject(m), m))
	before := m.DeepCopy()
	change(m)
	f.check(f.api.Status().Patch(f.t.Context(), m, ctrlclient.MergeFrom(before)))
	f.here.changes.tell()
	f.there.changes.tell()
}

func reached(phase v1alpha1.Phase) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) {
		m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: phase, At: metav1.NewMicroTime(time.Now())})
	}
}

// until waits until the Migration shows something.
func (f *fleet) until(m *v1alpha1.Migration, what string, shown func(*v1alpha1.Migration) bool) {
	f.t.Helper()
	nodetest.Eventually(f.t, 20*time.Second, what, func() bool {
		f.here.changes.tell() // as an informer does
		f.there.changes.tell()
		f.check(f.api.Get(f.t.Context(), ctrlclient.ObjectKeyFromObject(m), m))
		return shown(m)
	})
}

func movingPod(p *nodetest.Pod, node string, annotations map[string]string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID), Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		Spec:       corev1.PodSpec{NodeName: node, RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName), Containers: []corev1.Container{{Name: "main"}}},
	}
	for key, value := range annotations {
		pod.Annotations[key] = value
	}
	return pod
}

// TestLiveMove moves a running program from one agent to the other, and the way back
// before it is stopped.
func TestLiveMove(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	annotations := map[string]string{
		v1alpha1.AnnotationPreCheckpoint: `exec ["sh", "-c", "echo all is written | tee /tmp/quiet"]`,
		v1alpha1.AnnotationPostRestore:   `exec cat /tmp/quiet`,
	}
	source, goal := nodetest.NewPod(t, "cart-x", "old"), nodetest.NewPod(t, "cart-y", "successor")
	m := with(planned(v1alpha1.StrategyLive), released)
	m.Namespace, m.Status.Claim = source.Namespace, nil
	f := newFleet(t, movingPod(source, "here", annotations), movingPod(goal, "there", annotations), m)
	old := source.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"counter"}})
	old.Start(t)
	f.runs(old)
	old.Output.WaitFor(t, "count ")

	f.step(m, reached(accepted))
	f.until(m, "the pod is prepared", func(m *v1alpha1.Migration) bool { return m.Status.Source != nil && m.Status.Source.PreparedAt != nil })
	f.step(m, func(m *v1alpha1.Migration) {
		m.Status.Claim = &v1alpha1.Claim{PodName: "cart-y", PodUID: "successor", NodeName: "there"}
	})
	next := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"counter"}})
	c := client.Container{ID: next.ID, Name: "main", Namespace: goal.Namespace, PodName: goal.Name, PodUID: goal.UID, SandboxID: goal.SandboxID}
	answer := make(chan client.CreateResponse, 1)
	go func() {
		answer <- f.there.create(t.Context(), client.CreateRequest{Container: c, Bundle: next.Bundle, Epoch: 1}, nil)
	}()
	f.until(m, "the successor waits", parked)
	before := number(t, old.Output.Last("count "))
	nodetest.Eventually(t, 5*time.Second, "the old pod goes on meanwhile", func() bool { return number(t, old.Output.Last("count ")) > before })

	f.step(m, reached(stopping))
	began := time.Now()
	f.until(m, "the pod is stopped", func(m *v1alpha1.Migration) bool { return m.SourceStopped() })
	if hook := m.Status.Source.Hooks; len(hook) != 1 || !hook[0].Succeeded || hook[0].Output != "all is written" {
		t.Errorf("the hook before the stop: %+v", hook)
	}
	nodetest.Eventually(t, 5*time.Second, "the old program has ended", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root", old.Pid(t)))
		return os.IsNotExist(err)
	})
	last := number(t, old.Output.Last("count "))
	if got := f.here.create(t.Context(), client.CreateRequest{Container: client.Container{
		ID: "c2", Name: "main", Namespace: source.Namespace, PodName: source.Name, PodUID: source.UID,
	}, Epoch: 1}, nil); got.Refuse == "" {
		t.Error("kubelet may start the old program again")
	}

	got := <-answer
	if !got.Restore || got.Generation != m.Status.Source.Checkpoint.Generation {
		t.Fatalf("the successor is created so: %+v; generation %d is the last", got, m.Status.Source.Checkpoint.Generation)
	}
	next.SetCRIUConfig(t, got.ConfigPath)
	f.check(next.Runtime("runc", "restore", "--detach", "--bundle", next.Bundle, "--pid-file", next.PidFile(), "--image-path", got.ImagesPath,
		"--work-path", got.WorkPath, "--lazy-pages", "--manage-cgroups-mode", "ignore", next.ID))
	t.Logf("from the order to stop until it runs: %s", time.Since(began))
	registration, err := json.Marshal(client.Registration{Container: c, CgroupsPath: next.CgroupsPath(), Restored: true})
	f.check(err)
	f.check(os.WriteFile(filepath.Join(client.ContainersFolder, next.ID+".json"), registration, 0o600))
	f.there.reported(t.Context(), client.ReportRequest{Container: c, Restored: true})
	next.Output.WaitFor(t, "count ")
	// What was in the output's pipe when it was stopped is not printed anywhere.
	if first := number(t, strings.TrimPrefix(next.Output.Lines()[0], "count ")); first < last || first > last+2 {
		t.Errorf("the count goes on at %d, and ended at %d", first, last)
	}
	f.until(m, "all is told", func(m *v1alpha1.Migration) bool {
		r := m.Status.Restore
		return len(r.Hooks) == 1 && len(r.Containers) == 1 && !r.Containers[0].Filling
	})
	if r := m.Status.Restore; !r.Hooks[0].Succeeded || r.Hooks[0].Output != "all is written" || len(r.Skipped) > 0 ||
		r.Containers[0].Result != v1alpha1.ResultRestored || !r.StartedAt.After(m.Status.Source.StoppedAt.Time) {
		t.Errorf("the restore is told so: %+v", r)
	}
	f.until(m, "the last generation has a copy", func(m *v1alpha1.Migration) bool {
		return f.there.store.Complete(t.Context(), store.Key{Namespace: m.Namespace, PodUID: "old"}, got.Generation) == nil
	})
	f.step(m, reached(deleted))
	f.step(m, func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultRestored })
	f.check(f.api.Delete(t.Context(), movingPod(source, "here", nil)))
	nodetest.Eventually(t, 5*time.Second, "the stop is forgotten", func() bool { return f.here.stops.of("old") == nil })
}

// TestStopThatCannotBe: the pod runs on, and may be started again.
func TestStopThatCannotBe(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "cart-x", "old")
	m := planned(v1alpha1.StrategyWarm)
	m.Namespace, m.Status.Claim = source.Namespace, nil
	f := newFleet(t, movingPod(source, "here", map[string]string{
		v1alpha1.AnnotationPreCheckpoint: `exec echo held`, v1alpha1.AnnotationPostRestore: `exec echo goes on`,
	}), m)
	old := source.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"counter"}})
	old.Start(t)
	f.runs(old)
	old.Output.WaitFor(t, "count ")
	// No other node takes a copy.
	gone := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "there"}}
	f.check(f.api.Delete(t.Context(), gone))
	f.step(m, reached(accepted))
	f.step(m, reached(stopping))
	f.until(m, "it is told that the pod was not stopped", func(m *v1alpha1.Migration) bool { return m.Status.Source != nil && m.Status.Source.Error != "" })
	source1 := m.Status.Source
	if source1.StoppedAt != nil || !strings.Contains(source1.Error, "0 of 1 other nodes") || len(source1.Hooks) != 2 || source1.Hooks[1].Output != "goes on" {
		t.Errorf("it is told so: %+v", source1)
	}
	before := number(t, old.Output.Last("count "))
	nodetest.Eventually(t, 5*time.Second, "the pod runs on", func() bool { return number(t, old.Output.Last("count ")) > before })
	nodetest.Eventually(t, 5*time.Second, "nothing is noted", func() bool { return f.here.stops.of("old") == nil })
	if got := f.here.create(t.Context(), client.CreateRequest{Container: client.Container{
		ID: "c2", Name: "main", Namespace: source.Namespace, PodName: source.Name, PodUID: source.UID,
	}, Epoch: 1}, nil); got.Refuse != "" {
		t.Errorf("its container may not start again: %s", got.Refuse)
	}
}

// TestStopOfEphemeralContainers: what somebody debugs a pod with stops with it for good,
// and goes on with it where the stop cannot be.
func TestStopOfEphemeralContainers(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	for name, copied := range map[string]bool{"stopped": true, "let-go": false} {
		source := nodetest.NewPod(t, "cart-"+name, "old-"+name)
		m := planned(v1alpha1.StrategyWarm, accepted, stopping)
		m.Namespace, m.Name, m.UID, m.Status.Claim = source.Namespace, source.Name+"-2", types.UID("m-"+name), nil
		m.Spec.Pod = v1alpha1.PodIdentity{Name: source.Name, UID: types.UID(source.UID)}
		f := newFleet(t, movingPod(source, "here", nil))
		if !copied {
			f.check(f.api.Delete(t.Context(), &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "there"}}))
		}
		old := source.NewContainer(t, "c-"+name, "main", nodetest.Spec{Args: []string{"counter"}})
		debugger := source.NewContainer(t, "d-"+name, "debugger", nodetest.Spec{Args: []string{"counter"}})
		for _, c := range []*nodetest.Container{old, debugger} {
			c.Start(t)
			f.runs(c)
			c.Output.WaitFor(t, "count ")
		}
		f.check(f.api.Create(t.Context(), m))
		f.until(m, "it is told how the stop ended", func(m *v1alpha1.Migration) bool {
			return m.Status.Source != nil && (m.Status.Source.StoppedAt != nil || m.Status.Source.Error != "")
		})
		if m.SourceStopped() != copied {
			t.Fatalf("%s: %+v", name, m.Status.Source)
		}
		group, err := cgroup.ForPath("/sys/fs/cgroup", debugger.CgroupsPath())
		f.check(err)
		if copied {
			if pids, err := group.Procs(); err != nil || len(pids) > 0 {
				t.Errorf("the pod is stopped, and the debugger's processes are %v: %v", pids, err)
			}
		} else {
			before := number(t, debugger.Output.Last("count "))
			nodetest.Eventually(t, 5*time.Second, "the debugger goes on", func() bool { return number(t, debugger.Output.Last("count ")) > before })
		}
		pod := movingPod(source, "here", nil)
		again := f.here.create(t.Context(), client.CreateRequest{Container: client.Container{
			ID: "e-" + name, Name: "debugger-2", Namespace: pod.Namespace, PodName: pod.Name, PodUID: string(pod.UID),
		}, Epoch: 1}, nil)
		if (again.Refuse != "") != copied {
			t.Errorf("%s: another one is refused: %q", name, again.Refuse)
		}
	}
}

// TestStopGoesOnAfterARestart: an earlier checkpointer has left a pod frozen, and a note.
func TestStopGoesOnAfterARestart(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	for name, committed := range map[string]bool{"before": false, "after": true} {
		source := nodetest.NewPod(t, "cart-"+name, "old-"+name)
		m := planned(v1alpha1.StrategyCold, accepted, stopping)
		m.Namespace, m.Name, m.UID, m.Status.Claim = source.Namespace, source.Name+"-2", types.UID("m-"+name), nil
		m.Spec.Pod = v1alpha1.PodIdentity{Name: source.Name, UID: types.UID(source.UID)}
		f := newFleet(t, movingPod(source, "here", nil))
		old := source.NewContainer(t, "c-"+name, "main", nodetest.Spec{Args: []string{"counter"}})
		old.Start(t)
		old.Output.WaitFor(t, "count ")
		f.runs(old)
		registration, err := json.Marshal(client.Registration{Container: client.Container{ID: old.ID, Name: "main", PodUID: source.UID}, CgroupsPath: old.CgroupsPath()})
		f.check(err)
		f.check(os.WriteFile(filepath.Join(client.ContainersFolder, old.ID+".json"), registration, 0o600))
		group, err := cgroup.ForPath("/sys/fs/cgroup", old.CgroupsPath())
		f.check(err)
		f.check(group.Freeze(t.Context()))
		paused := metav1.NewMicroTime(time.Now().Truncate(time.Microsecond))
		// The agent does not look for moves until there is one: it would forget the note.
		f.here.mu.Lock()
		f.check(f.here.stops.write(stopNote{
			Migration: ctrlclient.ObjectKeyFromObject(m), PodUID: source.UID, Committed: committed, Cgroups: []string{group.Path()},
			Source: v1alpha1.SourceStatus{PausedAt: &paused, Checkpoint: &v1alpha1.HeldCheckpoint{Generation: 5}},
		}))
		f.check(f.here.thawLeftovers(t.Context()))
		if frozen, err := group.Frozen(); err != nil || frozen != committed {
			t.Errorf("%s the commitment, frozen is %t after the start: %v", name, frozen, err)
		}
		f.check(f.api.Create(t.Context(), m))
		f.here.mu.Unlock()
		f.until(m, "it is told how it ended", func(m *v1alpha1.Migration) bool {
			return m.Status.Source != nil && (m.Status.Source.StoppedAt != nil || m.Status.Source.Error != "")
		})
		pids, err := group.Procs()
		f.check(err)
		if told := m.Status.Source; (told.StoppedAt != nil) != committed || (told.Error == "") != committed || (len(pids) == 0) != committed {
			t.Errorf("%s the commitment: %+v, with the processes %v", name, told, pids)
		}
		if told := m.Status.Source; committed && (told.Checkpoint == nil || told.Checkpoint.Generation != 5 || !told.PausedAt.Equal(&paused)) {
			t.Errorf("what was noted is not told: %+v", told)
		}
	}
}

// TestApplicationMove: the application hands its state over itself, or goes on with it.
func TestApplicationMove(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	annotations := map[string]string{
		v1alpha1.AnnotationStateExport: "http 8080/export", v1alpha1.AnnotationStateImport: "http 8080/import",
		v1alpha1.AnnotationPreCheckpoint: "http 8080/hold", v1alpha1.AnnotationPostRestore: "http 8080/go-on",
	}
	state := strings.Repeat("a cart with apples; ", 100000)
	for _, room := range []string{"empty", "full"} {
		source, goal := nodetest.NewPod(t, "cart-x", "old-"+room), nodetest.NewPod(t, "cart-y", "new-"+room)
		m := planned(v1alpha1.StrategyApplication, accepted)
		m.Namespace, m.Spec.Pod.UID = source.Namespace, types.UID(source.UID)
		m.Status.Claim = &v1alpha1.Claim{PodName: goal.Name, PodUID: types.UID(goal.UID), NodeName: "there"}
		f := newFleet(t, movingPod(source, "here", annotations), movingPod(goal, "there", annotations), m)
		go func() { _ = f.there.runMoves(t.Context()) }()
		for pod, args := range map[*nodetest.Pod][]string{source: {"shop", "old", "empty"}, goal: {"shop", "new", room}} {
			c := pod.NewContainer(t, pod.UID, "main", nodetest.Spec{Args: args})
			c.Start(t)
			f.runs(c)
			c.Output.WaitFor(t, "ready")
		}
		in, err := f.here.hookContainer(t.Context(), movingPod(source, "here", nil), &v1alpha1.Hook{})
		f.check(err)
		response, err := f.here.hooks.Do(t.Context(), http.MethodPost, &v1alpha1.Hook{Port: 8080, Path: "/import"}, in, strings.NewReader(state))
		f.check(err)
		f.check(response.Body.Close())

		if got := f.there.create(t.Context(), client.CreateRequest{Container: client.Container{
			ID: "r", Name: "main", Namespace: goal.Namespace, PodName: goal.Name, PodUID: goal.UID,
		}, Epoch: 1}, nil); got.Refuse != "" || got.Restore || got.Reason != "" {
			t.Errorf("the new pod starts as any other: %+v", got)
		}
		if m.Status.Restore != nil {
			t.Error("the state is imported before the new pod is ready")
		}
		f.step(m, reached(ready))
		f.until(m, "it is told how the import ended", func(m *v1alpha1.Migration) bool { return m.Status.Restore != nil && len(m.Status.Restore.Hooks) > 0 })
		results := m.Status.Restore.Hooks
		want := "state-export true, state-import true, post-restore true"
		if room == "full" {
			want = "state-export true, state-import false"
		}
		var got []string
		for _, r := range results {
			got = append(got, fmt.Sprintf("%s %t", r.Name, r.Succeeded))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("the hooks ended so: %+v", results)
		}
		if room == "empty" {
			if r := results[len(results)-1]; r.Output != strings.TrimSpace(state)[len(strings.TrimSpace(state))-len(r.Output):] || len(r.Output) < 4000 {
				t.Errorf("the new pod has another state: %.100q", r.Output)
			}
			continue
		}
		f.step(m, func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultWithdrawn })
		f.until(m, "the old one goes on", func(m *v1alpha1.Migration) bool {
			hooks := m.Status.Source.Hooks
			return len(hooks) == 2 && hooks[0].Name == hookPreCheckpoint && hooks[1].Name == hookPostRestore && hooks[1].Succeeded
		})
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
