package agent

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

func TestDrafted(t *testing.T) {
	unclaimed := func(m *v1alpha1.Migration) { m.Status.Claim = nil }
	to := func(node string) func(*v1alpha1.Migration) {
		return func(m *v1alpha1.Migration) { m.Spec.TargetNode = node }
	}
	live := v1alpha1.StrategyLive
	for name, tc := range map[string]struct {
		m    *v1alpha1.Migration
		node string
		want bool
	}{
		"it may become the target": {with(planned(live, accepted), unclaimed), "there", true},
		"it is the target":         {planned(live, accepted, stopping), "there", true},
		"another one is":           {planned(live, accepted), "elsewhere", false},
		"it is to be the target":   {with(with(planned(live, accepted), unclaimed), to("there")), "there", true},
		"another one is to be":     {with(with(planned(live, accepted), unclaimed), to("elsewhere")), "there", false},
		"the source":               {with(planned(live, accepted), unclaimed), "here", false},
		"not accepted":             {with(planned(live), unclaimed), "there", false},
		"not live":                 {with(planned(v1alpha1.StrategyWarm, accepted), unclaimed), "there", false},
		"withdrawn":                {with(planned(live, accepted), func(m *v1alpha1.Migration) { m.Status.Reason = v1alpha1.ReasonSourceFailed }), "there", false},
		"over":                     {with(planned(live, accepted), func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultRestored }), "there", false},
		"its processes may be back": {with(planned(live, accepted), func(m *v1alpha1.Migration) {
			m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "successor", CommittedAt: &metav1.MicroTime{}}
		}), "there", false},
	} {
		if got := drafted(tc.m, tc.node); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestDraftIsBroughtUp: a node that holds a copy brings its files into place, brings them up
// to the next generation, and has the last one by what has changed. What nobody takes is
// removed.
func TestDraftIsBroughtUp(t *testing.T) {
	draftFolder = filepath.Join(t.TempDir(), "drafts")
	m := with(planned(v1alpha1.StrategyLive, accepted), func(m *v1alpha1.Migration) { m.Status.Claim = nil })
	w := newWorld(t, []ctrlclient.Object{m}, m)
	w.cfg.NodeName, w.host.ProcRoot = "there", "/proc"
	var err error
	if w.store, err = store.Open(t.TempDir(), storetest.NewKeys(), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	key := store.Key{Namespace: m.Namespace, PodUID: "old"}
	tree := storetest.Tree{"main/images/pages-1.img": string(bytes.Repeat([]byte("0123456789abcdef"), draftLeast/16)), "main/images/core-1.img": "core"}
	seal := func(number int64, change string) {
		t.Helper()
		tree["main/images/core-1.img"] = change
		if _, err := w.store.Seal(t.Context(), key, store.Generation{Number: number, TakenAt: time.Now(), PodName: "cart-x", Containers: []string{"main"}}, tree.Write(t), nil); err != nil {
			t.Fatal(err)
		}
	}
	number := func() (n int64) {
		w.drafts.mu.Lock()
		d := w.drafts.of[m.UID]
		w.drafts.mu.Unlock()
		if d == nil {
			return 0
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.made != nil {
			n = d.made.Number()
		}
		return n
	}
	go w.runDrafts(t.Context())
	for n := int64(1); n <= 2; n++ {
		seal(n, "of generation")
		w.changes.tell()
		nodetest.Eventually(t, 20*time.Second, "the draft is of the newest generation", func() bool { return number() == n })
	}
	seal(3, "the last")
	dir := filepath.Join(t.TempDir(), "restore")
	o, err := w.open(t.Context(), key, candidate{generation: store.Generation{Number: 3}, local: true}, w.drafts.take(m.UID), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	want := storetest.Tree{"main/": "", "main/images/": ""}
	for name, content := range tree {
		want[name] = content
	}
	if diff := cmp.Diff(want, storetest.ReadTree(t, dir)); diff != "" {
		t.Errorf("what is restored (-want +got):\n%.1000s", diff)
	}
	w.changes.tell() // the Migration is still open: no second draft is made
	nodetest.Eventually(t, 20*time.Second, "it is looked at", func() bool { w.changes.mu.Lock(); defer w.changes.mu.Unlock(); return w.changes.next != nil })
	d, fresh := w.drafts.begin(m.UID)
	d.mu.Lock()
	defer d.mu.Unlock()
	if fresh || !d.ended || len(storetest.ReadTree(t, draftFolder)) != 0 {
		t.Errorf("a second draft is begun: %t", fresh)
	}
}
