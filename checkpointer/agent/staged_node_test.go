package agent

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

var shopHooks = map[string]string{
	v1alpha1.AnnotationStateExport: "http 8080/export", v1alpha1.AnnotationStateImport: "http 8080/import",
	v1alpha1.AnnotationPreCheckpoint: "http 8080/hold", v1alpha1.AnnotationPostRestore: "http 8080/go-on",
}

// stagedShop is a shop on node "here" whose state is to be staged, and to be imported by
// one on node "there".
type stagedShop struct {
	*fleet
	m            *v1alpha1.Migration
	source, goal *nodetest.Pod
	old          *nodetest.Container
}

func newStagedShop(t *testing.T, name string, annotations map[string]string) *stagedShop {
	s := &stagedShop{source: nodetest.NewPod(t, "cart-x", "old-"+name), goal: nodetest.NewPod(t, "cart-x", "new-"+name)}
	s.m = planned(v1alpha1.StrategyApplication, accepted)
	s.m.Namespace, s.m.Spec.Pod.UID, s.m.Status.Claim = s.source.Namespace, types.UID(s.source.UID), nil
	s.fleet = newFleet(t, movingPod(s.source, "here", annotations), s.m)
	go func() { _ = s.there.runMoves(t.Context()) }()
	s.here.cfg.Retain.Count, s.there.cfg.Retain.Count = 2, 2
	s.old = s.source.NewContainer(t, s.source.UID, "main", nodetest.Spec{Args: []string{"shop", "old", "empty"}})
	s.old.Start(t)
	s.runs(s.old)
	s.old.Output.WaitFor(t, "ready")
	return s
}

// say makes a request to the shop in a container.
func (s *stagedShop) say(a *Agent, pod *nodetest.Pod, path, body string) error {
	in, err := a.hookContainer(s.t.Context(), movingPod(pod, a.cfg.NodeName, nil), &v1alpha1.Hook{})
	if err == nil {
		var response *http.Response
		if response, err = a.hooks.Do(s.t.Context(), http.MethodPost, &v1alpha1.Hook{Port: 8080, Path: path}, in, strings.NewReader(body)); err == nil {
			err = response.Body.Close()
		}
	}
	return err
}

// succeed plays the owner, the scheduler and the kubelet once the old pod is stopped.
func (s *stagedShop) succeed(room string) {
	s.t.Helper()
	s.check(s.api.Delete(s.t.Context(), movingPod(s.source, "here", nil)))
	s.step(s.m, reached(deleted))
	pod := movingPod(s.goal, "there", shopHooks)
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
		Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Add(-time.Second))}}}}
	s.check(s.api.Create(s.t.Context(), pod))
	s.step(s.m, func(m *v1alpha1.Migration) {
		m.Status.Claim = &v1alpha1.Claim{PodName: s.goal.Name, PodUID: types.UID(s.goal.UID), NodeName: "there"}
	})
	if got := s.there.create(s.t.Context(), client.CreateRequest{Container: client.Container{
		ID: "r", Name: "main", Namespace: s.goal.Namespace, PodName: s.goal.Name, PodUID: s.goal.UID,
	}, Epoch: 1}, nil); got.Refuse != "" || got.Restore || got.Reason != "" {
		s.t.Errorf("the new pod starts as any other: %+v", got)
	}
	if !s.there.awaitsImport(s.t.Context(), pod) {
		if s.check(s.api.Get(s.t.Context(), ctrlclient.ObjectKeyFromObject(s.m), s.m)); !s.m.RestoreCommitted() {
			s.t.Error("a generation is taken of the new pod before it has its state")
		}
	}
	c := s.goal.NewContainer(s.t, s.goal.UID, "main", nodetest.Spec{Args: []string{"shop", "new", room}})
	c.Start(s.t)
	s.runs(c)
}

func told(results []v1alpha1.HookResult) string {
	var told []string
	for _, r := range results {
		told = append(told, fmt.Sprintf("%s %t", r.Name, r.Succeeded))
	}
	return strings.Join(told, ", ")
}

