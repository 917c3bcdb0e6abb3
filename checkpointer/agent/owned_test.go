package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
)

// TestMayNotRun: a container is created only under the node's present epoch, and
// only while the node may run it.
func TestMayNotRun(t *testing.T) {
	const now = fence.Instant(1000)
	running := fence.State{State: v1alpha1.FenceRunning, Epoch: 3, PermittedUntil: now + 1}
	for name, tc := range map[string]struct {
		epoch   int64
		change  func(*fence.State)
		unknown bool
		refused bool
	}{
		"permitted":                          {epoch: 3},
		"begun before the node was fenced":   {epoch: 2, refused: true},
		"begun before the fence was known":   {epoch: 0, refused: true},
		"the fence is not known yet":         {epoch: 0, unknown: true, refused: true},
		"the permission is out":              {epoch: 3, change: func(s *fence.State) { s.PermittedUntil = now }, refused: true},
		"the node is fenced, old copies die": {epoch: 3, change: func(s *fence.State) { s.State = v1alpha1.FenceFenced }, refused: true},
		"the node is declared lost":          {epoch: 3, change: func(s *fence.State) { s.State = v1alpha1.FenceLost }, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			state := running
			if tc.change != nil {
				tc.change(&state)
			}
			if why := mayNotRun(tc.epoch, state, !tc.unknown, now); (why != "") != tc.refused {
				t.Errorf("the reason is %q", why)
			}
		})
	}
}

// world is what an agent on node "here" sees: an API that can fall silent, and a
// cache that stays as it was.
type world struct {
	*Agent
	silent atomic.Bool
	api    ctrlclient.Client
}

// cached is a cache with the objects that it was filled with.
type cached struct {
	cache.Cache
	objects ctrlclient.Reader
}

func (c cached) Get(ctx context.Context, key ctrlclient.ObjectKey, into ctrlclient.Object, options ...ctrlclient.GetOption) error {
	return c.objects.Get(ctx, key, into, options...)
}

func (c cached) List(ctx context.Context, into ctrlclient.ObjectList, options ...ctrlclient.ListOption) error {
	return c.objects.List(ctx, into, options...)
}

func newWorld(t *testing.T, inCache []ctrlclient.Object, inAPI ...ctrlclient.Object) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{}
	down := errors.New("connection refused")
	w.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Migration{}).WithObjects(inAPI...).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c ctrlclient.WithWatch, key ctrlclient.ObjectKey, into ctrlclient.Object, options ...ctrlclient.GetOption) error {
			if w.silent.Load() {
				return down
			}
			return c.Get(ctx, key, into, options...)
		},
		List: func(ctx context.Context, c ctrlclient.WithWatch, into ctrlclient.ObjectList, options ...ctrlclient.ListOption) error {
			if w.silent.Load() {
				return down
			}
			return c.List(ctx, into, options...)
		},
	}).Build()
	confirmed, err := openConfirmations(filepath.Join(t.TempDir(), "confirmed.json"))
	if err != nil {
		t.Fatal(err)
	}
	w.Agent = &Agent{
		cfg: Config{NodeName: "here"}, log: slog.New(slog.NewTextHandler(t.Output(), nil)), confirmed: confirmed,
		api: w.api, cache: cached{objects: fake.NewClientBuilder().WithScheme(scheme).WithObjects(inCache...).Build()},
	}
	return w
}

