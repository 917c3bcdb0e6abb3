package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// Where the moves are when they are broken.
const (
	copied    = "copied"    // live: generations are copied, and the new pod is parked
	told      = "told"      // cold: the hook runs that comes before the stop
	restoring = "restoring" // live: the old pod is stopped, the new one waits for the last generation
	running   = "running"   // live: the new pod runs, and is not Ready yet
)

// peerPort is where checkpointers serve each other.
const peerPort = 7947

// end is how a move ends.
type end struct {
	result v1alpha1.Result
	reason string
}

var goesOn = end{v1alpha1.ResultRestored, ""}

// breakage is what is done to several moves in one moment, each of them in another phase.
type breakage struct {
	name string
	how  func(*testing.T, map[string]*v1alpha1.Migration)
	// want is how each of them ends, and loses those of which what was acknowledged last may
	// be lost, with a node.
	want  map[string]end
	loses []string
}

// The nodes from which, and to which, the moves that are broken go.
const source, target = "n1", "n2"

// TestMoveIsBrokenInEachPhase breaks the moves of four redis from one node, each of them
// in another phase, in one moment. Whatever happens, one copy of each is left, it is the
// same process with what it has acknowledged, and the Migration says what became of it.
func TestMoveIsBrokenInEachPhase(t *testing.T) {
	scene(t, "phases")
	watchersWith(t, "--moves-per-node=8")
	hooks := map[string]string{copied: "", told: "timeout=60s exec sleep 20", restoring: "timeout=60s exec sleep 7", running: ""}
	for _, test := range []breakage{
		{"cancelled, and the watcher is killed", cancelAll, map[string]end{copied: {v1alpha1.ResultWithdrawn, v1alpha1.ReasonCanceled}, told: goesOn, restoring: goesOn, running: goesOn}, nil},
		{"the target is lost", targetLost,
			// Until that shows, the source may have found out that nobody takes a copy.
			map[string]end{copied: {v1alpha1.ResultWithdrawn, v1alpha1.ReasonTargetFailed + " or " + v1alpha1.ReasonSourceFailed}, told: goesOn,
				restoring: {v1alpha1.ResultFailed, v1alpha1.ReasonPodReplaced}, running: {v1alpha1.ResultFailed, v1alpha1.ReasonPodReplaced}},
			[]string{restoring, running}},
		{"the source is lost", sourceLost,
			map[string]end{copied: {v1alpha1.ResultFailed, v1alpha1.ReasonSourceLost}, told: {v1alpha1.ResultFailed, v1alpha1.ReasonSourceLost},
				restoring: goesOn, running: goesOn}, []string{copied, told, restoring}},
	} {
		t.Run(test.name, func(t *testing.T) { breakMoves(t, test, running, hooks, inEachPhase) })
	}
}

func cancelAll(t *testing.T, moves map[string]*v1alpha1.Migration) {
	for _, m := range moves {
		cancelMove(t, m)
	}
	killLeader(t, nil)
}

func targetLost(t *testing.T, _ map[string]*v1alpha1.Migration) { fenced(t, target) }

func sourceLost(t *testing.T, _ map[string]*v1alpha1.Migration) { fenced(t, source) }

// breakMoves begins moves of redis that are used, each with a pre-checkpoint hook or none,
// breaks them when they are where they are to be, and checks what is left. The one that is
// gated is not Ready until they are broken.
func breakMoves(t *testing.T, test breakage, gated string, hooks map[string]string, begin func(*testing.T, map[string]*instance) map[string]*v1alpha1.Migration) {
	namespace := scene(t, "phase")
	loadRedis(t)
	instances := map[string]*instance{}
	open := keepGate(t, namespace, gated)
	placed(t, source, func() {
		for name, hook := range hooks {
			pod := redisNamed(namespace, name)
			if name == gated {
				pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}}
			}
			if hook != "" {
				pod.Annotations[v1alpha1.AnnotationPreCheckpoint] = hook
			}
			create(t, deploymentOf(pod))
		}
		for name := range hooks {
			instances[name] = inUse(t, namespace, name)
		}
	})
	for _, i := range instances {
		checkpoint, err := observe.Durable(deadline(t), api, i.pod, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := observe.Durable(deadline(t), api, i.pod, checkpoint.Status.Generation+1); err != nil {
			t.Fatal(err)
		}
	}
	open.Store(false)
	moves := begin(t, instances)
	test.how(t, moves)
	open.Store(true)
	// The target does not reach the source for longer: it has the last generation from
	// the third node then.
	pass(t, source)
	for name, m := range moves {
		t.Run(name, func(t *testing.T) { checkBroken(t, test, instances[name], m) })
	}
}