// TestStagedMove: the application's state is exported, kept by two nodes, and imported by a
// pod that is there only when the old one is gone, also from the second of them.
func TestStagedMove(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	state := strings.Repeat("a cart with apples; ", 100000)
	for _, damaged := range []bool{false, true} {
		s := newStagedShop(t, fmt.Sprint(damaged), shopHooks)
		s.check(s.say(s.here, s.source, "/import", state))
		s.step(s.m, reached(stopping))
		s.until(s.m, "the old pod is stopped", func(m *v1alpha1.Migration) bool { return m.SourceStopped() })
		source := s.m.Status.Source
		if told(source.Hooks) != "pre-checkpoint true, state-export true" || source.Checkpoint == nil || len(source.Checkpoint.Holders) != 2 || source.PausedAt == nil {
			t.Fatalf("it is told so: %+v", source)
		}
		nodetest.Eventually(t, 5*time.Second, "the old program has ended", func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/%d/root", s.old.Pid(t)))
			return os.IsNotExist(err)
		})
		if got := s.here.create(t.Context(), client.CreateRequest{Container: client.Container{
			ID: "c2", Name: "main", Namespace: s.source.Namespace, PodName: s.source.Name, PodUID: s.source.UID,
		}, Epoch: 1}, nil); got.Refuse == "" {
			t.Error("kubelet may start the old program again")
		}
		key, number := stateKey(s.m), source.Checkpoint.Generation
		for _, a := range []*Agent{s.here, s.there} {
			s.check(a.store.Verify(t.Context(), key, number))
			if memory, err := a.store.List(keyOf(movingPod(s.source, "here", nil))); err != nil || len(memory) > 0 {
				t.Errorf("a state is among the generations of memory: %v, %v", memory, err)
			}
			s.check(a.retainAll(t.Context()))
			s.check(a.removeOrphans(t.Context(), true))
			s.check(a.store.Complete(t.Context(), key, number))
		}
		if damaged { // where it is to be imported; the source's copy is whole
			spoil(t, s.there.store.Dir())
		}
		s.step(s.m, reached(v1alpha1.PhaseStopped))
		s.succeed("empty")
		s.until(s.m, "it is imported", func(m *v1alpha1.Migration) bool { return m.RestoreCommitted() })
		restore := s.m.Status.Restore
		if told(restore.Hooks) != "state-import true, post-restore true" || len(restore.Containers) > 0 || restore.Attempts > 0 {
			t.Fatalf("it is told so: %+v", restore)
		}
		if held, err := s.here.store.List(keyOf(movingPod(s.goal, "there", nil))); err != nil || len(held) != 1 || held[0].TakenAt.Before(restore.StartedAt.Time) {
			t.Errorf("of the new pod with its state there is no generation elsewhere: %v, %v", held, err)
		}
		if has := restore.Hooks[1].Output; len(has) < 4000 || !strings.HasSuffix(strings.TrimSpace(state), has) {
			t.Errorf("the new pod has another state: %.100q", has)
		}
		// As long as the move is under way, and until it surely is over, the state stays.
		old, err := s.here.store.Seal(t.Context(), key, store.Generation{TakenAt: time.Now().Add(-2 * stateAge)}, t.TempDir(), nil)
		s.check(err)
		s.check(s.here.dropState(t.Context(), key))
		s.check(s.here.store.Complete(t.Context(), key, old.Number))
		s.step(s.m, func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultImported })
		s.check(s.here.retainAll(t.Context()))
		if keys, err := s.here.store.Pods(); err != nil || slices.ContainsFunc(keys, isState) {
			t.Errorf("the move is over, and %v is kept: %v", keys, err)
		}
		if !damaged {
			s.check(s.there.dropState(t.Context(), key))
			s.check(s.there.store.Complete(t.Context(), key, number))
		}
	}
}