func podOn(node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0", UID: "successor"},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

var cart = client.Container{Namespace: "shop", PodName: "cart-0", PodUID: "successor", Name: "main"}

// TestOwnedWhileTheAPIIsDown: peers may vouch for the node for as long as that
// lasts. So a pod that was moved away must not come back by a kubelet that did not
// hear of it, while a container that ends may start again.
func TestOwnedWhileTheAPIIsDown(t *testing.T) { synctest.Test(t, ownedWhileTheAPIIsDown) }

func ownedWhileTheAPIIsDown(t *testing.T) {
	w := newWorld(t, nil, podOn("here"))
	w.silent.Store(true)
	if _, why := w.owned(t.Context(), cart, 3); why == "" {
		t.Error("a container starts though nobody has said that its pod is this node's")
	}
	// It is asked again, and the container need not come a second time.
	time.AfterFunc(askPatience/2, func() { w.silent.Store(false) })
	if pod, why := w.owned(t.Context(), cart, 3); why != "" || pod == nil {
		t.Fatalf("the node's own pod is refused: %s", why)
	}
	w.silent.Store(true)
	if _, why := w.owned(t.Context(), cart, 3); why != "" {
		t.Errorf("a container of the node's own pod cannot start again: %s", why)
	}
	if _, why := w.owned(t.Context(), cart, 4); why == "" {
		t.Error("the node was fenced since, and the pod is still taken for its own")
	}
	// The next agent goes on with that.
	again, err := openConfirmations(w.confirmed.path)
	if err != nil || !again.has("successor", 3) {
		t.Errorf("after a restart of the agent it is forgotten: %v", err)
	}
	if err := again.keep(func(string) bool { return false }); err != nil || again.has("successor", 3) {
		t.Errorf("a pod that has left is not forgotten: %v", err)
	}
}

// TestClaimed: the API decides, not the cache, and what cannot be asked is not restored.
func TestClaimed(t *testing.T) {
	claim := func(change func(*v1alpha1.Migration)) *v1alpha1.Migration {
		m := step("cart-0-2", "old", 2, v1alpha1.PhaseScheduled)
		m.Namespace = "shop"
		m.Status.Claim = &v1alpha1.Claim{PodUID: "successor", NodeName: "here"}
		if change != nil {
			change(&m)
		}
		return &m
	}
	source := func(epoch int64) *v1alpha1.Fence {
		return &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "lost"}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceFenced, Epoch: epoch}}
	}
	closed := claim(func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultColdStarted })
	away := claim(func(m *v1alpha1.Migration) {
		m.Name, m.Spec.Pod.UID, m.Spec.Epoch = "cart-0-3", types.UID("successor"), 3
		m.Status.Claim = nil
	})
	for name, tc := range map[string]struct {
		cache, api []ctrlclient.Object
		silent     bool
		found      bool
		refused    bool
	}{
		"claimed":                                 {cache: []ctrlclient.Object{source(4)}, api: []ctrlclient.Object{claim(nil)}, found: true},
		"the cache has not heard of the fencing":  {cache: []ctrlclient.Object{source(3)}, api: []ctrlclient.Object{claim(nil), source(4)}, found: true},
		"the cache has not heard of its end":      {cache: []ctrlclient.Object{claim(nil), source(4)}, api: []ctrlclient.Object{closed}},
		"not fenced":                              {cache: []ctrlclient.Object{source(3)}, api: []ctrlclient.Object{claim(nil), source(3)}, refused: true},
		"lost itself, and moved on":               {cache: []ctrlclient.Object{source(4)}, api: []ctrlclient.Object{claim(nil), away}, refused: true},
		"claimed, and the API is down":            {cache: []ctrlclient.Object{claim(nil), source(4)}, api: []ctrlclient.Object{claim(nil)}, silent: true, refused: true},
		"nothing to restore, and the API is down": {cache: []ctrlclient.Object{closed}, silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tc.cache, tc.api...)
				w.silent.Store(tc.silent)
				m, why := w.claimed(t.Context(), cart, nil)
				if (m != nil) != tc.found || (why != "") != tc.refused {
					t.Errorf("found: %t, refused: %q", m != nil, why)
				}
			})
		})
	}
}

func TestDisowns(t *testing.T) {
	pod := func(uid types.UID, node string, annotations map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Annotations: annotations}, Spec: corev1.PodSpec{NodeName: node}}
	}
	for name, tc := range map[string]struct {
		pod    *corev1.Pod
		exists bool
		want   bool
	}{
		"the node's own":        {pod("uid", "here", nil), true, false},
		"deleted":               {pod("", "", nil), false, true},
		"replaced elsewhere":    {pod("other", "there", nil), true, true},
		"replaced on the node":  {pod("other", "here", nil), true, true},
		"a static pod's mirror": {pod("other", "here", map[string]string{corev1.MirrorPodAnnotationKey: "x"}), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			if why := disowns(tc.pod, tc.exists, "uid", "here"); (why != "") != tc.want {
				t.Errorf("disowns says %q", why)
			}
		})
	}
}