// checkBroken says what speaks against the end of a move that was broken.
func checkBroken(t *testing.T, test breakage, i *instance, m *v1alpha1.Migration) {
	was := m.Status.Phase
	closed(t, m)
	if want := test.want[i.name]; m.Status.Result != want.result || !slices.Contains(strings.Split(want.reason, " or "), m.Status.Reason) {
		t.Errorf("in phase %s: the move ended as %s (%s): %s; want %s (%s)", was, m.Status.Result, m.Status.Reason, m.Status.Message, want.result, want.reason)
	}
	last := lastOf(t, i)
	acked, generation := time.Now(), "none"
	if r := last.Status.Restore; last.Status.Result == v1alpha1.ResultRestored && r != nil && r.TakenAt != nil {
		acked, generation = r.TakenAt.Time, fmt.Sprint(r.Generation)
	}
	if !slices.Contains(test.loses, i.name) && last.Status.Result == v1alpha1.ResultRestored && last.Status.RPOSeconds != 0 {
		t.Errorf("%s of what it had acknowledged is lost: %s", last.Status.RPO, last.Status.Message)
	}
	t.Logf("in phase %s: %s %s: %s; in the end %s %s, generation %s, RPO %s", was, m.Status.Result, m.Status.Reason, m.Status.Message,
		last.Name, last.Status.Result, generation, last.Status.RPO)
	now := i.checkOne(t, acked)
	if stays := m.Status.Result == v1alpha1.ResultWithdrawn; stays != (now.UID == i.pod.UID) {
		t.Errorf("pod %s on node %s is left; it was %s on node %s", now.Name, now.Spec.NodeName, i.pod.Name, source)
	}
}

// inEachPhase begins the moves and returns when each of them is in its phase, and stays
// there for some seconds.
func inEachPhase(t *testing.T, instances map[string]*instance) map[string]*v1alpha1.Migration {
	t.Helper()
	moves := map[string]*v1alpha1.Migration{}
	begin := func(name string, strategy v1alpha1.Strategy, node string) {
		m := newMove(t, instances[name].pod, strategy)
		m.Spec.TargetNode = node
		create(t, m)
		moves[name] = m
	}
	t.Cleanup(func() { pass(t, source, target) })
	begin(running, v1alpha1.StrategyLive, target)
	begin(restoring, v1alpha1.StrategyLive, target)
	isRunning(t, moves[running])
	// From here on the source gives nothing to the target, and nobody takes anything from
	// the source, so that what is copied stays where it is.
	prefixes, err := lab.NodePrefixes(source)
	if err != nil {
		t.Fatal(err)
	}
	drop(t, target, prefixes)
	drop(t, source, nil)
	reached(t, moves[restoring], v1alpha1.PhaseStopping)
	begin(copied, v1alpha1.StrategyLive, target)
	begin(told, v1alpha1.StrategyCold, "")
	reached(t, moves[told], v1alpha1.PhaseStopping)
	reached(t, moves[copied], v1alpha1.PhaseParked)
	reached(t, moves[restoring], v1alpha1.PhaseStopped)
	reached(t, moves[restoring], v1alpha1.PhaseRestoring)
	for name, m := range moves {
		if err := api.Get(deadline(t), client.ObjectKeyFromObject(m), m); err != nil {
			t.Fatal(err)
		}
		if !m.Open() || name == copied && m.Reached(v1alpha1.PhaseStopping) || name == told && m.SourceStopped() || m.Reached(v1alpha1.PhaseReady) {
			t.Fatalf("%s has gone on too early: %+v", name, m.Status)
		}
	}
	return moves
}

// drop loses what checkpointers send each other through a node's cable, with the far ends
// only, if any are given.
func drop(t *testing.T, node string, with []netip.Prefix) {
	t.Helper()
	if err := lab.DropTraffic(deadline(t), node, cluster.Drop{With: with, Port: peerPort}); err != nil {
		t.Fatal(err)
	}
}