// spoil damages every segment in a store's folder.
func spoil(t *testing.T, dir string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "*", "*-state", "segments", "*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no segments to damage: %v", err)
	}
	for _, segment := range segments {
		content, err := os.ReadFile(segment)
		if err == nil {
			content[len(content)-1] ^= 1
			err = os.WriteFile(segment, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestStagedMoveThatCannotBe: until the kill every failure leaves the old pod as it was.
func TestStagedMoveThatCannotBe(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	for name, tc := range map[string]struct {
		annotations map[string]string
		alone       bool // no other node takes a copy
		restarted   bool // an earlier checkpointer ended before the kill
		want, hooks string
	}{
		"not-exported": {annotations: map[string]string{v1alpha1.AnnotationStateExport: "http 8080/nothing"},
			want: "404", hooks: "pre-checkpoint true, state-export false, post-restore true"},
		"restarted":  {restarted: true, want: "was restarted", hooks: "post-restore true"},
		"not-copied": {alone: true, want: "0 of 1 other nodes", hooks: "pre-checkpoint true, state-export true, post-restore true"},
	} {
		annotations := map[string]string{}
		for _, some := range []map[string]string{shopHooks, tc.annotations} {
			for key, value := range some {
				annotations[key] = value
			}
		}
		s := newStagedShop(t, name, annotations)
		if tc.alone {
			s.check(s.api.Delete(t.Context(), &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "there"}}))
		}
		if tc.restarted {
			s.check(s.here.stops.write(stopNote{Migration: ctrlclient.ObjectKeyFromObject(s.m), PodUID: s.source.UID}))
		}
		s.step(s.m, reached(stopping))
		s.until(s.m, "it is told that the pod was not stopped", func(m *v1alpha1.Migration) bool { return m.Status.Source != nil && m.Status.Source.Error != "" })
		if source := s.m.Status.Source; source.StoppedAt != nil || !strings.Contains(source.Error, tc.want) || told(source.Hooks) != tc.hooks {
			t.Errorf("%s: it is told so: %+v", name, source)
		}
		s.check(s.say(s.here, s.source, "/go-on", ""))
		nodetest.Eventually(t, 5*time.Second, "nothing is noted", func() bool { return s.here.stops.of(s.source.UID) == nil })
	}
}

// TestImportThatIsRefused: after the last try what the application said is the end of it.
func TestImportThatIsRefused(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	s := newStagedShop(t, "full", shopHooks)
	s.step(s.m, reached(stopping))
	s.until(s.m, "the old pod is stopped", func(m *v1alpha1.Migration) bool { return m.SourceStopped() })
	s.step(s.m, func(m *v1alpha1.Migration) { // it has been refused often before
		m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: types.UID(s.goal.UID), StartedAt: metav1.NowMicro(), Attempts: importTries - 1}
	})
	s.succeed("full")
	s.until(s.m, "it has failed", func(m *v1alpha1.Migration) bool { return m.RestoreCommitted() })
	if r := s.m.Status.Restore; len(r.Containers) != 1 || r.Containers[0].Reason != v1alpha1.ReasonImportFailed || r.Containers[0].Name != "main" ||
		told(r.Hooks) != "state-import false" || r.Attempts != importTries || !strings.Contains(r.Containers[0].Message, "no room") {
		t.Errorf("it is told so: %+v", r)
	}
}

// TestImportIsNotRepeated: a checkpointer that ended after the application had its state,
// and before that was the last word, has imported it for the next one, too: the application
// has gone on from there.
func TestImportIsNotRepeated(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	s := newStagedShop(t, "again", shopHooks)
	s.step(s.m, reached(stopping))
	s.until(s.m, "the old pod is stopped", func(m *v1alpha1.Migration) bool { return m.SourceStopped() })
	s.step(s.m, func(m *v1alpha1.Migration) {
		m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: types.UID(s.goal.UID), StartedAt: metav1.NowMicro(),
			Hooks: []v1alpha1.HookResult{{Name: hookStateImport, Container: "main", Succeeded: true}}}
	})
	s.succeed("full") // it would refuse
	s.until(s.m, "it is imported", func(m *v1alpha1.Migration) bool { return m.RestoreCommitted() })
	if r := s.m.Status.Restore; told(r.Hooks) != "state-import true" || len(r.Containers) > 0 || r.Attempts > 0 {
		t.Errorf("it is told so: %+v", r)
	}
}

// TestPauseAfter: the pauses between imports that failed grow, but not without end.
func TestPauseAfter(t *testing.T) {
	var all time.Duration
	for failed := range int32(importTries) {
		pause := pauseAfter(failed + 1)
		if pause < importPause || pause > importPauseMost {
			t.Errorf("after %d: %s", failed+1, pause)
		}
		all += pause
	}
	if pauseAfter(1) != importPause || pauseAfter(importTries) != importPauseMost || all > 5*time.Minute {
		t.Errorf("from %s to %s, %s in all", pauseAfter(1), pauseAfter(importTries), all)
	}
}
