package plugin

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// server is an API server's Migrations and Fences.
type server struct {
	migrations, fences atomic.Value // func(http.ResponseWriter)
	reads              atomic.Int32
}

func (s *server) handler(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.reads.Add(1)
		switch {
		case strings.HasSuffix(r.URL.Path, "/migrations"):
			s.migrations.Load().(func(http.ResponseWriter))(w)
		case strings.Contains(r.URL.Path, "/fences"):
			s.fences.Load().(func(http.ResponseWriter))(w)
		default:
			t.Errorf("unexpected %s %s", r.Method, r.URL)
		}
	}
}

func has(migrations ...*v1alpha1.Migration) func(http.ResponseWriter) {
	list := v1alpha1.MigrationList{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MigrationList"},
		ListMeta: metav1.ListMeta{ResourceVersion: "100"},
	}
	for _, m := range migrations {
		list.Items = append(list.Items, *m)
	}
	return func(w http.ResponseWriter) { answer(w, http.StatusOK, list) }
}

func refuses(code int, reason metav1.StatusReason) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { answer(w, code, refusal(code, reason)) }
}

func resourceVersion(v string) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { m.ResourceVersion = v }
}

func phase(p v1alpha1.Phase) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { m.Status.Phase = p }
}

// passes says why PreEnqueue holds the pod, "" when it does not.
func passes(t *testing.T, p *Lifeboat, pod *corev1.Pod) string {
	t.Helper()
	return p.PreEnqueue(t.Context(), pod).Message()
}

// waitActivated waits until a pod is brought back.
func waitActivated(t *testing.T, s *scheduler, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for s.takeActivated()[name] == 0 {
		select {
		case <-ctx.Done():
			t.Fatalf("pod %s was not brought back", name)
		case <-time.After(time.Millisecond):
		}
	}
}

// The watch shows nothing, or not yet what counts. What the API server has decides
// what the pod may claim, and nothing is read in a scheduling cycle.
func TestPodIsHeldUntilItsMigrationIsKnown(t *testing.T) {
	ready := phase(v1alpha1.PhaseDeleted)
	m := func(change ...func(*v1alpha1.Migration)) *v1alpha1.Migration {
		return lost("m", "web-1", "ReplicaSet", "rs", change...)
	}
	gone := fence("node-a", "5", v1alpha1.FenceFenced)
	for name, tc := range map[string]struct {
		told  []*v1alpha1.Migration // by the watch
		there func(http.ResponseWriter)
		want  string // what the pod claims in the end
	}{
		"none":                              {nil, has(), ""},
		"kinds not installed":               {nil, refuses(http.StatusNotFound, metav1.StatusReasonNotFound), ""},
		"the watch is behind":               {nil, has(m(resourceVersion("7"), ready)), "m"},
		"another pod's is known":            {[]*v1alpha1.Migration{lost("x", "db-0", "StatefulSet", "ss", resourceVersion("3"), ready)}, has(m(resourceVersion("7"), ready)), "m"},
		"it was held, and is fenced now":    {[]*v1alpha1.Migration{m(resourceVersion("6"), phase(v1alpha1.PhaseDetected))}, has(m(resourceVersion("7"), ready)), "m"},
		"it is held still":                  {[]*v1alpha1.Migration{m(resourceVersion("6"), phase(v1alpha1.PhaseDetected))}, has(m(resourceVersion("6"), phase(v1alpha1.PhaseDetected))), ""},
		"it was deleted, which is not told": {[]*v1alpha1.Migration{m(resourceVersion("6"), phase(v1alpha1.PhaseDetected))}, has(), ""},
		"closed meanwhile":                  {[]*v1alpha1.Migration{m(resourceVersion("6"), phase(v1alpha1.PhaseDetected))}, has(m(resourceVersion("7"), ready, closed)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			api := &server{}
			api.migrations.Store(tc.there)
			api.fences.Store(func(w http.ResponseWriter) { answer(w, http.StatusOK, gone) })
			p, s := against(t, api.handler(t))
			pod := successor("web-2", "ReplicaSet", "rs")
			s.addPod(t, pod)
			for _, told := range tc.told {
				p.migrationChanged(nil, told)
			}
			if why := passes(t, p, pod); why == "" {
				t.Fatal("the pod passes before anybody looked at the API server")
			}
			for why := "held"; why != ""; why = passes(t, p, pod) {
				waitActivated(t, s, "shop/web-2")
			}
			before := api.reads.Load()
			state := newCycle()
			if _, status := p.PreFilter(t.Context(), state, pod, nil); !status.IsSuccess() {
				t.Fatal(status.Message())
			}
			got := ""
			if m := placementOf(state).migration; m != nil {
				got = m.Name
			}
			if got != tc.want {
				t.Errorf("the pod claims %q, want %q", got, tc.want)
			}
			if after := api.reads.Load(); after != before {
				t.Errorf("PreFilter made %d reads", after-before)
			}
			if sorted := p.waiting.get(pod).recovery; sorted != (tc.want != "") {
				t.Errorf("the pod counts as a recovery: %v", sorted)
			}
		})
	}
}