// pass lets everything pass again; what has no power drops nothing when it has it back.
func pass(t *testing.T, nodes ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	known, err := lab.Nodes()
	if err != nil {
		t.Error(err)
	}
	for _, node := range known {
		for _, name := range nodes {
			if node.Name != name || !node.PoweredOn {
				continue
			}
			if err := lab.DropTraffic(ctx, name); err != nil {
				t.Error(err)
			}
		}
	}
}

// isRunning waits until all containers of the new pod are restored, with their memory.
func isRunning(t *testing.T, m *v1alpha1.Migration) {
	t.Helper()
	err := observe.Until(deadline(t), "the successor of pod "+m.Spec.Pod.Name+" runs", func(ctx context.Context) (bool, string, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(m), m)
		r := m.Status.Restore
		return r != nil && len(r.Containers) == 1 && r.Containers[0].Result == v1alpha1.ResultRestored && !r.Containers[0].Filling,
			fmt.Sprintf("it is in phase %s: %+v", m.Status.Phase, r), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// gate is a condition without which a pod is not Ready.
const gate = "e2e.lifeboat.dev/gate"

// keepGate gives every pod of an instance the condition, as long as what it returns is true.
func keepGate(t *testing.T, namespace, name string) (open *atomic.Bool) {
	t.Helper()
	open = &atomic.Bool{}
	open.Store(true)
	patch := client.RawPatch(types.StrategicMergePatchType, []byte(`{"status":{"conditions":[{"type":"`+gate+`","status":"True"}]}}`))
	go func() {
		for t.Context().Err() == nil {
			var pods corev1.PodList
			if open.Load() && api.List(t.Context(), &pods, client.InNamespace(namespace), client.MatchingLabels{"redis": name}) == nil {
				for i := range pods.Items {
					// What fails is tried again, or not needed any more.
					_ = api.Status().Patch(t.Context(), &pods.Items[i], patch)
				}
			}
			select {
			case <-t.Context().Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	}()
	return open
}

// lastOf waits until no Migration of an instance is open, and returns the newest.
func lastOf(t *testing.T, i *instance) (last *v1alpha1.Migration) {
	t.Helper()
	err := observe.Until(deadline(t), "every migration of "+i.name+" is closed, and its pod Ready", func(ctx context.Context) (bool, string, error) {
		known, err := i.migrations(ctx)
		if err != nil {
			return false, "", err
		}
		var seen []string
		open := false
		last = nil
		for k := range known {
			m := &known[k]
			open = open || m.Open()
			seen = append(seen, fmt.Sprintf("%s %s %s %s", m.Name, m.Spec.Strategy, m.Status.Phase, m.Status.Result))
			if m.Status.Result == v1alpha1.ResultWithdrawn && m.Spec.Strategy == v1alpha1.StrategyFailover {
				continue // the move goes on in its place
			}
			if last == nil || m.Status.Result == v1alpha1.ResultRestored && (last.Status.Result != v1alpha1.ResultRestored || last.CreationTimestamp.Before(&m.CreationTimestamp)) {
				last = m
			}
		}
		if last != nil && last.Status.Result == v1alpha1.ResultFailed {
			open = true // what recovers it is not recorded yet
		}
		return last != nil && !open, strings.Join(seen, "; "), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// fenced cuts a node's power, and waits until it is fenced.
func fenced(t *testing.T, node string) {
	t.Helper()
	powerOff(t, node)
	err := observe.Until(deadline(t), "node "+node+" is fenced", func(ctx context.Context) (bool, string, error) {
		fence := &v1alpha1.Fence{}
		err := api.Get(ctx, types.NamespacedName{Name: node}, fence)
		return fence.Spec.State == v1alpha1.FenceFenced, fmt.Sprint(fence.Spec.State), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// migrations are those of an instance's pods, whatever they were asked for.
func (i *instance) migrations(ctx context.Context) ([]v1alpha1.Migration, error) {
	var known v1alpha1.MigrationList
	if err := api.List(ctx, &known, client.InNamespace(i.pod.Namespace)); err != nil {
		return nil, err
	}
	var its []v1alpha1.Migration
	for _, m := range known.Items {
		if m.Spec.Pod.Name == i.name || strings.HasPrefix(m.Spec.Pod.Name, i.name+"-") {
			its = append(its, m)
		}
	}
	return its, nil
}