// A source node that runs by what the watch says is looked at, from a moment at
// which its Migration said that it is fenced.
func TestSourceNodeIsLookedAtAnew(t *testing.T) {
	for name, tc := range map[string]struct {
		told   *v1alpha1.Fence
		there  v1alpha1.FenceState
		looked bool
		want   string
	}{
		"told that it is fenced": {fence("node-a", "5", v1alpha1.FenceFenced), v1alpha1.FenceRunning, false, "node is fenced"},
		"the watch is behind":    {fence("node-a", "4", v1alpha1.FenceRunning), v1alpha1.FenceFenced, true, "node is fenced"},
		"it is back":             {fence("node-a", "4", v1alpha1.FenceRunning), v1alpha1.FenceRunning, true, ""},
		"not told of":            {nil, v1alpha1.FenceFenced, true, "node is fenced"},
	} {
		t.Run(name, func(t *testing.T) {
			api := &server{}
			api.migrations.Store(has())
			api.fences.Store(func(w http.ResponseWriter) { answer(w, http.StatusOK, fence("node-a", "5", tc.there)) })
			p, s := against(t, api.handler(t))
			pod := successor("web-2", "ReplicaSet", "rs")
			s.addPod(t, pod)
			if tc.told != nil {
				p.fenceChanged(nil, tc.told)
			}
			// An earlier look, from before the Migration, proves nothing.
			if _, err := p.reads.since(subject{fenceOf, "node-a"}, time.Time{}); err != nil {
				t.Fatal(err)
			}
			m := lost("m", "web-1", "ReplicaSet", "rs", resourceVersion("6"), phase(v1alpha1.PhaseDetected))
			p.migrationChanged(nil, m)
			p.migrationChanged(m, lost("m", "web-1", "ReplicaSet", "rs", resourceVersion("7"), phase(v1alpha1.PhaseDeleted)))
			looked := false
			for why := passes(t, p, pod); why != ""; why = passes(t, p, pod) {
				looked = true
				waitActivated(t, s, "shop/web-2")
			}
			if looked != tc.looked {
				t.Errorf("looked at the node: %v, want %v", looked, tc.looked)
			}
			state := newCycle()
			if _, status := p.PreFilter(t.Context(), state, pod, nil); !status.IsSuccess() {
				t.Fatal(status.Message())
			}
			if got := p.Filter(t.Context(), state, pod, nodeNamed("node-a")).Message(); got != tc.want {
				t.Errorf("Filter says %q of the lost node, want %q", got, tc.want)
			}
		})
	}
}

// While the API server does not answer, a pod waits, and says why; afterwards it
// is brought back without anybody's help.
func TestPodWaitsForTheAPIServer(t *testing.T) {
	api := &server{}
	api.migrations.Store(refuses(http.StatusInternalServerError, metav1.StatusReasonInternalError))
	p, s := against(t, api.handler(t))
	pod := successor("web-2", "ReplicaSet", "rs")
	s.addPod(t, pod)
	passes(t, p, pod)
	waitActivated(t, s, "shop/web-2")
	if why := passes(t, p, pod); !strings.Contains(why, "cannot be read") {
		t.Errorf("held because: %q", why)
	}
	if event := s.event(); !strings.Contains(event, EventHeld) || !strings.Contains(event, "namespace shop cannot be read") {
		t.Errorf("event %q", event)
	}
	if _, status := p.PreFilter(t.Context(), newCycle(), pod, nil); status.IsSuccess() {
		t.Error("PreFilter lets the pod start anew")
	}
	api.migrations.Store(has())
	waitActivated(t, s, "shop/web-2")
	if why := passes(t, p, pod); why != "" {
		t.Errorf("still held because: %q", why)
	}
}

// Many pods share few reads, and those who come while one is under way get the next.
func TestReadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Time
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const takes = 10 * time.Millisecond
		r := newReads(ctx, func(context.Context, subject) error {
			starts = append(starts, time.Now())
			time.Sleep(takes)
			return nil
		}, func(subject) {})
		began := time.Now()
		for range 500 { // a pod each millisecond
			r.since(subject{migrationsOf, "shop"}, time.Now())
			time.Sleep(time.Millisecond)
		}
		last := time.Now()
		r.since(subject{migrationsOf, "shop"}, last)
		time.Sleep(readInterval + takes + time.Millisecond)
		if ok, _ := r.since(subject{migrationsOf, "shop"}, last); !ok || starts[len(starts)-1].Before(last) {
			t.Errorf("the last of the reads began %s after the first pod; the last pod came after %s", starts[len(starts)-1].Sub(began), last.Sub(began))
		}
		if len(starts) > 7 {
			t.Errorf("%d reads for 500 pods in half a second", len(starts))
		}
	})
}

func TestPodsThatAreNotProtectedPass(t *testing.T) {
	p, _ := against(t, unreachable(t))
	for name, annotations := range map[string]map[string]string{
		"none":      nil,
		"opted out": {v1alpha1.AnnotationFailover: "false"},
		"wrong":     {v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: "soon"},
	} {
		pod := successor("web-2", "ReplicaSet", "rs")
		pod.Annotations = annotations
		if why := passes(t, p, pod); why != "" {
			t.Errorf("%s: held because %s", name, why)
		}
		if _, status := p.PreFilter(t.Context(), nil, pod, nil); !status.IsSkip() {
			t.Errorf("%s: status %s, want Skip", name, status.Code())
		}
	}
}

// A Migration that another pod was given just now is not offered again.
func TestReservedMigrationIsLeftOut(t *testing.T) {
	p, _ := against(t, unreachable(t))
	m := lost("m", "web-1", "ReplicaSet", "rs", phase(v1alpha1.PhaseDeleted))
	p.records.putMigration(m, time.Now())
	if !p.claims.reserve(m.UID, "other") {
		t.Fatal("a free Migration was refused")
	}
	pod := successor("web-2", "ReplicaSet", "rs")
	if got := p.matchFree(pod); got != nil {
		t.Errorf("found %v while another pod has it", got)
	}
	p.claims.release("other")
	if got := p.matchFree(pod); got == nil {
		t.Error("found nothing after it was returned")
	}
}
